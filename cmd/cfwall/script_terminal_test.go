package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// A terminal is where somebody sits before a command.
type terminal struct {
	keyboard *os.File
	cmd      *exec.Cmd
	ended    chan struct{}

	mu     sync.Mutex
	screen strings.Builder
}

// Write implements io.Writer.
func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.screen.Write(b)
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ReplaceAll(t.screen.String(), "\r\n", "\n")
}

// onTerminal starts a command on a terminal of its own, under a name.
func (s *script) onTerminal(ts *testscript.TestScript, _ bool, args []string) {
	keyboard, end, err := openTerminal(ts.MkAbs("pts"))
	ts.Check(err)
	defer end.Close()
	name, program := args[0], args[1]
	path := program
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], program)
	}
	t := &terminal{keyboard: keyboard, cmd: exec.Command(path, args[2:]...), ended: make(chan struct{})}
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = end, end, end
	t.cmd.Env = append(os.Environ(), "NO_COLOR=1", "PATH="+ts.Getenv("PATH"), "SSH_CONNECTION="+ts.Getenv("SSH_CONNECTION"), sandboxDir+"="+s.sandbox)
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	ts.Check(t.cmd.Start())
	ts.Defer(func() { _ = t.cmd.Process.Kill(); <-t.ended })
	go func() { _, _ = io.Copy(t, keyboard) }() // until its other end is closed
	go func() { defer close(t.ended); _ = t.cmd.Wait() }()
	if s.terminals == nil {
		s.terminals = make(map[string]*terminal)
	}
	s.terminals[name] = t
}

// openTerminal makes a pair of pseudo-terminals (pts(4)), in a file system of
// its own: this machine's may be closed.
func openTerminal(dir string) (keyboard, end *os.File, err error) {
	if _, err := os.Stat(dir); err != nil {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, nil, err
		}
		if err := unix.Mount("devpts", dir, "devpts", 0, "newinstance,ptmxmode=0600"); err != nil {
			return nil, nil, fmt.Errorf("mounting terminals: %w", err)
		}
	}
	keyboard, err = os.OpenFile(filepath.Join(dir, "ptmx"), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(keyboard.Fd())
	err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	if err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	end, err = os.OpenFile(filepath.Join(dir, strconv.Itoa(number)), os.O_RDWR|unix.O_NOCTTY, 0)
	return keyboard, end, err
}

func (s *script) shows(ts *testscript.TestScript, _ bool, args []string) {
	t, want := s.terminals[args[0]], regexp.MustCompile("(?m)"+args[1])
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if want.MatchString(t.text()) {
			return
		}
	}
	ts.Fatalf("no %q on the terminal after %v:\n%s", args[1], patience, t.text())
}

// interrupt is Ctrl-C.
func (s *script) interrupt(ts *testscript.TestScript, _ bool, args []string) {
	_, err := s.terminals[args[0]].keyboard.Write([]byte{3})
	ts.Check(err)
}

// press types what no text of a script can hold.
func (s *script) press(ts *testscript.TestScript, _ bool, args []string) {
	keys := map[string]byte{"Ctrl-S": 19, "Ctrl-Z": 26, "Enter": '\r', "y": 'y', "n": 'n'}
	for _, key := range args[1:] {
		_, err := s.terminals[args[0]].keyboard.Write([]byte{keys[key]})
		ts.Check(err)
	}
}

// hangUp is the loss of the connection that a terminal came by.
func (s *script) hangUp(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(s.terminals[args[0]].keyboard.Close())
}

func (s *script) ended(ts *testscript.TestScript, neg bool, args []string) {
	t := s.terminals[args[0]]
	if neg {
		select {
		case <-t.ended:
			ts.Fatalf("it has ended:\n%s", t.text())
		default:
			return
		}
	}
	select {
	case <-t.ended:
	case <-time.After(patience):
		ts.Fatalf("it has not ended after %v:\n%s", patience, t.text())
	}
	if code := strconv.Itoa(t.cmd.ProcessState.ExitCode()); code != args[1] {
		ts.Fatalf("exit code %s, want %s:\n%s", code, args[1], t.text())
	}
}

func (s *script) sigkill(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(s.terminals[args[0]].cmd.Process.Kill())
	<-s.terminals[args[0]].ended
}
