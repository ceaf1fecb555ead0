package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cloakroom/cloakroom/gateway/mint"
	"github.com/cloakroom/cloakroom/session"
)

type keysCmd struct {
	New keysNewCmd `cmd:"" help:"Draw a server key and print it as one line of base64url; with --signing, a signing key in PEM."`
}

type keysNewCmd struct {
	Signing *string `help:"Draw a key that signs minted tokens instead: ES256, EdDSA or RS256." placeholder:"ALG"`
}

func (c keysNewCmd) Validate() error {
	if c.Signing != nil && !slices.Contains([]string{mint.ES256, mint.EdDSA, mint.RS256}, *c.Signing) {
		return errors.New("--signing must be ES256, EdDSA or RS256")
	}
	return nil
}

func (c keysNewCmd) Run() error {
	if c.Signing == nil {
		_, err := fmt.Println(session.NewServerKey().Encode())
		return err
	}
	pem, err := mint.NewSigningKeyPEM(*c.Signing)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(pem)
	return err
}
