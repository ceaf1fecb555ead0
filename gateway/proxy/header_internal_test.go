package proxy

import (
	"strings"
	"testing"
)

// Each byte is judged as by itself, wherever it stands.
func TestValidValue(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			b := []byte(strings.Repeat("x", 20))
			b[at] = byte(c)
			edge := at == 0 || at == len(b)-1
			want := c > ' ' && c != 0x7f || (c == ' ' || c == '\t') && !edge
			if got := validValue(string(b)); got != want {
				t.Errorf("%#x at %d: %v", c, at, got)
			}
		}
	}
}
