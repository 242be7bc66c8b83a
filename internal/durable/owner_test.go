package durable_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/internal/lab"
)

// Root works in the directory of a daemon that is not root, for commands while
// that does not run: the daemon must be able to read and replace what is made.
func TestOwnerOfTheDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		lab.Unprivileged(t, "only root gives files to others")
	}
	const daemon = 4711
	dir := t.TempDir()
	if err := os.Chown(dir, daemon, daemon); err != nil {
		lab.Unprivileged(t, "only root of the machine gives files to others: "+err.Error())
	}
	if err := durable.Write(durable.OS{}, filepath.Join(dir, "below", "file"), []byte("text")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"below", "below/file"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != daemon {
			t.Errorf("%s belongs to user %d, not to %d as its directory does", name, owner, daemon)
		}
	}
}
