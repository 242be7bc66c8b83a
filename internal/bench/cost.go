package main

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

// try runs a program on a host and returns how long it took, its start
// included, and what it printed.
func try(h *lab.Host, program []string) (took time.Duration, output string, err error) {
	var out, complaint bytes.Buffer
	cmd := exec.Command(program[0], program[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	start := time.Now()
	h.Start(cmd)
	err = cmd.Wait()
	took = time.Since(start)
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", program[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return took, out.String(), err
}

// took is how long a program took.
func (b *bench) took(h *lab.Host, program []string) time.Duration {
	took, _ := b.output(h, program)
	return took
}

// tookInside is how long a process of ours took, and how long it says that it
// took.
func (b *bench) tookInside(h *lab.Host, program []string) (took, inside time.Duration) {
	took, output := b.output(h, program)
	return took, b.duration(output)
}

func (b *bench) output(h *lab.Host, program []string) (time.Duration, string) {
	took, output, err := try(h, program)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	return took, output
}

// duration reads what a process of ours printed.
func (b *bench) duration(nanoseconds string) time.Duration {
	ns, err := strconv.ParseInt(nanoseconds, 10, 64)
	if err != nil {
		b.t.Fatalf("reading a duration: %v", err)
	}
	return time.Duration(ns)
}

// peak runs a program on a host and returns its largest resident memory in
// bytes. It stops the program at its end to ask, because the figure that
// wait4(2) gives is never less than the memory of whoever started the program.
func (b *bench) peak(h *lab.Host, program []string) (bytes int64) {
	cmd := exec.Command(program[0], program[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	var err error
	h.Do(func() { // ptrace(2) is between threads
		if err = cmd.Start(); err == nil {
			bytes, err = traceToEnd(cmd.Process.Pid)
		}
	})
	if err != nil {
		b.t.Fatalf("measuring the memory of %v: %v", program, err)
	}
	return bytes
}

// traceToEnd lets a program run that has been stopped at its start.
func traceToEnd(pid int) (peak int64, err error) {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, err
	}
	if err := syscall.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_EXITKILL); err != nil {
		return 0, err
	}
	for signal := 0; ; {
		if err := syscall.PtraceCont(pid, signal); err != nil {
			return 0, err
		}
		if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
			return 0, err
		}
		switch signal = 0; {
		case status.Exited() && status.ExitStatus() == 0:
			return peak, nil
		case !status.Stopped():
			return 0, fmt.Errorf("it ended with wait status %#x", int(status))
		case status.TrapCause() == unix.PTRACE_EVENT_EXIT:
			kilobytes, err := procField(fmt.Sprintf("/proc/%d/status", pid), "VmHWM")
			if err != nil {
				return 0, err
			}
			peak = int64(kilobytes) << 10
		default:
			signal = int(status.StopSignal())
		}
	}
}
