package lab

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// A Program is the T of a program that is no test.
type Program struct{ cleanups []func() }

// Helper is for tests alone.
func (p *Program) Helper() {}

// Cleanup has f called by Close.
func (p *Program) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

// Close cleans up, last thing first.
func (p *Program) Close() {
	for _, f := range slices.Backward(p.cleanups) {
		f()
	}
	p.cleanups = nil
}

// Fatalf prints an error, cleans up and ends the process with exit code 1.
func (p *Program) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "error: "+format+"\n", args...)
	p.Close()
	os.Exit(1)
}

// Start starts a program inside the host. It ends with the test: by SIGTERM,
// or with this process by SIGKILL. Calling its Wait is the caller's part,
// before the cleanup or not at all.
func (h *Host) Start(cmd *exec.Cmd) {
	h.t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	var err error
	h.Do(func() { err = cmd.Start() })
	h.check(err, "starting %s", cmd.Path)
	h.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	})
}
