// Command cloakroom is the session gateway.
//
//	cloakroom serve            run it
//	cloakroom check            judge a configuration as serve would
//	cloakroom keys new         draw a server key, or one that signs tokens
//	cloakroom sessions list    tell a subject's sessions; also show, end, unlock
//	cloakroom version          tell the version
//
// It exits with 0 if all is well, 1 if something failed, and 2 if it was misused.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"github.com/cloakroom/cloakroom/config"
)

const (
	exitFailed  = 1
	exitMisused = 2
)

type cli struct {
	Serve    serveCmd    `cmd:"" help:"Run the gateway until it is told to stop (SIGTERM, SIGINT)."`
	Check    checkCmd    `cmd:"" help:"Judge a configuration exactly as serve would, and start nothing."`
	Keys     keysCmd     `cmd:"" help:"Server keys, and keys that sign tokens."`
	Sessions sessionsCmd `cmd:"" help:"People's sessions, through a running gateway's admin listener."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

// configFlag names the configuration file.
type configFlag struct {
	Config string `help:"The configuration file." placeholder:"FILE" required:"" env:"CLOAKROOM_CONFIG"`
}

func (f configFlag) load() (*config.Config, error) { return config.Load(f.Config, os.LookupEnv) }

func main() {
	parser := kong.Must(&cli{},
		kong.Name("cloakroom"),
		kong.Description("A session gateway: tokens stay behind the counter, the browser holds a ticket."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	ctx, err := parser.Parse(sidsLast(os.Args[1:]))
	if err != nil {
		fmt.Fprintf(os.Stderr, "cloakroom: %v\nTry: cloakroom --help\n", err)
		os.Exit(exitMisused)
	}
	if err := ctx.Run(); err != nil {
		complain(err)
		os.Exit(exitFailed)
	}
}

// errReported is a failure whose report is what the command has printed.
var errReported = errors.New("failed")

func complain(err error) {
	if problems, ok := errors.AsType[*config.Error](err); ok {
		fmt.Fprintln(os.Stderr, problems) // each line starts with the file's name
	} else if !errors.Is(err, errReported) {
		fmt.Fprintf(os.Stderr, "cloakroom: %v\n", err)
	}
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Printf("cloakroom %s (%s)\n", buildVersion(), runtime.Version())
	return nil
}

// version is set by releases: -ldflags "-X main.version=v1.2.3".
var version string

// buildVersion is the release's version or, without one, what the go command
// knows of the source.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
