package systemdtest

import (
	"os"
	"path/filepath"
	"testing"
)

// debs names the directory of the packages: old and new each hold one that is
// for this processor.
const debs = "CFWALL_DEBS"

// deliver puts a package on the disk and returns where the machine finds it.
func (d *disk) deliver(t *testing.T, age string) (file string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv(debs), age, "*.deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s is to name the directory of the packages, as make test-systemd does; %s: %v, %v", debs, age, found, err)
	}
	content, err := os.ReadFile(found[0])
	check(t, err)
	file = "/srv/" + filepath.Base(found[0])
	check(t, os.WriteFile(filepath.Join(d.root, file), content, 0o644))
	return file
}
