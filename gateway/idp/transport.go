package idp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
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
		DialContext:         dialWatched,
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

// isJSON reports whether the answer says that it is JSON (RFC 8259, RFC 6839).
func (a answer) isJSON() bool {
	t, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	return err == nil && (t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json"))
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
