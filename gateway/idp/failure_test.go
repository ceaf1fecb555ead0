package idp

import (
	"errors"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
)

// A process that is out of files has nobody to blame but itself, and who asks can
// tell.
func TestOutOfFilesCanBeTold(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		err := unavailable(t.Context(), opRefresh, &url.Error{Op: "Post", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", errno)}})
		if !errors.Is(err, errno) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
	}
	refused := &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	if err := unavailable(t.Context(), opRefresh, refused); errors.Is(err, syscall.EMFILE) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
