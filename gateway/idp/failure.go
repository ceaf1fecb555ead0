package idp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/cloakroom/cloakroom/gateway/strictjson"
)

var (
	errOversize = errors.New("answer is too large")
	errCutOff   = errors.New("answer was cut off")
	errOver     = errors.New("request is over")
)

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

// unavailable makes ErrUnavailable of a request that failed. That this process is
// out of files can be told from it: it is no fault of the provider's.
func unavailable(ctx context.Context, op operation, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, ctx.Err())
	}
	for _, own := range []error{syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, own) {
			return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, own)
		}
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

// oauthError returns the error code of an OAuth error answer (RFC 6749 section
// 5.2), "" if the answer is none. It is fit for a log line: all codes that there are
// consist of such letters, and no token that a provider might quote there does.
func oauthError(body []byte) string {
	o, err := strictjson.Parse(body)
	if err != nil {
		return ""
	}
	code, _ := o.String("error")
	if len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return "unprintable"
	}
	return code
}
