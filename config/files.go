package config

import (
	"fmt"
	"os"
	"syscall"
)

// Files are the files that a configuration is read from, each with how it looked
// right before: size, time, identity. What a symbolic link leads to counts, which
// is how Kubernetes replaces mounted files. A change while they are read is one
// that [Files.Now] tells, so nobody who compares the two misses it.
type Files map[string]string

// Now is how the same files look at the moment.
func (f Files) Now() Files {
	now := make(Files, len(f))
	for path := range f {
		now[path] = look(path)
	}
	return now
}

// look is a text that changes with the file; "" if there is none.
func look(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	inode := uint64(0)
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = s.Ino
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano(), inode)
}
