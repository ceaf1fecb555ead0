package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxPageEntries bounds a directory of templates: it is for a few files.
	maxPageEntries = 256
	// maxPageFile bounds one of them.
	maxPageFile = 64 << 10
)

// pages reads the templates in a directory, files called *.html, by name. It
// follows no link that leads out of it. The directory and the files are watched.
func (l *loader) pages(v value) map[string]string {
	dir := v.filePath()
	if dir == "" {
		return nil
	}
	l.watch(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		v.problem("%v", unreadable(err))
		return nil
	}
	defer root.Close()
	names, err := entries(root)
	if err != nil {
		v.problem("%v", err)
		return nil
	}
	out := map[string]string{}
	for _, name := range names {
		if !strings.HasSuffix(name, ".html") {
			continue
		}
		l.watch(filepath.Join(dir, name))
		text, err := readIn(root, name)
		if err != nil {
			v.problem("%s %v", printable(name), err)
			continue
		}
		out[name] = text
	}
	return out
}

// entries are the names in a directory.
func entries(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, unreadable(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(maxPageEntries + 1)
	if err != nil && err != io.EOF {
		return nil, unreadable(err)
	}
	if len(names) > maxPageEntries {
		return nil, fmt.Errorf("holds more than %d files", maxPageEntries)
	}
	slices.Sort(names)
	return names, nil
}

// readIn reads a template below root. Its errors complete the sentence "file X …".
func readIn(root *os.Root, name string) (string, error) {
	info, err := root.Stat(name)
	if err != nil {
		return "", unreadable(err)
	}
	if !info.Mode().IsRegular() {
		return "", errors.New("is not a regular file")
	}
	f, err := root.Open(name)
	if err != nil {
		return "", unreadable(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPageFile+1))
	switch {
	case err != nil:
		return "", unreadable(err)
	case len(b) > maxPageFile:
		return "", fmt.Errorf("is larger than %d KiB", maxPageFile>>10)
	case !utf8.Valid(b):
		return "", errors.New("is not UTF-8")
	}
	return string(b), nil
}
