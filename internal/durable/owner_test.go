package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/internal/lab"
)

func writeAsOwner(dir, path string) error {
	return durable.AsOwner(dir, func() error { return durable.Write(durable.OS{}, path, []byte("text")) })
}

// Root works in the directory of a daemon that is not root, for commands while
// that does not run: the daemon must be able to read and replace what is made.
func TestOwnerOfTheDirectory(t *testing.T) {
	dir := lab.DirectoryOfAnother(t)
	if err := writeAsOwner(filepath.Join(dir, "below"), filepath.Join(dir, "below", "file")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"below", "below/file"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != lab.OtherUser || owner.Gid != lab.OtherUser {
			t.Errorf("%s belongs to %d:%d, not to %d as its directory does", name, owner.Uid, owner.Gid, lab.OtherUser)
		}
	}
}

// The daemon's user puts a link in root's way: it leads root to nothing that is
// root's, or its groups', alone.
func TestLinksOfTheOwner(t *testing.T) {
	for who, mode := range map[string]os.FileMode{"root": 0o755, "the group of root": 0o770} {
		t.Run(who, func(t *testing.T) {
			dir, roots := lab.DirectoryOfAnother(t), t.TempDir()
			if err := errors.Join(os.Chmod(roots, mode), os.Symlink(roots, filepath.Join(dir, "ranges"))); err != nil {
				t.Fatal(err)
			}
			if err := writeAsOwner(dir, filepath.Join(dir, "ranges", "current")); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("got %v", err)
			}
			if entries, err := os.ReadDir(roots); err != nil || len(entries) > 0 {
				t.Errorf("in root's directory: %v, %v", entries, err)
			}
		})
	}
}

// What root does elsewhere afterwards it does as root.
func TestRootStaysRoot(t *testing.T) {
	dir, roots := lab.DirectoryOfAnother(t), t.TempDir()
	if err := os.Chmod(roots, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 100 { // it may be on any thread
		if err := writeAsOwner(dir, filepath.Join(dir, "file")); err != nil {
			t.Fatal(err)
		}
		if err := writeAsOwner(roots, filepath.Join(roots, "file")); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(filepath.Join(dir, "file")), os.Remove(filepath.Join(roots, "file"))); err != nil {
			t.Fatal(err)
		}
	}
}
