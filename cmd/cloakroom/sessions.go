package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/cloakroom/cloakroom/session"
)

type sessionsCmd struct {
	List   sessionsListCmd   `cmd:"" help:"List a subject's live sessions."`
	Show   sessionsShowCmd   `cmd:"" help:"Show one session, live or ended."`
	End    sessionsEndCmd    `cmd:"" help:"End one session, all of a subject's, or all of an app's."`
	Unlock sessionsUnlockCmd `cmd:"" help:"Let a locked subject log in again. What has ended stays dead."`
}

// seen is a session as the admin API shows it.
type seen struct {
	SID       string    `json:"sid"`
	App       string    `json:"app"`
	Subject   string    `json:"sub,omitempty"`
	Address   string    `json:"address,omitempty"`
	Browser   string    `json:"browser,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	SeenAt    time.Time `json:"seen_at,omitzero"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Ended     bool      `json:"ended"`
	Reason    string    `json:"reason,omitempty"`
	Locked    bool      `json:"locked,omitempty"`
}

type sessionsListCmd struct {
	adminFlags
	Sub string `help:"The subject, as the provider names it." placeholder:"SUBJECT" required:""`
	App string `help:"Of this app alone." placeholder:"NAME"`
}

func (c sessionsListCmd) Validate() error { return c.misused() }

func (c sessionsListCmd) Run() error {
	query := url.Values{"sub": {c.Sub}}
	if c.App != "" {
		query.Set("app", c.App)
	}
	var answer struct {
		Sessions []seen `json:"sessions"`
	}
	if err := c.get("/admin/sessions?"+query.Encode(), &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(answer)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "SID\tAPP\tCREATED\tSEEN\tEXPIRES\tADDRESS\tBROWSER")
	for _, s := range answer.Sessions {
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(s.SID, 22), cell(s.App, 32), moment(s.CreatedAt), moment(s.SeenAt), moment(s.ExpiresAt), cell(s.Address, 45), cell(s.Browser, 48))
	}
	return out.Flush()
}

type sessionsShowCmd struct {
	adminFlags
	SID string `arg:"" name:"sid" help:"The session's id."`
}

func (c sessionsShowCmd) Validate() error { return cmp.Or(c.misused(), validSID(c.SID)) }

func (c sessionsShowCmd) Run() error {
	var answer struct {
		Sessions []seen `json:"sessions"`
	}
	if err := c.get("/admin/sessions?"+url.Values{"sid": {c.SID}}.Encode(), &answer); err != nil {
		return err
	}
	if len(answer.Sessions) != 1 {
		return errors.New("the answer holds no session")
	}
	s := answer.Sessions[0]
	if c.JSON {
		return printJSON(s)
	}
	state := "live"
	if s.Ended {
		state = "ended: " + cell(s.Reason, 32)
	}
	if s.Locked {
		state += ", locked"
	}
	for _, line := range [][2]string{
		{"sid", cell(s.SID, 22)}, {"app", cell(s.App, 32)}, {"state", state}, {"subject", cell(s.Subject, 256)},
		{"created", moment(s.CreatedAt)}, {"seen", moment(s.SeenAt)}, {"expires", moment(s.ExpiresAt)},
		{"address", cell(s.Address, 45)}, {"browser", cell(s.Browser, 512)},
	} {
		if line[1] != "" {
			fmt.Printf("%-8s %s\n", line[0], line[1])
		}
	}
	return nil
}

// order is what the admin API is told to end or to unlock.
type order struct {
	SID    string `json:"sid,omitempty"`
	Sub    string `json:"sub,omitempty"`
	App    string `json:"app,omitempty"`
	Reason string `json:"reason,omitempty"`
	Locked bool   `json:"locked,omitempty"`
	Until  string `json:"until,omitempty"`
}

type sessionsEndCmd struct {
	adminFlags
	SID    string    `arg:"" name:"sid" optional:"" help:"The session's id."`
	Sub    string    `help:"All of this subject's, at one app." placeholder:"SUBJECT"`
	App    string    `help:"The subject's app; with --all, everybody's sessions there." placeholder:"NAME"`
	All    bool      `help:"All sessions of --app."`
	Lock   bool      `help:"And let the subject not log in again, until --until or sessions unlock. With an id, nothing but that session says so."`
	Until  time.Time `help:"When the lock ends, such as 2026-01-02T15:04:05Z." placeholder:"TIME"`
	Reason string    `help:"Why, for the audit log; the browser is told \"revoked\"." placeholder:"TEXT"`
}

func (c sessionsEndCmd) Validate() error {
	switch {
	case c.Lock && c.All:
		return errors.New("--lock is for a subject or a session: an app can't be locked")
	case !c.Until.IsZero() && !c.Lock:
		return errors.New("--until says when a lock ends: it needs --lock")
	case c.All && (c.SID != "" || c.Sub != "" || c.App == ""):
		return errors.New("--all goes with --app, and with nothing else")
	case c.All:
		return c.misused()
	}
	if c.SID == "" && (c.Sub == "" || c.App == "") {
		return errors.New("name a session's id, or --sub and --app, or --app and --all")
	}
	return cmp.Or(c.misused(), oneOf(c.SID, c.Sub, c.App))
}

func (c sessionsEndCmd) Run() error {
	o := order{SID: c.SID, Sub: c.Sub, App: c.App, Reason: c.Reason, Locked: c.Lock}
	if !c.Until.IsZero() {
		o.Until = c.Until.Format(time.RFC3339Nano)
	}
	var answer struct {
		Ended *int `json:"ended,omitempty"`
		All   bool `json:"all,omitempty"`
	}
	if err := c.post("/admin/sessions/end", o, &answer); err != nil {
		return err
	}
	switch {
	case c.JSON:
		return printJSON(answer)
	case answer.All:
		fmt.Printf("all sessions of %s have ended\n", c.App)
	case answer.Ended != nil && *answer.Ended == 1:
		fmt.Println("1 session ended")
	case answer.Ended != nil:
		fmt.Printf("%d sessions ended\n", *answer.Ended)
	default:
		return errors.New("the answer says nothing")
	}
	return nil
}

type sessionsUnlockCmd struct {
	adminFlags
	SID    string `arg:"" name:"sid" optional:"" help:"The id of a session that was locked by itself."`
	Sub    string `help:"The subject." placeholder:"SUBJECT"`
	App    string `help:"The subject's app." placeholder:"NAME"`
	Reason string `help:"Why, for the audit log." placeholder:"TEXT"`
}

func (c sessionsUnlockCmd) Validate() error {
	return cmp.Or(c.misused(), oneOf(c.SID, c.Sub, c.App))
}

func (c sessionsUnlockCmd) Run() error {
	var answer struct {
		Unlocked bool `json:"unlocked"`
	}
	if err := c.post("/admin/sessions/unlock", order{SID: c.SID, Sub: c.Sub, App: c.App, Reason: c.Reason}, &answer); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(answer)
	}
	fmt.Println("unlocked")
	return nil
}

// oneOf wants either a session's id or a subject and its app.
func oneOf(sid, sub, app string) error {
	switch {
	case sid != "" && (sub != "" || app != ""):
		return errors.New("a session's id stands alone, without --sub and --app")
	case sid != "":
		return validSID(sid)
	case sub == "" || app == "":
		return errors.New("name a session's id, or --sub and --app")
	}
	return nil
}

func validSID(sid string) error {
	if _, err := session.ParseSID(sid); err != nil {
		return errors.New("a session's id is 22 characters of base64url")
	}
	return nil
}

// sidsLast puts a session's id that begins with a hyphen, as one in 64 does,
// behind a --, where it isn't taken for flags.
func sidsLast(args []string) []string {
	if len(args) == 0 || args[0] != "sessions" || slices.Contains(args, "--") {
		return args
	}
	var first, last []string
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") && validSID(arg) == nil {
			last = append(last, arg)
		} else {
			first = append(first, arg)
		}
	}
	if last == nil {
		return args
	}
	return append(append(first, "--"), last...)
}

// cell is a text from outside that may stand in a terminal: a browser's name is
// whatever the browser says, and must not move the cursor.
func cell(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return s
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
