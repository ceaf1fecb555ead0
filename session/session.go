package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"
)

// AccessToken, RefreshToken and IDToken are credentials from the identity
// provider. They print as "[redacted]"; whatever the verb; only string(t)
// reveals them.
type (
	AccessToken  string
	RefreshToken string
	IDToken      string
)

func (AccessToken) String() string              { return redacted }
func (AccessToken) Format(f fmt.State, _ rune)  { io.WriteString(f, redacted) }
func (AccessToken) LogValue() slog.Value        { return slog.StringValue(redacted) }
func (RefreshToken) String() string             { return redacted }
func (RefreshToken) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }
func (RefreshToken) LogValue() slog.Value       { return slog.StringValue(redacted) }
func (IDToken) String() string                  { return redacted }
func (IDToken) Format(f fmt.State, _ rune)      { io.WriteString(f, redacted) }
func (IDToken) LogValue() slog.Value            { return slog.StringValue(redacted) }

// encoding/json asks for no Stringer.
func (AccessToken) MarshalText() ([]byte, error)  { return []byte(redacted), nil }
func (RefreshToken) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (IDToken) MarshalText() ([]byte, error)      { return []byte(redacted), nil }

// Tokens is the provider's token set.
type Tokens struct {
	Access    AccessToken
	TokenType string    // as the provider spells it; "Bearer"
	Scope     string    // empty where the provider named none
	IssuedAt  time.Time // when the set arrived, by this gateway's clock: the last check
	ExpiresAt time.Time // when the access token runs out
	Refresh   RefreshToken
	// RefreshExpiresAt is when the refresh token dies; zero where the provider
	// doesn't tell.
	RefreshExpiresAt time.Time
	ID               IDToken
}

// Login is what a person's login yields: the contents of a new session.
type Login struct {
	Tokens          Tokens
	Issuer          string
	Subject         string
	ProviderSession string    // the ID token's sid claim, if any
	AuthTime        time.Time // zero where the provider doesn't tell
	IssuedAt        time.Time // the ID token's iat
	Remember        bool      // the person asked to be remembered
	Claims          []byte    // JSON object: the ID token's claims and userinfo's
	Address         string    // the browser's address, for the list of sessions
	Browser         string    // the browser's User-Agent, likewise
}

// Session is an opened session. It is shared between requests: read only.
type Session struct {
	SID             SID
	Generation      uint64
	Tokens          Tokens
	Issuer          string
	Subject         string
	ProviderSession string
	AuthTime        time.Time
	Claims          []byte // JSON object
	CreatedAt       time.Time
	ExpiresAt       time.Time // the absolute end
	Remembered      bool      // its cookie outlives the browser's own session

	refreshKept bool     // the provider's last answer brought no new refresh token
	unknown     sections // of the box: what this code doesn't know
}

// A session prints as its SID: what it holds includes the sealed box's plain text.
func (s Session) Format(f fmt.State, _ rune) { io.WriteString(f, "session "+s.SID.String()) }
func (s Session) LogValue() slog.Value       { return slog.StringValue(s.SID.String()) }

// Opened is one request's view of a session.
type Opened struct {
	*Session
	// IdleExpiresAt is when the session ends unless it is used.
	IdleExpiresAt time.Time
	// Now is the time by which the session was judged: Redis's.
	Now time.Time
	// Successor is the next ticket if, and only if, it is this request's
	// answer that has to carry it. Ask [Keeper.MayHandOut] when the final
	// response header is written, and send it then or never.
	Successor *Handout
	// LocalKey is what the page has to keep from now on, if it has to be told.
	LocalKey *LocalKey
}

// Handout is a successor on its way to the browser.
type Handout struct {
	Ticket Ticket
	until  time.Time // this process's clock
}

// Need says what a request wants of its session.
type Need struct {
	// Activity lets the request count against the idle timeout.
	Activity bool
	// Token asks for a live access token, which may take a refresh.
	Token bool
	// MinTTL is how long the access token shall at least live; Open caps it at
	// half the token's life.
	MinTTL time.Duration
	// NoRefresh keeps the request from refreshing anything: a token that is of no
	// use any more is [ErrTokenExpired].
	NoRefresh bool
	// Cookie says that the answer can carry a Set-Cookie: an upgrade's can't.
	Cookie bool
	// Local lets the request of a split session get another token, with the local
	// key that it showed.
	Local    bool
	LocalKey *LocalKey // nil: it showed none
	// Received is when the request arrived; zero means now. A verdict of reuse
	// that comes more than 2 s later ends nothing.
	Received time.Time
}

// App is one application's session policy. It travels with each call, so that
// a reload of the configuration needs no new Keeper.
type App struct {
	Name            string
	IdleTimeout     time.Duration
	AbsoluteTimeout time.Duration
	Remember        time.Duration // both timeouts of a remembered session; 0: none is
	MaxPerUser      int           // 0: any number
	Grace           time.Duration // rotation_grace
	CacheTTL        time.Duration // 0: every request asks Redis

	// SplitKey gives new sessions two halves: see [LocalKey].
	SplitKey bool

	// Revalidate is how often the refresh token is checked where the access token
	// is not the provider's: so that a person who is out there is out here. A
	// session without one gets a new ticket that often. 0: the access token is the
	// provider's, and its life decides.
	Revalidate time.Duration

	// RefreshReuse is how long the provider tolerates a refresh token's second
	// use; 0: not at all.
	RefreshReuse time.Duration
	// UnknownAnswerEnds ends a session whose refresh had no readable answer,
	// instead of presenting the token once more: for providers that treat
	// reuse as an incident.
	UnknownAnswerEnds bool

	// RefreshRate is how many refresh tokens a second all replicas together present
	// at most, after a second's worth at once; 0: as many as need be. What waits
	// longer than a request does is an [UnavailableError].
	RefreshRate int

	// Refresh trades a refresh token for new tokens.
	Refresh RefreshFunc
	// Revoke hands tokens that nobody will use back to the provider, once and
	// as well as it can (RFC 7009).
	Revoke func(context.Context, RefreshToken)
}

// RefreshFunc presents a refresh token at the provider. It calls sending when
// the connection is open and before the token's first byte leaves; if sending
// returns an error, nothing may be sent. It must not present the token twice.
type RefreshFunc func(ctx context.Context, s *Session, sending func() error) Refreshed

// Outcome says what became of a presented refresh token.
type Outcome uint8

const (
	// OutcomeUnknown: a reset, a timeout, an unreadable or unexpected answer.
	// The zero value, since it is the one that presumes nothing.
	OutcomeUnknown Outcome = iota
	// OutcomeNotSent: nothing of the token left this process.
	OutcomeNotSent
	// OutcomeUnspent: the provider said, in a complete answer, that it did not
	// process the token now.
	OutcomeUnspent
	// OutcomeSpent: new tokens.
	OutcomeSpent
	// OutcomeRejected: invalid_grant.
	OutcomeRejected
	// OutcomeForeign: new tokens, for another subject.
	OutcomeForeign
)

var outcomeNames = [...]string{"unknown", "not_sent", "unspent", "spent", "rejected", "foreign_subject"}

func (o Outcome) String() string { return outcomeNames[o] }

// Refreshed is the provider's answer to a refresh.
type Refreshed struct {
	Outcome Outcome
	// Tokens, for OutcomeSpent and OutcomeForeign. Refresh is empty where the
	// provider gave no new one.
	Tokens Tokens
	// Claims replaces the session's claims; nil keeps them.
	Claims []byte
	// RetryAfter is what the provider asked for; zero if nothing.
	RetryAfter time.Duration
	// Misconfigured marks an OutcomeUnspent that only the operator can mend,
	// such as invalid_client.
	Misconfigured bool
	// Local marks an OutcomeNotSent that is this replica's own fault, such as no
	// file to open a connection with: no other replica backs off for it.
	Local bool
	// Err is for the log. It holds no token.
	Err error
}

// ErrNoSession means that the ticket opens nothing here: no record, another
// app's, or a secret that isn't the session's. The browser has to log in; its
// cookie is left alone.
var ErrNoSession = errors.New("session: no session")

// ErrTooLarge means that a login has brought more, in tokens and claims, than a
// session can hold.
var ErrTooLarge = errors.New("session: too large to be kept")

// EndedError means that the session is over. The browser has to log in; its
// cookie is left alone.
type EndedError struct {
	Reason Reason
	// Locked: the account is locked, so that a new login will not help.
	Locked bool
}

func (e *EndedError) Error() string { return "session: ended: " + string(e.Reason) }

// UnavailableError means that the session is intact and can't be served now.
type UnavailableError struct {
	// Provider tells the identity provider's trouble from the store's.
	Provider   bool
	RetryAfter time.Duration
	Err        error
}

func (e *UnavailableError) Error() string {
	part := "store"
	if e.Provider {
		part = "provider"
	}
	return fmt.Sprintf("session: %s unavailable: %v", part, e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }
