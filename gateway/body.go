package gateway

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"time"
)

// bodyTimeout bounds how long a caller may take to send a body that the gateway
// reads itself.
const bodyTimeout = 10 * time.Second

// readBody reads a body of a media type, up to limit bytes. Its error is a
// [problem].
func readBody(w *response, r *http.Request, mediaType string, limit int64) ([]byte, error) {
	said := r.Header["Content-Type"] // twice, it has two readings
	if len(said) != 1 {
		return nil, invalid("Content-Type must be sent once, and be " + mediaType)
	}
	if t, _, err := mime.ParseMediaType(said[0]); err != nil || t != mediaType {
		return nil, invalid("Content-Type must be " + mediaType)
	}
	// Not every connection has deadlines; those of a server have.
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		w.unread = false // what is left of it has had its time
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, &problem{code: codeTooLarge, err: err}
		}
		return nil, &problem{code: codeInvalidRequest, detail: "the body broke off", err: err}
	}
	_ = c.SetReadDeadline(time.Time{})
	return body, nil
}
