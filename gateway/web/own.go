package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Pages writes the small pages of the login and logout flows, by templates of an
// app's own where it has them. Nil is a Pages without any. It is safe for
// concurrent use.
//
// The templates are html/template's, a whole document each, by file name:
//
//   - error.html gets the fields of [ErrorPage];
//   - logged-out.html gets .Title, .Link back into the application, and .Done;
//   - onward.html gets .Title, and the .Link to where it navigates, and holds
//     exactly <meta http-equiv="refresh" content="0; url={{.Link}}">.
//
// Headers and policy are the same as ours. Of the document's <style> elements the
// policy names the hashes, so that they are applied; it lets no script run and
// nothing be loaded.
//
// A template that fails although [ParsePages] has tried it is replaced by ours.
type Pages struct {
	templates map[string]*template.Template // by file name
	log       *slog.Logger
}

const (
	// maxPage bounds a page, in bytes, so that a loop in a template ends.
	maxPage = 256 << 10
	// maxStyles bounds what the policy names.
	maxStyles = 8
)

// ParsePages returns the pages of templates by file name, once each of them has
// been tried: error.html with each of errs, with and without what an error may
// lack. The error has a line for each template that can't serve; it begins with the
// file's name. log is told of templates that fail later; nil: nobody is.
func ParsePages(files map[string]string, errs []ErrorPage, log *slog.Logger) (*Pages, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Pages{templates: make(map[string]*template.Template, len(files)), log: log}
	tries := samples(errs)
	known := slices.Sorted(maps.Keys(tries))
	var wrong []error
	if len(files) == 0 {
		wrong = append(wrong, fmt.Errorf("holds none of %s", strings.Join(known, ", ")))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if tries[name] == nil {
			wrong = append(wrong, fmt.Errorf("%q is no page of the gateway's; it has %s", name, strings.Join(known, ", ")))
			continue
		}
		t, err := template.New(name).Parse(files[name])
		if err == nil {
			err = try(t, name, tries[name])
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s", name, complaint(err, name)))
			continue
		}
		p.templates[name] = t
	}
	return p, errors.Join(wrong...)
}

// samples are what each page is tried with.
func samples(errs []ErrorPage) map[string][]any {
	s := map[string][]any{
		loggedOutFile: {leftBy(false, ""), leftBy(false, "/"), leftBy(true, ""), leftBy(true, "/")},
		onwardFile:    {page{Title: "One moment …", Link: "/orders?page=2"}, page{Title: "One moment …", Link: "https://id.example.com/end?a=b&amp=c%20d"}},
		errorFile:     {ErrorPage{Code: "internal", Status: http.StatusInternalServerError, Title: "Something went wrong."}},
	}
	for _, e := range errs {
		full := e
		full.Detail, full.TraceID, full.LoginURL, full.Again = "what it was", "0af7651916cd43dd8448eb211c80319c", "/bff/login", true
		s[errorFile] = append(s[errorFile], e, full)
	}
	return s
}

// scriptElement is one that the policy would keep from running: better told than
// found out.
var scriptElement = regexp.MustCompile(`(?i)<script[\s/>]`)

func try(t *template.Template, name string, samples []any) error {
	for _, data := range samples {
		body, err := execute(t, name, data)
		if err != nil {
			return err
		}
		if scriptElement.Match(body) {
			return errors.New("holds a script, and no page of the gateway's runs any")
		}
	}
	return nil
}

// execute makes a page by a template of an app's own.
func execute(t *template.Template, name string, data any) ([]byte, error) {
	b := bounded{left: maxPage}
	if err := t.Execute(&b, data); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(b.Bytes())) == 0 {
		return nil, errors.New("makes an empty page")
	}
	// Without it a login would end there.
	if name == onwardFile && !bytes.Contains(b.Bytes(), render("refresh", data)) {
		return nil, errors.New(`holds no <meta http-equiv="refresh" content="0; url={{.Link}}">, spelled like this`)
	}
	return b.Bytes(), nil
}

// bounded is a buffer that takes no more than so much.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("makes a page of more than %d KiB", maxPage>>10)
	}
	return b.Buffer.Write(p)
}

// at is where html/template says that something is wrong: in a file, and mostly in
// a line of it.
var at = regexp.MustCompile(`^(?:html/)?template: ?[^:]*:(?:([0-9]+)(?::[0-9]+)?:)? `)

// complaint is an error of html/template's on one line, without the file's name,
// which the caller has said.
func complaint(err error, name string) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if m := at.FindStringSubmatch(s); m != nil {
		s = strings.TrimPrefix(s[len(m[0]):], fmt.Sprintf("executing %q ", name))
		s, _, _ = strings.Cut(s, ": {state") // what its escaper thinks
		if m[1] != "" {
			s = "line " + m[1] + ": " + s
		}
	}
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// own is a page by the app's own template, and its policy; nil where there is
// none or it has failed.
func (p *Pages) own(name string, data any) ([]byte, string) {
	if p == nil || p.templates[name] == nil {
		return nil, ""
	}
	body, err := execute(p.templates[name], name, data)
	if err != nil {
		// Its text may hold what the page was to show.
		where := ""
		if m := at.FindStringSubmatch(err.Error()); m != nil {
			where = m[1]
		}
		p.log.LogAttrs(context.Background(), slog.LevelError, "a page's template failed, ours was shown", slog.String("file", name), slog.String("line", where))
		return nil, ""
	}
	return body, policy(styles(body)...)
}

var (
	styleElement = regexp.MustCompile(`(?is)<style(?:\s[^>]*)?>(.*?)</style`)
	lineEnds     = strings.NewReplacer("\r\n", "\n", "\r", "\n") // as parsers of HTML read them
)

// styles are the contents of a document's <style> elements. What a template says is
// its author's, and what is put into it is escaped, so these are too.
func styles(body []byte) []string {
	var out []string
	for _, m := range styleElement.FindAllSubmatch(body, maxStyles) {
		out = append(out, lineEnds.Replace(string(m[1])))
	}
	return out
}
