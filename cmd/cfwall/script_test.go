package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

func TestMain(m *testing.M) {
	testscript.Main(inLab{m}, map[string]func(){"cfwall": inSandbox(main), "forbidden": inSandbox(forbidden), "unprivileged": unprivileged})
}

// inLab runs the tests where no rule of theirs can touch this machine.
type inLab struct{ m *testing.M }

func (l inLab) Run() int { return lab.Main(l.m) }

// unprivileged runs a command without any capability.
func unprivileged() {
	runtime.LockOSThread() // the bounding set is the thread's, and of what it becomes
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && err != unix.EINVAL {
			panic(err) // EINVAL: this kernel does not have it
		}
	}
	path, err := exec.LookPath(os.Args[1])
	if err == nil {
		err = unix.Exec(path, os.Args[1:], os.Environ())
	}
	panic(err)
}

// TestScripts runs each script on a web host of its own, whose /etc, /run and
// /var/lib are the script's directories of that name.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("../../testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no scripts (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			lab.Kernel(t)
			s := &script{site: lab.NewSite(t), sandbox: newSandbox(t)}
			defer expectNoCrash(t, s.sandbox)
			for _, network := range visitors {
				s.site.Client.Anycast(netip.MustParsePrefix(network))
			}
			deadline, _ := t.Deadline()
			// Programs start in the namespaces of the thread that starts them.
			s.site.Web.Do(func() {
				testscript.RunT(inPlace{t}, testscript.Params{
					Files: []string{file}, Setup: s.setup, Cmds: s.commands(),
					RequireUniqueNames: true, Deadline: deadline,
				})
			})
		})
	}
}

// visitors are the networks of this Internet: one of Cloudflare's of either
// family, one that it may add, and those of examples.
var visitors = []string{"173.245.48.0/20", "2400:cb00::/32", "198.51.100.0/24", "199.27.128.0/21", "203.0.113.0/24", "2001:db8:1::/48"}

// inPlace runs a script where RunT is called, and not in a goroutine, which
// would be on another thread.
type inPlace struct{ *testing.T }

func (t inPlace) Run(_ string, f func(testscript.T)) { f(t) }

// Parallel has been called.
func (inPlace) Parallel() {}

func (inPlace) Verbose() bool { return testing.Verbose() }

func (s *script) setup(e *testscript.Env) error {
	// Never unlocked: this thread ends with the test, as no other can use it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	for _, dir := range []string{"/etc", "/run", "/var/lib"} {
		own := filepath.Join(e.WorkDir, dir)
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(own, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	// A program that looks for races would sleep a second at its end.
	e.Setenv("GORACE", "atexit_sleep_ms=0")
	e.Setenv(sandboxDir, s.sandbox)
	return s.listenForNotices(e)
}
