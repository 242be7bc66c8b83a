package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// OtherUser is a user whom no machine has.
const OtherUser = 4711

// DirectoryOfAnother makes a directory of OtherUser, beside files of root. Only root
// can, see Unprivileged.
func DirectoryOfAnother(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Unprivileged(t, "only root works as others")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, OtherUser, OtherUser); err != nil {
		Unprivileged(t, "only root of the machine works as others: "+err.Error())
	}
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { // the others must get there
		t.Fatal(err)
	}
	return dir
}
