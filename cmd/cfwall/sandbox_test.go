package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/systemd"
)

// A sandbox is what the service unit lets the daemon ask of the kernel. The scripts
// run every command in it.
type sandbox struct {
	Calls          []string // that are allowed
	Families       []uint64 // of sockets
	WriteOrExecute bool     // no memory is for both
}

// What a script tells its commands: the directory of the sandbox. What one tells
// itself: that it is in it.
const (
	sandboxDir = "CFWALL_TEST_SANDBOX"
	sandboxed  = "CFWALL_TEST_SANDBOXED"
)

// inSandbox runs a command under the unit's filter as systemd does: from before it
// starts, since the Go runtime asks for something, too. What is forbidden ends the
// command, which then leaves a report in the directory of the sandbox; the runtime's
// first steps end by SIGSYS without one.
func inSandbox(command func()) func() {
	return func() {
		dir := os.Getenv(sandboxDir)
		if os.Getenv(sandboxed) == "" {
			panic(enterSandbox(dir))
		}
		report, err := os.OpenFile(filepath.Join(dir, "crashes"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			err = debug.SetCrashOutput(report, debug.CrashOptions{})
		}
		if err != nil {
			panic(err)
		}
		command()
	}
}

// enterSandbox starts this program again, under the filter.
func enterSandbox(dir string) error {
	var s sandbox
	text, err := os.ReadFile(filepath.Join(dir, "sandbox.json"))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the filter is the thread's, and of what it becomes
	if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Policy: s.policy()}); err != nil {
		return err
	}
	return unix.Exec(program, os.Args, append(os.Environ(), sandboxed+"=1"))
}

// policy allows what the sandbox lists. A trap, unlike a kill, has the Go runtime
// say where it was.
func (s sandbox) policy() seccomp.Policy {
	const protection = 2 // the argument of mmap and mprotect that says what memory is for
	allow := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	where := func(call string, argument uint32, operation seccomp.Operation, value uint64) {
		allow.NamesWithCondtions = append(allow.NamesWithCondtions, seccomp.NameWithConditions{
			Name: call, Conditions: seccomp.ArgumentConditions{{Argument: argument, Operation: operation, Value: value}},
		})
	}
	for _, call := range s.Calls {
		switch {
		case call == "socket":
			for _, family := range s.Families {
				where(call, 0, seccomp.Equal, family)
			}
		case call == "mmap" && s.WriteOrExecute:
			where(call, protection, seccomp.BitsNotSet, unix.PROT_WRITE)
			where(call, protection, seccomp.BitsNotSet, unix.PROT_EXEC)
		case call == "mprotect" && s.WriteOrExecute:
			where(call, protection, seccomp.BitsNotSet, unix.PROT_EXEC)
		default:
			allow.Names = append(allow.Names, call)
		}
	}
	return seccomp.Policy{DefaultAction: seccomp.ActionTrap, Syscalls: []seccomp.SyscallGroup{allow}}
}

// unitSandbox is the one of the unit as it is built in.
var unitSandbox = sync.OnceValues(func() (sandbox, error) {
	out, err := exec.Command("systemd-analyze", "syscall-filter").Output()
	if err != nil {
		return sandbox{}, fmt.Errorf("asking systemd for its sets of system calls: %w", err)
	}
	root, err := os.MkdirTemp("", "unit")
	if err != nil {
		return sandbox{}, err
	}
	defer os.RemoveAll(root)
	dir := filepath.Join(root, "etc/systemd/system")
	err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "cfwall.service"), []byte(systemd.ServiceUnit), 0o600))
	if err != nil {
		return sandbox{}, err
	}
	unit, err := systemd.ReadUnit(root, "cfwall.service")
	if err != nil {
		return sandbox{}, err
	}
	return sandboxOf(unit, parseCallSets(string(out)))
})

// sandboxOf reads the settings of a unit (systemd.exec(5)).
func sandboxOf(unit systemd.Unit, sets callSets) (s sandbox, err error) {
	if s.Calls, err = sets.filtered(unit.Values("Service", "SystemCallFilter")); err != nil {
		return s, err
	}
	families := map[string]uint64{"AF_UNIX": unix.AF_UNIX, "AF_NETLINK": unix.AF_NETLINK, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6}
	for _, line := range unit.Values("Service", "RestrictAddressFamilies") {
		for name := range strings.FieldsSeq(line) {
			family, ok := families[name]
			if !ok {
				return s, fmt.Errorf("the daemon does not need sockets of the family %q", name)
			}
			s.Families = append(s.Families, family)
		}
	}
	s.WriteOrExecute = slices.Equal(unit.Values("Service", "MemoryDenyWriteExecute"), []string{"yes"})
	return s, nil
}

// callSets are systemd's named sets of system calls: what each holds, which may be
// other sets.
type callSets map[string][]string

// parseCallSets reads what systemd-analyze syscall-filter prints.
func parseCallSets(text string) callSets {
	sets, name := make(callSets), ""
	for line := range strings.Lines(text) {
		word := strings.TrimSpace(line)
		switch {
		case word == "" || word[0] == '#':
		case line[0] == '@':
			name = word
		default:
			sets[name] = append(sets[name], word)
		}
	}
	return sets
}

// filtered returns the calls that the lines of SystemCallFilter= leave: those of
// the first line, with those of the lines that follow or, with a tilde, without.
func (sets callSets) filtered(lines []string) ([]string, error) {
	if len(lines) == 0 || lines[0][0] == '~' {
		return nil, fmt.Errorf("the unit does not list the system calls that it allows: %q", lines)
	}
	allowed := make(map[string]bool)
	for _, line := range append([]string{"@default"}, lines...) {
		words, without := strings.CutPrefix(line, "~")
		for word := range strings.FieldsSeq(words) {
			if err := sets.each(word, func(call string) { allowed[call] = !without }); err != nil {
				return nil, err
			}
		}
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	var calls []string
	for call := range machine.SyscallNames {
		if allowed[call] {
			calls = append(calls, call)
		}
	}
	return calls, nil
}

// each calls f for each call that a word of SystemCallFilter= stands for.
func (sets callSets) each(word string, f func(call string)) error {
	if word[0] != '@' {
		f(word)
		return nil
	}
	if sets[word] == nil {
		return fmt.Errorf("systemd has no set of system calls %s", word)
	}
	for _, member := range sets[word] {
		if err := sets.each(member, f); err != nil {
			return err
		}
	}
	return nil
}

// newSandbox prepares the directory of a sandbox.
func newSandbox(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := unitSandbox()
	text, errText := json.Marshal(s)
	if err := errors.Join(err, errText, os.WriteFile(filepath.Join(dir, "sandbox.json"), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// expectNoCrash is for the end of a script, which may not have looked for it.
func expectNoCrash(t *testing.T, dir string) {
	t.Helper()
	if call, report := crashes(t, dir); report != "" {
		where := strings.Join(strings.SplitN(report, "\n\n", 3)[:2], "\n\n") // not what other goroutines were doing
		t.Errorf("a command has crashed; the system call that its unit forbids: %q\n%s", call, where)
	}
}

// crashes reads the reports of commands that have crashed, and names the call that
// the first of them was refused.
func crashes(t *testing.T, dir string) (call, report string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "crashes"))
	if err != nil {
		t.Errorf("no command was in the sandbox: %v", err)
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	// What was asked for stands in a register: in rax on amd64, in r8 on arm64.
	register := regexp.MustCompile(`(?m)^SIGSYS(?s:.*?)^(?:rax|r8) +0x([0-9a-f]+)$`).FindSubmatch(b)
	if register == nil {
		return "", string(b)
	}
	number, _ := strconv.ParseInt(string(register[1]), 16, 32) // the pattern has digits alone
	return machine.SyscallNumbers[int(number)], string(b)
}

// deeds are what the unit forbids, by the system call that is refused, and one
// thing that it does not. Where they were not refused, they would do no harm.
var deeds = map[string]func() error{
	"": func() error {
		if _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		_, err := memory(unix.PROT_READ | unix.PROT_WRITE)
		return err
	},
	"mount":             func() error { return unix.Mount("", "/nowhere", "", 0, "") },
	"ptrace":            func() error { return unix.PtraceAttach(math.MaxInt32) },
	"sethostname":       func() error { return unix.Sethostname(make([]byte, 1000)) },
	"sched_setaffinity": func() error { return unix.SchedSetaffinity(0, nil) }, // of a set that is taken out
	"socket":            func() error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
	"mmap":              func() error { _, err := memory(unix.PROT_WRITE | unix.PROT_EXEC); return err },
	"mprotect": func() error {
		b, err := memory(unix.PROT_WRITE)
		if err != nil {
			return err
		}
		return unix.Mprotect(b, unix.PROT_EXEC)
	},
}

func memory(protection int) ([]byte, error) {
	return unix.Mmap(-1, 0, os.Getpagesize(), protection, unix.MAP_ANON|unix.MAP_PRIVATE)
}

func forbidden() {
	if err := deeds[os.Args[1]](); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// Whatever the unit forbids is noticed, and named.
func TestSandboxCatches(t *testing.T) {
	for call := range deeds {
		dir := newSandbox(t)
		cmd := exec.Command("forbidden", call)
		cmd.Env = append(os.Environ(), sandboxDir+"="+dir)
		out, err := cmd.CombinedOutput()
		got, report := crashes(t, dir)
		if got != call || (err == nil) != (call == "") || (report == "") != (call == "") {
			t.Errorf("%q ended with %v and the refused call %q:\n%s", call, err, got, out)
		}
	}
}
