package admin

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/cloakroom/cloakroom/session"
)

// code names a refusal. Codes are part of the public interface.
type code string

const (
	codeUnauthorized       code = "unauthorized"
	codeUnknownHost        code = "unknown_host"
	codeCrossOriginBlocked code = "cross_origin_blocked"
	codeNotFound           code = "not_found"
	codeNoSession          code = "no_session"
	codeNoApp              code = "no_app"
	codeMethodNotAllowed   code = "method_not_allowed"
	codeMediaType          code = "unsupported_media_type"
	codeTooLarge           code = "too_large"
	codeInvalidRequest     code = "invalid_request"
	codeStoreUnavailable   code = "store_unavailable"
	codeInternal           code = "internal"
)

var codes = map[code]struct {
	status int
	title  string
}{
	codeUnauthorized:       {http.StatusUnauthorized, "The token is missing or wrong."},
	codeUnknownHost:        {http.StatusMisdirectedRequest, "This host is not served here."},
	codeCrossOriginBlocked: {http.StatusForbidden, "The request came from another site."},
	codeNotFound:           {http.StatusNotFound, "There is nothing here."},
	codeNoSession:          {http.StatusNotFound, "There is no such session."},
	codeNoApp:              {http.StatusNotFound, "There is no such app."},
	codeMethodNotAllowed:   {http.StatusMethodNotAllowed, "This can't be done here."},
	codeMediaType:          {http.StatusUnsupportedMediaType, "The request is not JSON."},
	codeTooLarge:           {http.StatusRequestEntityTooLarge, "The request is too large."},
	codeInvalidRequest:     {http.StatusBadRequest, "The request could not be understood."},
	codeStoreUnavailable:   {http.StatusServiceUnavailable, "The store can't be reached. Some of it may be done: ask again."},
	codeInternal:           {http.StatusInternalServerError, "Something went wrong."},
}

// problem is an error together with its answer. The caller sees fixed text of
// ours; err is for the log alone.
type problem struct {
	code       code
	detail     string
	retryAfter time.Duration // with 503
	err        error
}

func (p *problem) Error() string { return string(p.code) + ": " + p.detail }

func (p *problem) status() int { return codes[p.code].status }

var unknownHost = &problem{code: codeUnknownHost, detail: "the Host is not this listener's address"}

func invalid(detail string) error { return &problem{code: codeInvalidRequest, detail: detail} }

// explain finds the problem in an error: the one place where errors become
// answers.
func explain(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &problem{code: codeTooLarge}
	}
	if errors.Is(err, session.ErrNoSession) {
		return &problem{code: codeNoSession}
	}
	if u, ok := errors.AsType[*session.UnavailableError](err); ok {
		return &problem{code: codeStoreUnavailable, retryAfter: max(u.RetryAfter, time.Second), err: err}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &problem{code: codeStoreUnavailable, retryAfter: time.Second, err: err}
	}
	return &problem{code: codeInternal, err: err}
}

func (p *problem) write(w http.ResponseWriter) {
	retry := int(math.Ceil(p.retryAfter.Seconds()))
	if retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(retry))
	}
	writeJSON(w, p.status(), "application/problem+json", struct {
		Type       string `json:"type"`
		Title      string `json:"title"`
		Status     int    `json:"status"`
		Code       code   `json:"code"`
		Detail     string `json:"detail,omitempty"`
		RetryAfter int    `json:"retry_after,omitempty"`
	}{"urn:cloakroom:" + string(p.code), codes[p.code].title, p.status(), p.code, p.detail, retry})
}

func writeJSON(w http.ResponseWriter, status int, kind string, v any) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}
