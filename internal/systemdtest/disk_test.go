package systemdtest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// A disk holds the files of a machine, those of a fresh Debian at first. What
// is written lasts from one boot to the next, and goes with its test.
type disk struct {
	suite string
	root  string // where its files are, as seen from here
}

func newDisk(t *testing.T, suite string) *disk {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err == nil {
		cache, err = filepath.EvalSymlinks(filepath.Join(cache, "cfwall-systemd", suite))
	}
	if err != nil {
		t.Fatalf("run scripts/systemd-trees %s first, as make test-systemd does: %v", suite, err)
	}
	home, err := os.MkdirTemp("/run", suite+"-") // in memory, and of the lab alone
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	d := &disk{suite, filepath.Join(home, "root")}
	upper, work := filepath.Join(home, "upper"), filepath.Join(home, "work")
	for _, dir := range []string{d.root, upper, work} {
		check(t, os.Mkdir(dir, 0o755))
	}
	check(t, unix.Mount("overlay", d.root, "overlay", 0, "lowerdir="+cache+",upperdir="+upper+",workdir="+work))
	t.Cleanup(func() { check(t, unix.Unmount(d.root, unix.MNT_DETACH)) })
	d.write(t, "/etc/hostname", "web\n")
	d.write(t, "/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 web\n")
	return d
}

// write makes a file, and the directories to it.
func (d *disk) write(t *testing.T, file, text string) {
	t.Helper()
	path := filepath.Join(d.root, file)
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(text), 0o644))
}

// reach has the machine find Cloudflare's servers at an address and trust them.
func (d *disk) reach(t *testing.T, c *lab.Cloudflare, at netip.Addr) {
	t.Helper()
	d.write(t, "/etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n%s api.cloudflare.com www.cloudflare.com\n", at))
	certificate, err := os.ReadFile(c.Certificate)
	check(t, err)
	d.write(t, "/etc/ssl/certs/ca-certificates.crt", string(certificate))
}

// enable makes a unit part of every boot from now on, as its [Install] says.
func (d *disk) enable(t *testing.T, units ...string) {
	t.Helper()
	run(t, "systemctl", append([]string{"--root=" + d.root, "enable"}, units...)...)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
