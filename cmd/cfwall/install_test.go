package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/internal/durable"
)

// fakeSystemd notes what it is asked, and what of cfwall is below root then. It
// fails at one step.
type fakeSystemd struct {
	root   string
	failAt string
	asked  []string
}

var errSystemd = errors.New("systemd says no")

func (f *fakeSystemd) ask(words ...string) error {
	step := strings.Join(words, " ")
	have := " without a unit"
	if exists(filepath.Join(f.root, localPrefix, unitPath)) {
		have = " with a unit"
	}
	f.asked = append(f.asked, step+have)
	if step == f.failAt {
		return errSystemd
	}
	return nil
}

func (f *fakeSystemd) Run(_ context.Context, program string, args ...string) error {
	return f.ask(append([]string{program}, args...)...)
}
func (f *fakeSystemd) Reload(context.Context) error                 { return f.ask("reload") }
func (f *fakeSystemd) Enable(_ context.Context, unit string) error  { return f.ask("enable", unit) }
func (f *fakeSystemd) Disable(_ context.Context, unit string) error { return f.ask("disable", unit) }
func (f *fakeSystemd) Restart(_ context.Context, unit string) error { return f.ask("restart", unit) }
func (f *fakeSystemd) Stop(_ context.Context, unit string) error    { return f.ask("stop", unit) }

// someFiles are like those of an installation.
var someFiles = []file{
	{path: filepath.Join(localPrefix, programPath), content: []byte("new"), mode: 0o755},
	{path: "/etc/cfwall/config.toml", content: []byte("default"), mode: 0o644, theirs: true},
	{path: filepath.Join(localPrefix, unitPath), content: []byte("[Service]\n"), mode: 0o644},
}

const (
	makeUser    = "/bin/systemd-sysusers /usr/local/lib/sysusers.d/cfwall.conf"
	makeState   = "/bin/systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/cfwall.conf"
	makeCatalog = "/bin/journalctl --update-catalog"
)

func TestPlace(t *testing.T) {
	all := []string{makeUser, makeState, makeCatalog, "enable cfwall.service", "reload", "restart cfwall.service"}
	for _, failAt := range append(all, "") {
		s := &fakeSystemd{root: t.TempDir(), failAt: failAt}
		var warnings strings.Builder
		err := place(t.Context(), s, s.root, someFiles, &warnings)

		want, failed := all, failAt != "" && failAt != makeCatalog
		if failed {
			want = all[:slices.Index(all, failAt)+1]
		}
		if (err != nil) != failed {
			t.Errorf("%q fails: the error is %v", failAt, err)
		}
		if got := warnings.String() != ""; got != (failAt == makeCatalog) {
			t.Errorf("%q fails: it warns %q", failAt, warnings.String())
		}
		var asked []string
		for _, step := range want {
			asked = append(asked, step+" with a unit")
		}
		if diff := cmp.Diff(asked, s.asked); diff != "" {
			t.Errorf("%q fails: systemd is asked (-want +got):\n%s", failAt, diff)
		}
	}
}

func TestPlaceAsksNothingBeforeAllIsWritten(t *testing.T) {
	s := &fakeSystemd{root: t.TempDir()}
	inTheWay := filepath.Join(s.root, localPrefix, unitPath)
	if err := os.MkdirAll(inTheWay, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := place(t.Context(), s, s.root, someFiles, nil); !errors.Is(err, durable.ErrNotRegular) {
		t.Errorf("the error is %v", err)
	}
	if len(s.asked) > 0 {
		t.Errorf("systemd is asked %q", s.asked)
	}
}

func TestTakeAway(t *testing.T) {
	s := &fakeSystemd{root: t.TempDir()}
	config := filepath.Join(s.root, "etc/cfwall/config.toml")
	if err := writeFiles(s.root, someFiles); err != nil {
		t.Fatal(err)
	}
	ours := slices.DeleteFunc(slices.Clone(someFiles), func(f file) bool { return f.theirs })
	for _, have := range []string{" with a unit", " without a unit"} { // twice is once
		s.asked = nil
		if err := takeAway(t.Context(), s, s.root, ours, io.Discard); err != nil {
			t.Fatal(err)
		}
		want := []string{"disable cfwall.service" + have, "stop cfwall.service" + have, makeCatalog + " without a unit", "reload without a unit"}
		if diff := cmp.Diff(want, s.asked); diff != "" {
			t.Errorf("systemd is asked (-want +got):\n%s", diff)
		}
	}
	if !exists(config) || exists(filepath.Join(s.root, localPrefix, programPath)) {
		t.Error("it removes the config, or leaves the program")
	}
}

func TestTakeAwayLeavesTheFilesOfAServiceThatRuns(t *testing.T) {
	s := &fakeSystemd{root: t.TempDir(), failAt: "stop cfwall.service"}
	if err := writeFiles(s.root, someFiles); err != nil {
		t.Fatal(err)
	}
	if err := takeAway(t.Context(), s, s.root, someFiles, io.Discard); !errors.Is(err, errSystemd) {
		t.Errorf("the error is %v", err)
	}
	if !exists(filepath.Join(s.root, localPrefix, programPath)) {
		t.Error("the program is gone")
	}
}

func TestInTheWay(t *testing.T) {
	for _, c := range []struct {
		name string
		file string // what is there; "-> TARGET" after it makes it a link
		want string // in the error; "" for none
	}{
		{"nothing", "", ""},
		{"our own unit", "usr/local/lib/systemd/system/cfwall.service", ""},
		{"a link to our own unit", "etc/systemd/system/cfwall.service -> /usr/local/lib/systemd/system/cfwall.service", ""},
		{"a package", "usr/lib/systemd/system/cfwall.service", "installed by a package"},
		{"a package, without a merged /usr", "lib/systemd/system/cfwall.service", "installed by a package"},
		{"a package that was removed and not purged", "var/lib/dpkg/info/cfwall.postrm", "removed here, but not purged"},
		{"an older make install", "usr/sbin/cfwall", "there is a second cfwall at "},
		{"a unit of the administrator's", "etc/systemd/system/cfwall.service", "systemd would use "},
		{"masked", "etc/systemd/system/cfwall.service -> /dev/null", "cfwall.service is masked"},
		{"masked until the next boot", "run/systemd/system/cfwall.service -> /dev/null", "cfwall.service is masked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			lay(t, root, c.file)
			err := inTheWay(root, someFiles)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func lay(t *testing.T, root, what string) {
	t.Helper()
	if what == "" {
		return
	}
	name, target, isLink := strings.Cut(what, " -> ")
	path := filepath.Join(root, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if isLink {
		err = errors.Join(err, os.Symlink(target, path))
	} else {
		err = errors.Join(err, os.WriteFile(path, []byte("[Service]\n"), 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A program that was built with cgo could not be started in the sandbox.
func TestProgramWithALinker(t *testing.T) {
	static := filepath.Join(t.TempDir(), "static")
	build := exec.Command("go", "build", "-o", static, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for path, refused := range map[string]bool{"/bin/true": true, static: false} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := notAlone(file{content: content}); (err != nil) != refused {
			t.Errorf("%s: %v", path, err)
		}
	}
}
