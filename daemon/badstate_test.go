package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
)

// must ends the test at the first error.
func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// stranger is a user who is neither root nor whoever runs the test.
const stranger = 65534

// A badDir is something where a directory of cfwall's should be. Make is given a
// directory that is as it should be, with an opening in it that somebody planted.
type badDir struct {
	name string
	make func(t *testing.T, dir string)
	says string // "" where it is used all the same
}

func badDirs() []badDir {
	elsewhere := func(t *testing.T, dir string) string {
		other := filepath.Join(t.TempDir(), "elsewhere")
		must(t, os.Rename(dir, other), os.Symlink(other, dir))
		return other
	}
	all := []badDir{
		{"as it should be", func(*testing.T, string) {}, ""},
		{"a link of ours to a directory of ours", func(t *testing.T, dir string) { elsewhere(t, dir) }, ""},
		{"a link to nothing", func(t *testing.T, dir string) { must(t, os.RemoveAll(elsewhere(t, dir))) }, "is a link to nothing"},
		{"a file", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) }, "is not a directory"},
		{"a named pipe", func(t *testing.T, dir string) { must(t, os.RemoveAll(dir), syscall.Mkfifo(dir, 0o600)) }, "is not a directory"},
		{"open to every user", func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777|os.ModeSticky)) }, "every user could have put anything there"},
		{"a link to what is open to every user", func(t *testing.T, dir string) { must(t, os.Chmod(elsewhere(t, dir), 0o777)) }, "every user could"},
	}
	if os.Geteuid() == 0 && ownsStrangers() {
		all = append(all,
			badDir{"a stranger's", func(t *testing.T, dir string) { must(t, os.Chown(dir, stranger, stranger)) }, "user 65534, who owns it,"},
			badDir{"a stranger's link to a directory of ours", func(t *testing.T, dir string) { elsewhere(t, dir); must(t, os.Lchown(dir, stranger, stranger)) }, "user 65534, who owns it,"},
			badDir{"open to a stranger's group", func(t *testing.T, dir string) { must(t, os.Chown(dir, 0, stranger), os.Chmod(dir, 0o775)) }, "group 65534"},
		)
	}
	return all
}

// ownsStrangers says that root here is root of the machine: in a user namespace
// of one user there is nobody to give a file to.
func ownsStrangers() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.HasSuffix(strings.TrimSpace(string(b)), " 4294967295")
}

// plant leaves openings in a state directory.
func plant(t *testing.T, p Paths) {
	t.Helper()
	must(t, saveJSON(durable.OS{}, p.allow(), []firewall.Temporary{{Network: netip.MustParsePrefix("198.51.100.7/32"), Expires: time.Now().Add(time.Hour)}}))
}

// snapshot is what is in a directory, links followed.
func snapshot(dir string) string {
	var text strings.Builder
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		b, _ := durable.OS{}.Read(filepath.Join(dir, e.Name()))
		text.WriteString(e.Name() + "=" + string(b) + "\n")
	}
	return text.String()
}

// A state directory in which others decide what the files are is neither
// believed nor written to; the policy is in force all the same, and status says
// which path it is, and what to do.
func TestBadStateDirectories(t *testing.T) {
	for _, bad := range badDirs() {
		t.Run(bad.name, func(t *testing.T) {
			e, table, _ := newTestEngine(t)
			e.self.Running = true
			plant(t, e.paths)
			bad.make(t, e.paths.State)
			before := snapshot(e.paths.State)
			e.LoadState()
			e.LoadConfigOrFallback()
			if _, err := e.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !table.admits("104.16.0.1", 443) || table.admits("198.51.100.8", 443) {
				t.Error("the policy is not in force")
			}
			if believed := table.admits("198.51.100.7", 443); believed != (bad.says == "") {
				t.Errorf("what stands there is believed: %v", believed)
			}
			_, err := e.Off(t.Context(), 0)
			s, errStatus := e.tableStatus(t.Context())
			must(t, errStatus)
			if bad.says == "" {
				must(t, err)
				return
			}
			if err == nil || !strings.Contains(err.Error(), e.paths.State) || !strings.Contains(err.Error(), bad.says) || refusalOf(err).Hint == "" {
				t.Errorf("off: %v (%s)", err, refusalOf(err).Hint)
			}
			if !has(s.Problems, "state-unreadable", bad.says) || !has(s.Problems, "state-unreadable", e.paths.State) {
				t.Errorf("status: %+v", s.Problems)
			}
			if after := snapshot(e.paths.State); after != before {
				t.Errorf("it was written to:\n%s\nbefore\n%s", after, before)
			}
		})
	}
}

// Once a state directory is put right, it is written to again. What stood there
// before is read at the next start, after somebody has looked at it.
func TestStateDirectoryIsPutRight(t *testing.T) {
	e, _, _ := newTestEngine(t)
	must(t, os.MkdirAll(e.paths.State, 0o755), os.Chmod(e.paths.State, 0o777))
	e.LoadState()
	if _, err := e.Off(t.Context(), 0); err == nil {
		t.Error("opened")
	}
	must(t, os.Chmod(e.paths.State, 0o700))
	e.catchUp()
	if _, err := e.Off(t.Context(), 0); err != nil {
		t.Error(err)
	}
	s, err := e.tableStatus(t.Context())
	must(t, err)
	if has(s.Problems, "state-unwritable", "") {
		t.Errorf("status: %+v", s.Problems)
	}
}

// Anything in the place of any file: it is never followed, never waited for, and
// never believed; the policy is in force, and status names the path.
func TestBadStateFiles(t *testing.T) {
	kinds := map[string]func(t *testing.T, path, secret string){
		"a link":         func(t *testing.T, path, secret string) { must(t, os.Symlink(secret, path)) },
		"a link to none": func(t *testing.T, path, secret string) { must(t, os.Symlink(secret+".not", path)) },
		"a named pipe":   func(t *testing.T, path, _ string) { must(t, syscall.Mkfifo(path, 0o600)) },
		"a directory":    func(t *testing.T, path, _ string) { must(t, os.MkdirAll(filepath.Join(path, "full"), 0o700)) },
		"huge": func(t *testing.T, path, _ string) {
			must(t, os.WriteFile(path, []byte(strings.Repeat(" ", 6<<20)), 0o600))
		},
		"garbage": func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, []byte("\x00{]= \xff"), 0o600)) },
		"empty":   func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, nil, 0o600)) },
	}
	for kind, put := range kinds {
		for _, file := range []string{"allow.json", "off.json", "forced.json", "last-config.toml", "ranges/current", "ranges"} {
			t.Run(file+" is "+kind, func(t *testing.T) {
				e, table, _ := newTestEngine(t)
				e.self.Running = true
				secret := filepath.Join(t.TempDir(), "secret")
				must(t, os.WriteFile(secret, []byte(`[{"network":"0.0.0.0/1","expires":"2999-01-01T00:00:00Z"}]`), 0o600))
				path := filepath.Join(e.paths.State, file)
				must(t, os.MkdirAll(filepath.Dir(path), 0o700))
				put(t, path, secret)
				writeFile(t, e.paths.Config, "[web]\ntcp = [443, 8443]\n")
				e.LoadState()
				e.LoadConfigOrFallback()
				if _, err := e.Pass(t.Context()); err != nil {
					t.Fatal(err)
				}
				if table.admits("1.2.3.4", 8443) || !table.admits("104.16.0.1", 8443) {
					t.Error("the policy is not in force")
				}
				e.save()
				e.keepForced(nil)
				if _, err := e.Allow(t.Context(), netip.MustParsePrefix("192.0.2.1/32"), time.Hour); err != nil && !strings.Contains(err.Error(), path) {
					t.Errorf("allow: %v", err)
				}
				if b, _ := os.ReadFile(secret); !strings.HasPrefix(string(b), `[{"network":"0.0.0.0/1"`) {
					t.Errorf("the file behind the link is now %q", b)
				}
				if _, err := os.Stat(secret + ".not"); err == nil {
					t.Error("a file was made behind the link")
				}
			})
		}
	}
}

// What stands in the way of a file is named by status, with its path and a cure.
func TestStatusNamesWhatIsInTheWay(t *testing.T) {
	for _, file := range []string{"allow.json", "off.json", "forced.json", "last-config.toml", "ranges/book"} {
		e, _, _ := newTestEngine(t)
		e.self.Running = true
		path := filepath.Join(e.paths.State, file)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700), syscall.Mkfifo(path, 0o600))
		e.LoadState()
		e.LoadConfigOrFallback()
		_, err := e.Pass(t.Context())
		must(t, err)
		s, err := e.tableStatus(t.Context())
		must(t, err)
		named := false
		for _, p := range s.Problems {
			named = named || strings.Contains(p.Text, path) && strings.Contains(p.Cure, "remove")
		}
		if !named {
			t.Errorf("%s: %+v", file, s.Problems)
		}
	}
}

// A disk that cannot be written, in the lab's own mounts.
func TestReadOnlyDisk(t *testing.T) {
	e, table, _ := newTestEngine(t)
	must(t, os.MkdirAll(e.paths.State, 0o700), unix.Mount("tmpfs", e.paths.State, "tmpfs", unix.MS_RDONLY, "mode=700"))
	t.Cleanup(func() { must(t, unix.Unmount(e.paths.State, 0)) })
	e.LoadState()
	e.LoadConfigOrFallback()
	if _, err := e.Pass(t.Context()); err != nil || table.admits("198.51.100.7", 443) {
		t.Errorf("the policy is not in force: %v", err)
	}
	_, err := e.Off(t.Context(), 0)
	if err == nil || !strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), e.paths.State) || table.table == nil {
		t.Errorf("off: %v", err)
	}
	s, err := e.tableStatus(t.Context())
	must(t, err)
	if !has(s.Problems, "state-unwritable", e.paths.off()) {
		t.Errorf("status: %+v", s.Problems)
	}
	must(t, unix.Mount("", e.paths.State, "", unix.MS_REMOUNT, "mode=700"))
	e.catchUp()
	if _, err := e.Pass(t.Context()); err != nil || len(e.unwritten) != 0 {
		t.Errorf("not written down though the disk can be written again: %v, %v", e.unwritten, err)
	}
}

// A runtime directory of others is not used: nobody's lock or socket can be
// believed there. The policy is put in force before the daemon gives up.
func TestBadRuntimeDirectories(t *testing.T) {
	for _, bad := range badDirs() {
		t.Run(bad.name, func(t *testing.T) {
			engine, table, _ := newTestEngine(t)
			must(t, os.MkdirAll(engine.paths.Runtime, 0o755))
			bad.make(t, engine.paths.Runtime)
			release, err := engine.paths.acquire("run")
			if err == nil {
				release()
			}
			if bad.says == "" {
				must(t, err)
				return
			}
			if err == nil || !strings.Contains(err.Error(), engine.paths.Runtime) || refusalOf(err).Hint == "" {
				t.Errorf("got %v", err)
			}
			d := &Daemon{engine: engine, opts: Options{Log: engine.log, Level: &slog.LevelVar{}}}
			if got := d.closeWithoutLock(t.Context(), err); !errors.Is(got, err) || table.table == nil || table.admits("198.51.100.7", 443) {
				t.Errorf("not closed, or %v", got)
			}
		})
	}
}

// The lock and the socket: what is in their place is not followed.
func TestBadRuntimeFiles(t *testing.T) {
	kinds := map[string]func(t *testing.T, path, secret string){
		"a link":           func(t *testing.T, path, secret string) { must(t, os.Symlink(secret, path)) },
		"a named pipe":     func(t *testing.T, path, _ string) { must(t, syscall.Mkfifo(path, 0o600)) },
		"a full directory": func(t *testing.T, path, _ string) { must(t, os.MkdirAll(filepath.Join(path, "full"), 0o700)) },
	}
	for kind, put := range kinds {
		t.Run(kind, func(t *testing.T) {
			engine, table, _ := newTestEngine(t)
			p := engine.paths
			secret := filepath.Join(t.TempDir(), "secret")
			must(t, os.WriteFile(secret, []byte("secret"), 0o600), os.MkdirAll(p.Runtime, 0o755))
			put(t, p.lock(), secret)
			put(t, p.socket(), secret)
			_, err := p.acquire("run")
			if err == nil || !strings.Contains(err.Error(), p.lock()) || !strings.Contains(refusalOf(err).Hint, p.lock()) {
				t.Errorf("lock: %v (%s)", err, refusalOf(err).Hint)
			}
			d := &Daemon{engine: engine, opts: Options{Paths: p, Log: engine.log, Level: &slog.LevelVar{}}}
			must(t, d.start(t.Context()))
			control, err := d.serve(t.Context())
			switch {
			case err == nil:
				control.Close()
			case !strings.Contains(err.Error(), p.socket()) || !strings.Contains(refusalOf(err).Hint, p.socket()):
				t.Errorf("socket: %v (%s)", err, refusalOf(err).Hint)
			}
			if b, _ := os.ReadFile(secret); string(b) != "secret" || table.admits("198.51.100.7", 443) {
				t.Errorf("the file behind the link is now %q, or the policy is not in force", b)
			}
		})
	}
}

// The same with the real kernel: `cfwall run` cannot stay, and leaves the host closed.
func TestRunInABadRuntimeDirectoryClosesTheHost(t *testing.T) {
	s := newSite(t)
	p := pathsIn(t.TempDir())
	must(t, os.Mkdir(p.Runtime, 0o755), os.Chmod(p.Runtime, 0o777))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // should it stay after all
	defer cancel()
	s.Web.Do(func() {
		err := Run(ctx, Options{Paths: p, Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}})
		if err == nil || !strings.Contains(err.Error(), p.Runtime) {
			t.Errorf("got %v", err)
		}
		if state, err := kernel.New().Read(t.Context(), firewall.FamilyINET); err != nil || state.Table == nil {
			t.Errorf("there is no table: %v", err)
		}
	})
}

// Whatever stands in the place of the config for a while is refused, and once the
// file is back it is read.
func TestSomethingElseInPlaceOfTheConfig(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string){
		"a pipe that nobody writes to": func(t *testing.T, path string) { must(t, syscall.Mkfifo(path, 0o600)) },
		"a directory":                  func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) },
		"a device without an end":      func(t *testing.T, path string) { must(t, os.Symlink("/dev/zero", path)) },
		"a file of a gigabyte": func(t *testing.T, path string) {
			must(t, os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<30))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, _, _ := newTestEngine(t)
			e.hurry()
			must(t, os.RemoveAll(e.paths.Config))
			put(t, e.paths.Config)
			_, text, err := e.readConfig()
			if err == nil || isNoAnswer(err) || len(text) > longestConfig {
				t.Errorf("%d bytes, %v", len(text), err)
			}
			must(t, os.RemoveAll(e.paths.Config))
			writeFile(t, e.paths.Config, "[web]\ntcp = [8443]\n")
			if c, _, err := e.readConfig(); err != nil || len(c.Policy.TCP) != 1 {
				t.Errorf("once the file is back: %v, %v", c.Policy.TCP, err)
			}
		})
	}
}

// What could not be read is named until the file is whole again: a fetch of the
// list says nothing about it.
func TestUnreadableStateIsNamedUntilItIsWritten(t *testing.T) {
	e, _, fetcher := newTestEngine(t)
	fetcher.answer = down
	must(t, os.MkdirAll(e.paths.State, 0o750), os.WriteFile(e.paths.allow(), []byte("{garbage"), 0o600))
	e.LoadState()
	named := func() bool {
		s, err := e.tableStatus(t.Context())
		must(t, err)
		return has(s.Problems, "state-unreadable", e.paths.allow())
	}
	_, _ = e.FetchRanges(t.Context())
	if !named() {
		t.Error("after a fetch it is not named any more")
	}
	if _, err := e.Allow(t.Context(), netip.MustParsePrefix("198.51.100.7/32"), time.Hour); err != nil || named() {
		t.Errorf("it is named though it was written: %v", err)
	}
}

// The daemon starts before /var is there, which it may not make itself. What was
// stored comes into force once it is.
func TestStateThatIsMountedLater(t *testing.T) {
	e, _, _ := newTestEngine(t)
	above := t.TempDir()
	e.paths.State = filepath.Join(above, "lib", "cfwall")
	must(t, os.WriteFile(filepath.Join(above, "lib"), nil, 0o600)) // nobody can make a directory below it, root neither
	e.LoadState()
	log := &bytes.Buffer{}
	e.log = slog.New(slog.NewTextHandler(log, nil))
	if e.makeState() {
		t.Fatal("it was made")
	}
	e.LoadConfigOrFallback()
	s, err := e.tableStatus(t.Context())
	must(t, err)
	if !has(s.Problems, "state-missing", e.paths.State) {
		t.Errorf("status: %+v", s.Problems)
	}
	if e.catchUp() {
		t.Error("it caught up with nothing")
	}
	if n := strings.Count(log.String(), "there is no state directory"); n != 1 {
		t.Errorf("the log says %d times that there is none", n)
	}
	must(t, os.Remove(filepath.Join(above, "lib")), os.MkdirAll(e.paths.State, 0o750))
	plant(t, e.paths)
	if !e.catchUp() || len(e.state.live(e.clock())) != 1 {
		t.Error("what was stored is not in force")
	}
	s, err = e.tableStatus(t.Context())
	must(t, err)
	if has(s.Problems, "state-missing", "") || e.missing {
		t.Errorf("status: %+v", s.Problems)
	}
}
