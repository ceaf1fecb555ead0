package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml/ast"
)

// value is one place in the file. The zero node is a key that isn't there; its
// line is then the surrounding mapping's.
type value struct {
	l    *loader
	path string
	line int
	node ast.Node
	// broken: the mapping around it is none, which has been reported.
	broken bool
}

func (v value) set() bool { return v.node != nil }

func (v value) problem(format string, args ...any) {
	v.l.add(v.line, v.path, fmt.Sprintf(format, args...))
}

// require reports a key that isn't there.
func (v value) require(hint string) bool {
	if !v.set() && !v.broken {
		v.problem("is required%s", hint)
	}
	return v.set()
}

// object is a mapping that is being read. Keys nobody asked for are unknown.
type object struct {
	value
	fields map[string]value
	names  []string // of fields, in order
	asked  []string
}

// object reads v as a mapping. A key that isn't there is an empty one.
func (v value) object() *object {
	o := &object{value: v, fields: map[string]value{}}
	if !v.set() {
		return o
	}
	var pairs []*ast.MappingValueNode
	switch n := v.node.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		o.broken = true
		if v.plain("a mapping") {
			v.problem("must be a mapping of keys to values")
		}
		return o
	}
	for _, p := range pairs {
		line := lineOf(p)
		name, ok := keyName(p.Key)
		if !ok {
			v.l.add(line, v.path, "has a key that is no plain text; anchors, aliases, tags and << are not used here")
			continue
		}
		child := value{l: v.l, path: join(v.path, name), line: line, node: p.Value}
		if first, twice := o.fields[name]; twice {
			child.problem("is given twice, first on line %d", first.line)
			continue
		}
		v.l.lines[child.path] = child.line
		o.fields[name] = child
		o.names = append(o.names, name)
	}
	return o
}

// keyName is the text of a mapping's key.
func keyName(k ast.MapKeyNode) (string, bool) {
	switch n := k.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// join makes a key's path. Names of our own are plain; others are made so.
func join(path, name string) string {
	name = printable(name)
	if path == "" {
		return name
	}
	return path + "." + name
}

// printable is a text of the file that may stand in a message: on one line and
// not too long.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:77], "") + "..."
	}
	return s
}

// get is the key's value, there or not.
func (o *object) get(name string) value {
	o.asked = append(o.asked, name)
	if v, ok := o.fields[name]; ok {
		return v
	}
	return value{l: o.l, path: join(o.path, name), line: o.line, broken: o.broken}
}

// done reports the keys that nobody asked for.
func (o *object) done() {
	for _, name := range o.names {
		if !slices.Contains(o.asked, name) {
			o.fields[name].problem("is unknown%s", didYouMean(name, o.asked))
		}
	}
}

// list reads v as a sequence; false where it isn't there or, which is reported,
// isn't one.
func (v value) list() ([]value, bool) {
	if !v.set() {
		return nil, false
	}
	n, ok := v.node.(*ast.SequenceNode)
	if !ok {
		if v.plain("a list") {
			v.problem("must be a list")
		}
		return nil, false
	}
	out := make([]value, len(n.Values))
	for i, e := range n.Values {
		out[i] = value{l: v.l, path: fmt.Sprintf("%s[%d]", v.path, i), line: lineOf(e), node: e}
		v.l.lines[out[i].path] = out[i].line
	}
	return out, true
}

// plain reports a null and what this file doesn't use of YAML; false: reported.
func (v value) plain(want string) bool {
	switch v.node.(type) {
	case *ast.NullNode:
		v.problem("has no value: give it %s or leave the key out", want)
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		v.problem("is an anchor, an alias or a tag; write %s out", want)
	default:
		return true
	}
	return false
}

// text is a scalar's one line of text as it stands in the file, expanded; false:
// there is none, or a problem was reported. Numbers are text as they are spelled.
func (v value) text() (string, bool) {
	s, ok := v.scalar()
	if ok && (strings.ContainsFunc(s, unicode.IsControl) || strings.ContainsRune(s, unicode.ReplacementChar)) {
		v.problem("must be one line of text without control characters")
		return "", false
	}
	return s, ok
}

// scalar is text, of any characters.
func (v value) scalar() (string, bool) {
	if !v.set() {
		return "", false
	}
	var s string
	switch n := v.node.(type) {
	case *ast.StringNode:
		s = n.Value
	case *ast.LiteralNode:
		s = strings.TrimSuffix(n.Value.Value, "\n")
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		s = n.GetToken().Value
	default:
		if v.plain("a single value") {
			v.problem("must be a single value")
		}
		return "", false
	}
	s, err := v.l.expand(s)
	if err != nil {
		v.problem("%v", err)
		return "", false
	}
	return s, true
}

// string is v's text, or def where it isn't there.
func (v value) string(def string) string {
	if s, ok := v.text(); ok {
		return s
	}
	return def
}

// needed is v's text, which must be there.
func (v value) needed() (string, bool) {
	if !v.require("") {
		return "", false
	}
	s, ok := v.text()
	if ok && s == "" {
		v.problem("is empty")
		return "", false
	}
	return s, ok
}

var fileReference = regexp.MustCompile(`\$\{file:([^}]*)\}`)

// choice is v's text, which must be one of those.
func (v value) choice(def string, of ...string) string {
	s, ok := v.text()
	if !ok {
		return def
	}
	if !slices.Contains(of, s) {
		v.problem("must be %s", strings.Join(of, " or "))
		return def
	}
	return s
}

func (v value) boolean(def bool) bool {
	s, ok := v.text()
	if !ok {
		return def
	}
	if s != "true" && s != "false" {
		v.problem("must be true or false")
	}
	return s == "true"
}

// decimal is the one spelling of a number: octal, hexadecimal and 1_000 mean
// different things to different readers.
var decimal = regexp.MustCompile(`^(0|[1-9][0-9]{0,9})$`)

func (v value) integer(def, least, most int) int {
	s, ok := v.text()
	if !ok {
		return def
	}
	n, err := strconv.Atoi(s)
	switch {
	case err != nil || !decimal.MatchString(s):
		v.problem("must be a whole number in decimal digits")
		return def
	case n < least || n > most:
		v.problem("must be from %d to %d", least, most)
		return def
	}
	return n
}

var ratioText = regexp.MustCompile(`^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$`)

func (v value) ratio(def float64) float64 {
	s, ok := v.text()
	if !ok {
		return def
	}
	if !ratioText.MatchString(s) {
		v.problem("must be a number from 0 to 1 such as 0.05")
		return def
	}
	f, _ := strconv.ParseFloat(s, 64)
	return f
}

var sizeText = regexp.MustCompile(`^(0|[1-9][0-9]{0,15})(KiB|MiB|GiB)?$`)

// size is a number of bytes.
func (v value) size(def, least, most int64) int64 {
	s, ok := v.text()
	if !ok {
		return def
	}
	m := sizeText.FindStringSubmatch(s)
	if m == nil {
		v.problem("must be a number of bytes such as 65536, 512KiB, 10MiB or 1GiB")
		return def
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	unit := map[string]int64{"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[m[2]]
	if n > most/unit || n*unit < least {
		v.problem("must be from %d to %d bytes", least, most)
		return def
	}
	return n * unit
}

var durationText = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`)

func (v value) duration(def, least, most time.Duration) time.Duration {
	s, ok := v.text()
	if !ok {
		return def
	}
	d, err := time.ParseDuration(s)
	switch {
	case !durationText.MatchString(s):
		v.problem("must be a duration such as 500ms, 30s, 5m or 12h")
		return def
	case err != nil || d > most:
		v.problem("must be at most %s", short(most))
		return def
	case d < least:
		v.problem("must be at least %s", short(least))
		return def
	}
	return d
}

// short is a duration without its empty parts: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// strings is a list of texts, none empty and none twice; nil where it isn't there.
func (v value) strings() []string {
	var out []string
	list, _ := v.list()
	for _, e := range list {
		s, ok := e.text()
		switch {
		case !ok:
		case s == "":
			e.problem("is empty")
		case slices.Contains(out, s):
			e.problem("is in the list twice")
		default:
			out = append(out, s)
		}
	}
	return out
}
