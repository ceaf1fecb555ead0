package proxy

import (
	"net/http"
	"strings"
)

// outgoing collects the header of the upstream's request: as lines, or in a
// map if there is one.
type outgoing struct {
	lines  []byte
	fields http.Header
}

func (o *outgoing) add(name, value string) { o.addTwo(name, "", value) }

// addTwo adds a field whose value comes in two parts.
func (o *outgoing) addTwo(name, first, second string) {
	if o.fields != nil {
		o.fields[name] = append(o.fields[name], first+second)
		return
	}
	o.lines = append(o.lines, name...)
	o.lines = append(o.lines, ": "...)
	o.lines = append(o.lines, first...)
	o.lines = append(o.lines, second...)
	o.lines = append(o.lines, "\r\n"...)
}

// path is what the upstream is asked for.
func (x *exchange) path() string {
	path := x.call.Path
	if x.proxy.cfg.StripPrefix != "" {
		path = StripPrefix(path, x.proxy.cfg.StripPrefix)
	}
	return x.proxy.base + path
}

// header writes the fields of the upstream's request, but for those of its
// framing. Strip first, then set: what the client may say, and then what the
// gateway says.
func (x *exchange) header(out *outgoing) {
	in, filter := x.in, &x.proxy.filter
	tp := x.call.Traceparent
	if tp == "" {
		tp = Traceparent(in.Header)
	}
	got := in.Header["Traceparent"]
	sameTrace := len(got) == 1 && got[0] == tp
	hop := fieldNames(in.Header["Connection"])
	var buf foldBuffer
	for name, lines := range in.Header {
		switch name {
		case "Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Content-Type", "Referer", "Origin", "Priority", "Cookie",
			"Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "If-None-Match", "Range":
			// Nobody believes these, unless they are named below.
		case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
			"Content-Length", "Host", "Expect", "Traceparent":
			continue
		case "Tracestate":
			if !sameTrace {
				continue // it belongs to a trace that ends here
			}
		default:
			if folded := foldHeader(&buf, name); ours(folded) || believed(folded) || x.call.FixedMethod && renames(folded) {
				continue
			}
		}
		if x.names(name) || hop[name] {
			continue
		}
		for _, line := range lines {
			if name == "Cookie" {
				if line = stripCookieLine(line, filter.own); line == "" {
					continue
				}
			}
			out.add(name, line)
		}
	}
	for _, f := range x.call.Headers {
		if validValue(f.Value) {
			out.add(http.CanonicalHeaderKey(f.Name), f.Value)
		}
	}
	if b := string(x.call.Bearer); b != "" && validValue(b) {
		out.addTwo("Authorization", "Bearer ", b)
	}
	if v := forwardedFor(in, x.proxy.cfg.TrustedProxies); v != "" {
		out.add("X-Forwarded-For", v)
	}
	out.add("X-Forwarded-Host", in.Host)
	out.add("X-Forwarded-Proto", x.proxy.publicScheme(in))
	out.add("Traceparent", tp)
	if hasToken(in.Header["Te"], "trailers") {
		out.add("Te", "trailers") // they are passed on
	}
	if x.upgrade {
		out.add("Connection", "Upgrade")
		out.add("Upgrade", in.Header["Upgrade"][0])
	}
}

// names reports whether a request's header is one that the route or the call
// sets.
func (x *exchange) names(name string) bool {
	if len(x.proxy.filter.identity) == 0 && len(x.call.Headers) == 0 {
		return false
	}
	var buf, other foldBuffer
	folded := foldHeader(&buf, name)
	if x.proxy.filter.names(folded) {
		return true
	}
	for _, f := range x.call.Headers {
		if string(foldHeader(&other, f.Name)) == string(folded) {
			return true
		}
	}
	return false
}

// fieldNames are the fields that a header lists, by canonical name; nil: none. Those
// of Connection are hop-by-hop (RFC 9110 section 7.6.1), and its usual options name
// none. It is made once a message: to ask each of thousands of names of each of
// thousands of fields would take a client's few bytes for a large part of a second.
func fieldNames(lines []string) map[string]bool {
	if len(lines) == 0 || len(lines) == 1 && (lines[0] == "keep-alive" || lines[0] == "close" || lines[0] == "Upgrade") {
		return nil
	}
	names := make(map[string]bool)
	for t := range tokens(lines) {
		names[http.CanonicalHeaderKey(t)] = true
	}
	return names
}

func (p *Proxy) publicScheme(r *http.Request) string {
	switch {
	case p.cfg.PublicScheme != "":
		return p.cfg.PublicScheme
	case r.TLS != nil:
		return "https"
	}
	return "http"
}

// expects reports whether the client waits for a 100.
func (x *exchange) expects() bool {
	return len(x.in.Header["Expect"]) == 1 && strings.EqualFold(x.in.Header["Expect"][0], "100-continue")
}
