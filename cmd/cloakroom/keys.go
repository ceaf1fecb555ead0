package main

import (
	"fmt"

	"github.com/cloakroom/cloakroom/session"
)

type keysCmd struct {
	New keysNewCmd `cmd:"" help:"Draw a server key and print it as one line of base64url."`
}

type keysNewCmd struct{}

func (keysNewCmd) Run() error {
	_, err := fmt.Println(session.NewServerKey().Encode())
	return err
}
