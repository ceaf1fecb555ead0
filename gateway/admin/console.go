package admin

import (
	"bytes"
	"embed"
	"net/http"
	"path"
	"time"
)

//go:embed console
var consoleFiles embed.FS

// consoleTypes are the console's files by the end of their names. Each is served
// under its own name, the page as "/".
var consoleTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// consolePolicy lets the page load its own three files and ask this listener.
// Trusted types are for who would change the script: no text ever becomes markup.
const consolePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// consolePages are the handlers of the console, by path. None asks for the token:
// there is no data in them. They ask for the Host as the API does, so that no
// stranger's name ever stands in the address bar where the token is typed in.
func consolePages(api *API) map[string]http.HandlerFunc {
	files, err := consoleFiles.ReadDir("console")
	if err != nil {
		panic("admin: internal error: " + err.Error()) // unreachable
	}
	pages := map[string]http.HandlerFunc{}
	for _, file := range files {
		body, err := consoleFiles.ReadFile("console/" + file.Name())
		if err != nil {
			panic("admin: internal error: " + err.Error()) // unreachable
		}
		target, kind := "/"+file.Name(), consoleTypes[path.Ext(file.Name())]
		if target == "/index.html" {
			target = "/"
		}
		pages[target] = func(w http.ResponseWriter, r *http.Request) {
			if !api.ownHost(r) {
				unknownHost.write(w)
				return
			}
			h := w.Header()
			h.Set("Content-Type", kind)
			h.Set("Content-Security-Policy", consolePolicy)
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
			h.Set("Cross-Origin-Resource-Policy", "same-origin")
			h.Set("Referrer-Policy", "no-referrer")
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
		}
	}
	return pages
}
