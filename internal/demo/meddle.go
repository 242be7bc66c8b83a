package main

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/cfwall/cfwall/internal/lab"
)

// meddle does what other programs do to a firewall, by accident or not, kills the
// daemon, and shows what was said.
func (d *daemon) meddle() string {
	var b strings.Builder
	for _, command := range []string{"nft delete table inet cfwall", "nft flush ruleset"} {
		fmt.Fprintf(&b, "$ %s\n%s", command, d.shell(command))
	}
	_ = d.process.Process.Signal(syscall.SIGKILL)
	_ = d.process.Wait() // by the signal: an error
	const list = "nft list tables"
	fmt.Fprintf(&b, "$ kill -9 $(pidof cfwall)\n$ %s\n%s", list, d.shell(list))
	return b.String()
}

// shell runs a program on the web host; what it prints is what is to be seen.
func (d *daemon) shell(command string) string {
	words := strings.Fields(command)
	cmd := exec.Command(words[0], words[1:]...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	d.web.Start(cmd)
	_ = cmd.Wait()
	return out.String()
}

// sameAs says who gets in that did not before.
func sameAs(before, after []lab.Result) string {
	for i := range after {
		if mark(before[i]) != mark(after[i]) {
			return fmt.Sprintf("%v was %s and is %s", after[i].Probe, mark(before[i]), mark(after[i]))
		}
	}
	return fmt.Sprintf("of all %d tries above not one goes otherwise now.", len(after))
}
