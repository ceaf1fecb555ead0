package proxy

import (
	"net/http"

	"github.com/cloakroom/cloakroom/gateway/upstream"
)

// incoming passes an upstream's header on to h, beside what is there.
func (x *exchange) incoming(h http.Header, fields []upstream.Field) {
	filter := &x.proxy.filter
	var connection []string
	for i := range fields {
		if fields[i].Name == "Connection" {
			connection = append(connection, fields[i].Value)
		}
	}
	hop := fieldNames(connection)
	values := make([]string, len(fields))
	for i := range fields {
		f := &fields[i]
		if hopByHop(f.Name) || hop[f.Name] || !filter.response(f.Name, f.Value) {
			continue
		}
		if lines, ok := h[f.Name]; ok {
			h[f.Name] = append(lines, f.Value)
			continue
		}
		values[i] = f.Value
		h[f.Name] = values[i : i+1 : i+1]
	}
}

// hopByHop reports whether an answer's header is between the upstream and the
// gateway.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// announce passes on which trailers will come, and returns how many will.
func (x *exchange) announce(h http.Header, names []string) (n int) {
	for _, name := range names {
		// Whether a Set-Cookie passes is its value's to say.
		if name = http.CanonicalHeaderKey(name); name != "" && name != "Set-Cookie" && !hopByHop(name) && x.proxy.filter.response(name, "") {
			h["Trailer"] = append(h["Trailer"], name)
			n++
		}
	}
	return n
}

// trailers passes on those that came. Those that were not announced go by
// another name to net/http.
func (x *exchange) trailers(fields []upstream.Field) {
	if len(fields) == 0 {
		return
	}
	h := x.w.Header()
	announced := fieldNames(h["Trailer"])
	x.dirty = true
	x.Flush() // or net/http may find that there was no need for chunks
	for i := range fields {
		f := &fields[i]
		if hopByHop(f.Name) || !x.proxy.filter.response(f.Name, f.Value) {
			continue
		}
		name := f.Name
		if !announced[name] {
			name = http.TrailerPrefix + name
		}
		h[name] = append(h[name], f.Value)
	}
}
