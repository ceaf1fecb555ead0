package config

import (
	"bytes"
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxFile bounds the configuration: a thousand routes fit.
const maxFile = 256 << 10

// maxDepth bounds how deep collections may be nested, since the parser recurses
// and its time grows with the square: our deepest key is at 6.
const maxDepth = 64

// Load reads the file at path. getenv looks environment variables up
// ([os.LookupEnv]). Every error is an [*Error]: what is wrong is all in it.
func Load(path string, getenv func(name string) (value string, ok bool)) (*Config, error) {
	l := &loader{file: path, dir: filepath.Dir(path), getenv: getenv, lines: map[string]int{}, files: Files{}}
	if abs, err := filepath.Abs(l.dir); err == nil {
		l.dir = abs
	}
	b, err := l.read(path, maxFile)
	if err != nil {
		l.add(0, "", err.Error())
		return nil, l.err()
	}
	c := &Config{}
	if root, ok := l.parse(b); ok {
		l.config(c, root)
	}
	if err := l.err(); err != nil {
		return nil, err
	}
	sortByLine(l.warnings)
	c.warnings, c.file, c.lines, c.files = l.warnings, l.file, l.lines, l.files
	return c, nil
}

// loader is one run of Load: where it reads from and what it has found.
type loader struct {
	file, dir string
	getenv    func(string) (string, bool)
	problems  []Problem
	warnings  []Problem
	secrets   []usedSecret
	lines     map[string]int // of the keys that are there
	files     Files          // that were read, or would have been
}

// usedSecret remembers where a secret was seen, to find one used twice.
type usedSecret struct{ key, use, text string }

func (l *loader) add(line int, key, message string) {
	l.problems = append(l.problems, Problem{File: l.file, Line: line, Key: key, Message: message})
}

func (l *loader) warn(v value, message string) {
	l.warnings = append(l.warnings, Problem{File: l.file, Line: v.line, Key: v.path, Message: message})
}

func (l *loader) err() error {
	if len(l.problems) == 0 {
		return nil
	}
	sortByLine(l.problems)
	return &Error{Problems: l.problems, Files: l.files}
}

// parse turns the text into its one document's mapping.
func (l *loader) parse(b []byte) (value, bool) {
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	f, err := parseYAML(b)
	if err != nil {
		line, message := syntaxError(err, b)
		l.add(line, "", message)
		return value{}, false
	}
	var docs []ast.Node
	for _, d := range f.Docs {
		if d.Body != nil {
			docs = append(docs, d.Body)
		}
	}
	if len(docs) == 0 {
		l.add(0, "", "is empty")
		return value{}, false
	}
	if len(docs) > 1 {
		l.add(lineOf(docs[1]), "", "holds a second document; one file is one document")
	}
	return value{l: l, node: docs[0], line: lineOf(docs[0])}, true
}

// parseYAML is the library's parser. Keys given twice are let through, to be
// reported with everything else.
func parseYAML(b []byte) (f *ast.File, err error) {
	// The parser has been known to panic on malformed text, and a broken file
	// has to be told as one.
	defer func() {
		if recover() != nil {
			f, err = nil, errors.New("is no YAML that can be read")
		}
	}()
	tokens := lexer.Tokenize(string(b))
	if t := tooDeep(tokens); t != nil {
		return nil, &yaml.SyntaxError{Message: "nested too deep", Token: t}
	}
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// tooDeep returns the token with which the text opens more collections within
// one another than any configuration does; nil: none.
func tooDeep(tokens token.Tokens) *token.Token {
	flow, line, onLine := 0, 0, 0
	for _, t := range tokens {
		if t.Position == nil || t.Type == token.CommentType {
			continue
		}
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
			// Every block mapping is indented by a column or more.
			if t.Position.Column > 4*maxDepth {
				return t
			}
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			onLine++ // "- - - x" nests too
		}
		if flow > maxDepth || onLine > maxDepth {
			return t
		}
	}
	return nil
}

// quotedTail is where a message of the parser starts to repeat the text.
var quotedTail = regexp.MustCompile(`:? *".*| '[A-Za-z0-9]'$`)

// syntaxError is the parser's complaint as a line and a message without the
// excerpt, which could show a secret.
func syntaxError(err error, src []byte) (line int, message string) {
	se, ok := errors.AsType[*yaml.SyntaxError](err)
	if !ok || se.GetToken() == nil || se.GetToken().Position == nil {
		return 0, "is no YAML that can be read"
	}
	line = se.GetToken().Position.Line
	message = "is no valid YAML: " + printable(quotedTail.ReplaceAllString(se.GetMessage(), ""))
	message = strings.Replace(message, "found character '?' that", "found a tab, which", 1) // the only one it says that of
	lines := bytes.Split(src, []byte("\n"))
	if line >= 1 && line <= len(lines) && strings.Contains(message, "must be specified") && bytes.Contains(lines[line-1], []byte("${")) {
		message += "; inside […] and {…} write \"${…}\" with quotes"
	}
	return line, message
}

// lineOf is the line at which a node starts.
func lineOf(n ast.Node) int {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return lineOf(m.Values[0])
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}
