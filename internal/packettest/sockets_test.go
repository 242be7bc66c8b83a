package packettest

import (
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// reuseAddress lets a socket have a port of which earlier connections linger.
func reuseAddress(_, _ string, c syscall.RawConn) error {
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
}

func control(c syscall.RawConn, set func(fd int) error) error {
	var err error
	if e := c.Control(func(fd uintptr) { err = set(int(fd)) }); e != nil {
		return e
	}
	return err
}

// sendFrames puts frames on a link through one socket: to close one of this
// kind takes the kernel longer than to send a hundred frames.
func sendFrames(t *testing.T, h *lab.Host, link string, frames [][]byte) {
	t.Helper()
	var fd int
	var to unix.SockaddrLinklayer
	var err error
	h.Do(func() {
		var i *net.Interface
		if i, err = net.InterfaceByName(link); err == nil {
			to.Ifindex = i.Index
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		}
	})
	if err != nil {
		t.Fatalf("%s: opening a packet socket: %v", h, err)
	}
	defer unix.Close(fd)
	for i, f := range frames {
		if i%32 == 0 {
			time.Sleep(time.Millisecond) // so that no queue overflows on a busy machine
		}
		if err := unix.Sendto(fd, f, 0, &to); err != nil {
			t.Fatalf("%s: sending a frame: %v", h, err)
		}
	}
}
