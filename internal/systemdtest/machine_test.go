package systemdtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for a busy machine; a condition that comes true ends the wait.
const patience = 30 * time.Second

// A machine is a disk that has booted at a site. It loses its power with its
// test, if not before.
type machine struct {
	*testing.T
	*disk
	cgroups []string // in which all its processes are
	nspawn  *exec.Cmd
	off     chan struct{} // closed when it has no power any more
	init    string        // the PID of its systemd, as seen from here
	console *bytes.Buffer // to be read when it is off
}

var machines atomic.Int64

// boot switches a machine on and returns when its systemd has started all.
func boot(t *testing.T, d *disk, s *site) *machine {
	t.Helper()
	m := powerOn(t, d, s)
	m.await("the machine is up", func() bool {
		state, _ := m.try("systemctl", "is-system-running")
		return slices.Contains([]string{"running\n", "degraded\n"}, state)
	})
	return m
}

// powerOn switches a machine on and returns when its systemd is there.
func powerOn(t *testing.T, d *disk, s *site) *machine {
	t.Helper()
	m := &machine{T: t, disk: d, off: make(chan struct{}), console: new(bytes.Buffer), cgroups: newCgroups(t)}
	m.nspawn = exec.Command("sh", append([]string{"-c", inOwnCgroup, "sh", strings.Join(m.cgroups, " ")}, nspawn(d.root)...)...)
	m.nspawn.Stdout, m.nspawn.Stderr = m.console, m.console
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	s.web.Start(m.nspawn)
	go func() { defer close(m.off); _ = m.nspawn.Wait() }()
	t.Cleanup(m.end)
	m.await("the machine has an init", func() bool { return m.findInit() })
	return m
}

// end takes the power away. Where the test failed it shows what happened.
func (m *machine) end() {
	var journal string
	if m.Failed() && m.init != "" {
		journal, _ = m.try("journalctl", "-b", "-n", "200", "-o", "short-monotonic")
	}
	m.cut()
	if m.Failed() {
		m.Logf("the journal of the machine:\n%s\nand its console:\n%s", journal, m.console)
	}
}

// inOwnCgroup runs a program in a cgroup that no other machine has. systemd-nspawn
// makes one of a fixed name below its own; two machines in that would share
// their services, and to stop one would be to stop the other's.
const inOwnCgroup = `for dir in $1; do mkdir -p "$dir" && echo $$ >"$dir/cgroup.procs"; done; shift; exec "$@"`

// newCgroups names a cgroup that no other machine has, in each hierarchy.
func newCgroups(t *testing.T) (dirs []string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/mounts")
	check(t, err)
	name := fmt.Sprintf("cfwall-%d-%d", os.Getpid(), machines.Add(1))
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if f[2] == "cgroup2" || f[2] == "cgroup" && strings.Contains(f[3], "name=systemd") {
			dirs = append(dirs, filepath.Join(f[1], name))
		}
	}
	return dirs
}

// nspawn is the program that boots a tree, in the network namespace that it is
// started in. It is the first of a PID namespace, so nothing of the machine
// outlives it, and it does not outlive this process.
func nspawn(root string) []string {
	return []string{
		"unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
		"systemd-nspawn", "--quiet", "--boot", "--directory=" + root, "--machine=web", "--console=read-only",
		"--network-namespace-path=/proc/self/ns/net", "--capability=CAP_NET_ADMIN",
		"--system-call-filter=bpf", "--capability=CAP_BPF", // for IPAddressAllow= and RestrictAddressFamilies=
		"--register=no", "--keep-unit", // this machine may have no systemd itself
		"--link-journal=no", "--resolv-conf=off", "--timezone=off", // its disk is its own
	}
}

// findInit looks for the systemd of the machine: a child of nspawn, which is a
// child of unshare.
func (m *machine) findInit() bool {
	for _, nspawn := range children(strconv.Itoa(m.nspawn.Process.Pid)) {
		for _, child := range children(nspawn) {
			status, _ := os.ReadFile("/proc/" + child + "/status")
			comm, _ := os.ReadFile("/proc/" + child + "/comm")
			if bytes.Contains(status, []byte("\t1\n")) && string(comm) == "systemd\n" {
				m.init = child
				return true
			}
		}
	}
	return false
}

func children(pid string) []string {
	list, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	return strings.Fields(string(list))
}

// cut takes the power away, and returns when the last process is gone: with the
// first all are killed, but none is waited for. Only then a cgroup can be removed.
func (m *machine) cut() {
	m.Helper()
	_ = m.nspawn.Process.Kill()
	<-m.off
	for _, dir := range m.cgroups {
		for late := time.Now().Add(patience); exists(dir); time.Sleep(5 * time.Millisecond) {
			_ = exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+").Run()
			if time.Now().After(late) {
				m.Fatalf("after %v, not all of the machine is gone: %s", patience, dir)
			}
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// shutDown powers the machine off as its administrator would.
func (m *machine) shutDown() {
	m.Helper()
	pid, err := strconv.Atoi(m.init)
	check(m.T, err)
	const powerOff = unix.Signal(34 + 4) // SIGRTMIN+4 (systemd(1))
	check(m.T, unix.Kill(pid, powerOff))
	select {
	case <-m.off:
	case <-time.After(patience):
		m.Fatal("the machine does not shut down")
	}
}

// command is a program that runs on the machine.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"-t", m.init, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=cat", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = time.Second
	return cmd
}

// try runs a program and returns all that it printed.
func (m *machine) try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := m.command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// run runs a program that must succeed, and returns what it printed.
func (m *machine) run(name string, args ...string) string {
	m.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// property is what systemd knows about a unit.
func (m *machine) property(unit, name string) string {
	m.Helper()
	return strings.TrimSpace(m.run("systemctl", "show", "--value", "-p", name, unit))
}

// await waits until something holds.
func (m *machine) await(what string, holds func() bool) {
	m.Helper()
	for late := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-m.off:
			m.Fatalf("before %s, the machine went off", what)
		default:
		}
		if time.Now().After(late) {
			m.Fatalf("%v are over before %s", patience, what)
		}
	}
}

// run runs a program of this machine that must succeed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
