package web

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"time"
)

//go:embed client.js
var client []byte

var clientTag = func() string {
	sum := sha256.Sum256(client)
	return `"` + base64.RawURLEncoding.EncodeToString(sum[:16]) + `"`
}()

// Client answers GET and HEAD with the pages' client, an ES module, or with 304
// to who has it. Browsers keep it and ask each time whether it is still the same,
// so that a page and its gateway are of one release.
func Client(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", clientTag)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	r.Header.Del("Range") // it is small, and in parts it would be large
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(client))
}
