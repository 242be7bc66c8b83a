package procfs

import (
	"net"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOurselves(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	pid := os.Getpid()
	if !slices.Contains(Processes("/"), pid) || !slices.Contains(Processes(""), pid) {
		t.Error("we are not among the processes")
	}
	if Name("/", pid) == "" {
		t.Error("we have no name")
	}
	if got := Sockets("/", pid); !slices.Contains(got, uint32(stat.Ino)) {
		t.Errorf("socket %d is not among %v", stat.Ino, got)
	}
}

func TestNobody(t *testing.T) {
	root := t.TempDir()
	if got := Processes(root); len(got) > 0 || Name(root, 1) != "" || len(Sockets(root, 1)) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{"cloudflared": "cloudflared", "a\x1b[2Jb": "a?[2Jb", "ü": "ü", "\xff": "�"} {
		if got := Printable(name); got != want {
			t.Errorf("%q: got %q", name, got)
		}
	}
}
