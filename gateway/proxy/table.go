package proxy

import (
	"fmt"
	"strings"
)

// Entry is one route of a [Table].
type Entry[T any] struct {
	Prefix string // "/" or whole segments; a trailing slash makes no difference
	Value  T
}

// Table finds routes by path prefix: whole segments, the longest prefix wins.
// It is immutable and safe for concurrent use; the zero Table has no routes.
type Table[T any] struct {
	routes map[string]T // by decoded prefix without its trailing slash
	depth  int          // segments of the longest prefix
}

// NewTable returns a table of the entries. Their order makes no difference. A
// prefix that is not its own [CanonicalPath], or that comes twice, is an error.
func NewTable[T any](entries ...Entry[T]) (*Table[T], error) {
	t := &Table[T]{routes: make(map[string]T, len(entries))}
	for _, e := range entries {
		p, err := CanonicalPath(e.Prefix)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", e.Prefix, err)
		}
		if p != e.Prefix {
			return nil, fmt.Errorf("route %q: write %q", e.Prefix, p)
		}
		key := strings.TrimSuffix(decodePath(p), "/")
		if _, twice := t.routes[key]; twice {
			return nil, fmt.Errorf("route %q: a route for this prefix exists", e.Prefix)
		}
		t.routes[key] = e.Value
		t.depth = max(t.depth, strings.Count(key, "/"))
	}
	return t, nil
}

// Match returns the route of the longest prefix of path, which must come from
// [CanonicalPath]. "/api/" matches "/api" and "/api/x", not "/apix".
func (t *Table[T]) Match(path string) (route T, ok bool) {
	p := decodePath(path)
	route, ok = t.routes[""]
	// Not past the deepest prefix: a path of ten thousand segments must not
	// cost ten thousand look-ups.
	for end, n := 0, 0; n < t.depth && end < len(p); n++ {
		next := strings.IndexByte(p[end+1:], '/')
		if next < 0 {
			end = len(p)
		} else {
			end += 1 + next
		}
		if r, found := t.routes[p[:end]]; found {
			route, ok = r, true
		}
	}
	return route, ok
}

// StripPrefix takes prefix off path, both from [CanonicalPath]: whole segments,
// and a slash is left where nothing else is. A path that does not start with
// the prefix is returned as it is.
func StripPrefix(path, prefix string) string {
	prefix = strings.TrimSuffix(decodePath(prefix), "/")
	p := decodePath(path)
	if !strings.HasPrefix(p, prefix) || len(p) > len(prefix) && p[len(prefix)] != '/' {
		return path
	}
	// Slashes are never encoded, so segments can be counted in either form.
	rest := path
	for range strings.Count(prefix, "/") {
		next := strings.IndexByte(rest[1:], '/')
		if next < 0 {
			return "/"
		}
		rest = rest[1+next:]
	}
	return rest
}
