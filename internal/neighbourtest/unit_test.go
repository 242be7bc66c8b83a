package neighbourtest

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A unit does what systemd does with a service, by the lines of its package.
type unit struct {
	*machine
	lines map[string][]string
	main  *exec.Cmd // nil for a oneshot
}

func (m *machine) unit(name string) *unit {
	m.Helper()
	text, err := os.ReadFile("/usr/lib/systemd/system/" + name + ".service")
	m.check(err)
	u := &unit{machine: m, lines: map[string][]string{}}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			u.lines[key] = append(u.lines[key], value)
		}
	}
	if len(u.lines["ExecStart"]) != 1 {
		m.Fatalf("%s.service starts %q, not one program", name, u.lines["ExecStart"])
	}
	return u
}

func (u *unit) start() {
	u.Helper()
	if slices.Contains(u.lines["Type"], "oneshot") {
		u.exec("ExecStart")
		return
	}
	words := strings.Fields(u.lines["ExecStart"][0])
	u.main = u.background(words[0], words[1:]...)
}

func (u *unit) reload() { u.Helper(); u.exec("ExecReload") }

func (u *unit) stop() {
	u.Helper()
	u.exec("ExecStop")
	if u.main != nil {
		u.end(u.main, unix.SIGTERM)
	}
}

func (u *unit) restart() { u.Helper(); u.stop(); u.start() }

func (u *unit) exec(key string) {
	u.Helper()
	for _, line := range u.lines[key] {
		words := strings.Fields(line)
		for i := range words {
			if words[i] == "$MAINPID" {
				words[i] = strconv.Itoa(u.main.Process.Pid)
			}
		}
		u.run(words[0], words[1:]...)
	}
}
