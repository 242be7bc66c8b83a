package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// The daemon's user gives the lock's name to a file of root: root leaves that alone.
func TestLockThatIsAFileOfRoot(t *testing.T) {
	p := Paths{Runtime: lab.DirectoryOfAnother(t)}
	secret := filepath.Join(filepath.Dir(p.Runtime), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600), os.Link(secret, p.lock()))
	if f, err := p.openLock(os.O_RDWR | os.O_CREATE); !errors.Is(err, fs.ErrPermission) {
		f.Close()
		t.Errorf("got %v", err)
	}
	must(t, os.Remove(p.lock()))
	f, err := p.openLock(os.O_RDWR | os.O_CREATE)
	must(t, err)
	defer f.Close()
	var s unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &s))
	if s.Uid != lab.OtherUser {
		t.Errorf("the lock is of user %d", s.Uid)
	}
}
