package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "file")
	for _, content := range []string{"one", "a longer one", ""} {
		if err := Write(OS{}, path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("read %q, %v; want %q", got, err, content)
		}
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// Others may read the file whatever the umask is, if that is what it is for.
func TestMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	for mode, want := range map[os.FileMode]os.FileMode{0: 0o600, 0o644: 0o644} {
		path := filepath.Join(t.TempDir(), "file")
		if err := Write(OS{mode}, path, []byte("text")); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, want)
		}
	}
}

func TestWriteLeavesTheOldOne(t *testing.T) {
	dir := t.TempDir()
	real, link := filepath.Join(dir, "real"), filepath.Join(dir, "link")
	if err := os.WriteFile(real, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, filepath.Join(dir, "directory"), filepath.Join(real, "below a file")} {
		if err := Write(OS{}, path, []byte("new")); err == nil {
			t.Errorf("%s was written", filepath.Base(path))
		}
	}
	if got, _ := os.ReadFile(real); string(got) != "old" {
		t.Errorf("the file behind the link holds %q", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left behind: %v", entries)
	}
}

// lazyDisk keeps nothing of what it was told.
type lazyDisk struct {
	OS
	failures int
}

var errLazy = errors.New("not synced")

func (d *lazyDisk) SyncDir(string) error {
	if d.failures--; d.failures >= 0 {
		return errLazy
	}
	return nil
}

func TestRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	lazy := &lazyDisk{failures: 2}
	for _, want := range []error{errLazy, errLazy, nil, nil} { // what failed is done again
		if err := Remove(lazy, path); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
	if err := Remove(OS{}, filepath.Join(path, "no", "directory")); err != nil {
		t.Errorf("where there is no directory: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(path, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove(OS{}, path); err == nil {
		t.Error("a directory with something in it is removed")
	}
}
