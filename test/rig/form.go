package rig

import (
	"html"
	"net/http"
	"net/url"
	"strings"
)

// Submit sends a page's first form, its hidden fields as they are and more
// beside them: what a click on one of its buttons sends.
func (b *Browser) Submit(page *Response, more url.Values) *Response {
	b.w.t.Helper()
	form := formTag.FindSubmatch(page.Body)
	if form == nil {
		b.w.t.Fatalf("no form on %s: %.300s", page.URL, page.Body)
	}
	fields := url.Values{}
	for _, tag := range inputTag.FindAllSubmatch(form[2], -1) {
		attrs := map[string]string{}
		for _, a := range attribute.FindAllSubmatch(tag[1], -1) {
			attrs[strings.ToLower(string(a[1]))] = html.UnescapeString(string(a[2]))
		}
		fields.Set(attrs["name"], attrs["value"])
	}
	for k, v := range more {
		fields[k] = v
	}
	u := page.URL
	if a := formAction.FindSubmatch(form[1]); a != nil {
		u = b.resolve(u, html.UnescapeString(string(a[1])))
	}
	r, err := b.send(Request{Method: http.MethodPost, Body: fields.Encode()}, u, http.Header{
		"Accept": {"text/html"}, "Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {origin(page.URL)},
		"Sec-Fetch-Site": {relation(origin(page.URL), u)}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"},
	}, relation(origin(page.URL), u))
	if err != nil {
		b.w.t.Fatalf("POST %s: %v", u.Path, err)
	}
	return r
}
