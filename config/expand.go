package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// maxInsert bounds a file named by ${file:}: secrets and keys are far smaller.
const maxInsert = 64 << 10

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${env:NAME} and ${file:PATH} in s. Its errors name what is
// missing and never hold a value.
func (l *loader) expand(s string) (string, error) {
	if !strings.Contains(s, "${") {
		return s, nil
	}
	var out strings.Builder
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			i = len(s)
		}
		out.WriteString(s[:i])
		s = s[i:]
		switch {
		case strings.HasPrefix(s, "$${"):
			out.WriteString("${")
			s = s[3:]
		case strings.HasPrefix(s, "${"):
			ref, rest, closed := strings.Cut(s[2:], "}")
			if !closed {
				return "", errors.New("has a ${ without its }; a literal ${ is written $${")
			}
			v, err := l.lookUp(ref)
			if err != nil {
				return "", err
			}
			out.WriteString(v)
			s = rest
		case s != "":
			out.WriteByte('$')
			s = s[1:]
		}
	}
	return out.String(), nil
}

func (l *loader) lookUp(ref string) (string, error) {
	if name, ok := strings.CutPrefix(ref, "env:"); ok {
		if !envName.MatchString(name) {
			return "", errors.New("has a ${env:…} without the name of an environment variable")
		}
		v, ok := l.getenv(name)
		if !ok {
			return "", fmt.Errorf("the environment variable %s is not set", name)
		}
		return v, nil
	}
	if path, ok := strings.CutPrefix(ref, "file:"); ok {
		b, err := l.read(l.resolve(path), maxInsert)
		if err != nil {
			return "", fmt.Errorf("file %s %w", printable(path), err)
		}
		s, ended := strings.CutSuffix(string(b), "\n")
		if ended {
			s = strings.TrimSuffix(s, "\r")
		}
		return s, nil
	}
	if envName.MatchString(ref) {
		return "", errors.New("writes ${env:NAME} as ${NAME}; a literal ${ is written $${")
	}
	return "", errors.New("knows ${env:NAME} and ${file:PATH} only; a literal ${ is written $${")
}

// resolve makes a path that the file names absolute.
func (l *loader) resolve(path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(l.dir, path)
	}
	return filepath.Clean(path)
}

// read is readBounded for what the configuration is made of.
func (l *loader) read(path string, limit int64) ([]byte, error) {
	l.watch(path)
	return readBounded(path, limit)
}

// watch adds to [Config.Files] what is about to be read.
func (l *loader) watch(path string) {
	if _, ok := l.files[path]; !ok {
		l.files[path] = look(path)
	}
}

// readBounded reads a regular file of at most limit bytes. Its errors complete
// the sentence "file X …".
func readBounded(path string, limit int64) ([]byte, error) {
	// A pipe or a device could block the start for ever.
	if info, err := os.Stat(path); err != nil {
		return nil, unreadable(err)
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("is larger than %d KiB", limit>>10)
	}
	return b, nil
}

// unreadable is err without the path, which the caller names as it was written.
func unreadable(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Errorf("can't be read: %v", err)
}
