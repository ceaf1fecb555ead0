package main

import (
	"embed"
	"html/template"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed spa
var spa embed.FS

// pageValues are the blanks of index.html.
type pageValues struct {
	API    string // where the page calls the API by itself
	Issuer string // where the users' pictures come from
}

// writeSPA writes the page to a directory that the gateway serves.
func writeSPA(dir string, v pageValues) (string, error) {
	to := filepath.Join(dir, "spa")
	source, err := fs.Sub(spa, "spa")
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(to, source); err != nil {
		return "", err
	}
	t, err := template.ParseFS(source, "index.html")
	if err != nil {
		return "", err
	}
	f, err := os.Create(filepath.Join(to, "index.html"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return to, t.Execute(f, v)
}
