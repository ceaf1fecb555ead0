package idp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxAnswer is far above any real answer: a provider that sends more is
	// broken or hostile.
	maxAnswer = 1 << 20
	// maxToken bounds one token. Longer ones could not travel in a header
	// anywhere, and they would weigh on each session.
	maxToken = 64 << 10
)

// NewTransport returns a transport for requests to providers. Connections that
// several providers share are shared by giving them one transport.
func NewTransport() *http.Transport {
	// HTTP/1.1 alone: requests are few, and a connection that breaks then
	// leaves one refresh unanswered, not all that were under way on it.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 5 * time.Second,
		// Shorter than the usual servers' patience (5 s at the least), so that
		// it is us who close idle connections: a refresh token that meets a
		// connection just being closed has an unknown fate.
		IdleConnTimeout:        4 * time.Second,
		MaxIdleConnsPerHost:    16,
		MaxConnsPerHost:        64,
		MaxResponseHeaderBytes: 64 << 10,
		// No transparent gzip: a limit on what is read stays a limit on what
		// is unpacked.
		DisableCompression: true,
		Protocols:          protocols,
	}
}

// answer is a complete HTTP answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// getJSON fetches a document. bearer may be empty. Any status but 200 is an
// error: ErrUnavailable or ErrRejected.
func (p *Provider) getJSON(ctx context.Context, op operation, target string, bearer AccessToken, limit int64) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w: endpoint is not a URL", op, ErrRejected) // unreachable: endpoints are checked
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+string(bearer))
	}
	a, err := p.roundTrip(op, req, limit)
	if err != nil {
		return answer{}, unavailable(ctx, op, err)
	}
	if a.status != http.StatusOK {
		return answer{}, statusError(op, a)
	}
	return a, nil
}

// postForm sends a form to the provider, with the client's credentials. It
// sends it once: another attempt is made only where a kept-alive connection
// turned out to be dead before the body was asked for.
//
// sending, if there is one, is called when the connection is open and before
// the body's first byte leaves, at most once; its error keeps the body here.
// left reports whether any of the body may have left this process, whatever
// err is. refused is sending's error.
func (p *Provider) postForm(ctx context.Context, op operation, target string, form url.Values, sending func() error) (a answer, left bool, refused, err error) {
	if p.cfg.ClientAuth == ClientSecretPost {
		form.Set("client_id", p.cfg.ClientID)
		form.Set("client_secret", string(p.cfg.ClientSecret))
	}
	encoded := form.Encode()
	for attempt := 0; ; attempt++ {
		var reused atomic.Bool
		traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			GotConn: func(c httptrace.GotConnInfo) { reused.Store(c.Reused) },
		})
		req, err := http.NewRequestWithContext(traced, http.MethodPost, target, nil)
		if err != nil {
			return answer{}, false, nil, err // unreachable: endpoints are checked
		}
		body := &onceBody{ctx: ctx, rest: encoded, sending: sending}
		// No GetBody: net/http repeats a request by itself only with one, or
		// where it never read the body.
		req.Body, req.ContentLength = body, int64(len(encoded))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if p.cfg.ClientAuth == ClientSecretBasic {
			req.SetBasicAuth(url.QueryEscape(p.cfg.ClientID), url.QueryEscape(string(p.cfg.ClientSecret)))
		}
		a, err := p.roundTrip(op, req, maxAnswer)
		asked, left, refused := body.seal()
		if err != nil && !asked && attempt == 0 && reused.Load() && ctx.Err() == nil {
			continue
		}
		return a, left, refused, err
	}
}

// roundTrip performs one request and reads its answer. Errors are for
// describe; they may hold text of the answer.
func (p *Provider) roundTrip(op operation, req *http.Request, limit int64) (answer, error) {
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "cloakroom")
	start := time.Now()
	a, err := p.read(req, limit)
	p.cfg.Metrics.observe(op, outcome(a, err), time.Since(start))
	return a, err
}

func (p *Provider) read(req *http.Request, limit int64) (answer, error) {
	// The transport itself, not an http.Client: no redirects, no jar, and no
	// URL in its errors.
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", errCutOff, err)
	}
	if int64(len(body)) > limit {
		return answer{}, errOversize
	}
	return answer{resp.StatusCode, resp.Header, body}, nil
}

var (
	errOversize = errors.New("answer is too large")
	errCutOff   = errors.New("answer was cut off")
	errSealed   = errors.New("request is over")
)

// onceBody is a request body that exists once and says when it leaves.
type onceBody struct {
	ctx     context.Context
	sending func() error

	mu      sync.Mutex // guards the rest, and is held while sending runs
	rest    string
	asked   bool  // a Read came, and sending was called if there is one
	left    bool  // bytes have been given to the transport
	refused error // sending's
	err     error // what Read answers from now on
}

func (b *onceBody) Read(buf []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || len(buf) == 0 {
		return 0, b.err
	}
	if !b.asked {
		// Too late already: don't set a latch for nothing.
		if b.err = b.ctx.Err(); b.err != nil {
			return 0, b.err
		}
		b.asked = true
		if b.sending != nil {
			if b.refused = b.sending(); b.refused != nil {
				b.err = b.refused
				return 0, b.err
			}
		}
		// sending may have taken its time. Nothing has left yet, so better
		// nothing leaves than a token whose answer nobody waits for.
		if b.err = b.ctx.Err(); b.err != nil {
			return 0, b.err
		}
	}
	n := copy(buf, b.rest)
	b.rest = b.rest[n:]
	if n == 0 {
		b.err = io.EOF
		return 0, io.EOF
	}
	b.left = true
	return n, nil
}

// Close is the transport's. It may come from another goroutine than Read.
func (b *onceBody) Close() error {
	b.seal()
	return nil
}

// seal waits for a Read under way, then ends all reading: what it returns stays
// true. A transport may give up on a request while its body is being read.
func (b *onceBody) seal() (asked, left bool, refused error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = errSealed
	}
	return b.asked, b.left, b.refused
}

// endpoint parses a URL that requests or browsers will be sent to. It must be
// https; with loopback, http to a loopback host will do.
func endpoint(raw string, loopback bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("must be an absolute URL")
	case u.User != nil || u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, errors.New("must have neither user name nor fragment")
	case u.Scheme == "https":
		return u, nil
	case u.Scheme == "http" && loopback && isLoopback(u.Hostname()):
		return u, nil
	}
	return nil, errors.New("must be https")
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// outcome is the metric's label.
func outcome(a answer, err error) string {
	var op *net.OpError
	switch {
	case err == nil && a.status == http.StatusTooManyRequests:
		return "throttled"
	case err == nil && a.status >= 500:
		return "server_error"
	case err == nil && a.status >= 400:
		return "client_error"
	case err == nil && a.status >= 300:
		return "redirect"
	case err == nil:
		return "ok"
	case errors.Is(err, errOversize):
		return "oversize"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case isTimeout(err):
		return "timeout"
	case errors.As(err, &op) && op.Op == "dial", isTLS(err):
		return "unreachable"
	}
	return "broken"
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

func isTLS(err error) bool {
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	return errors.As(err, &cert) || errors.As(err, &record) || errors.As(err, &alert)
}

// describe says what went wrong with a request. net/http quotes what it can't
// parse, so that only texts known to be ours or the system's are repeated.
func describe(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, errOversize):
		return errOversize.Error()
	case errors.Is(err, context.Canceled):
		return "canceled"
	case isTimeout(err):
		return "timeout"
	case isTLS(err):
		return "tls: " + tlsReason(err)
	case errors.As(err, &op):
		return op.Error() // addresses and the system's error
	case errors.Is(err, errCutOff):
		return errCutOff.Error()
	}
	return "connection broken, or not HTTP"
}

func tlsReason(err error) string {
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return cert.Error()
	}
	var alert tls.AlertError
	if errors.As(err, &alert) {
		return alert.Error()
	}
	return "the server doesn't speak TLS"
}

// unavailable makes ErrUnavailable of a request that failed.
func unavailable(ctx context.Context, op operation, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, ctx.Err())
	}
	return fmt.Errorf("%s: %w: %s", op, ErrUnavailable, describe(err))
}

// ended makes ErrUnavailable of a wait that the caller's context ended.
func ended(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
}

// statusError judges an answer with an unexpected status.
func statusError(op operation, a answer) error {
	kind := ErrRejected
	if a.status >= 500 || a.status == http.StatusTooManyRequests {
		kind = ErrUnavailable
	}
	if code := oauthError(a.body); code != "" {
		return fmt.Errorf("%s: %w: status %d, error %s", op, kind, a.status, code)
	}
	return fmt.Errorf("%s: %w: status %d", op, kind, a.status)
}
