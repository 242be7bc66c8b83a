package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// A moment is one reading of this host's clocks.
type moment struct {
	wall time.Time     // people and time servers set it
	boot string        // which start of the kernel it is after
	up   time.Duration // since then, suspended or not: nobody can set it
}

// clock reads them.
func (s surroundings) clock() moment { return moment{s.wallClock(), s.boot, s.sinceBoot()} }

// bootID names this start of the kernel. Where it is hidden each process is
// after a start of its own: then deadlines on disk go by the wall clock.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if id := strings.TrimSpace(string(b)); err == nil && id != "" {
		return id
	}
	return fmt.Sprintf("unknown to process %d of %d", os.Getpid(), time.Now().UnixNano())
}

// A deadline is a time to come that no step of the wall clock brings nearer or
// puts off: in the boot in which it was set, the time since boot counts. After
// another boot there is only the wall clock to go by. The zero one never comes.
type deadline struct {
	At   time.Time     `json:"at,omitzero"` // by the wall clock, when it was set
	For  time.Duration `json:"for,omitzero"`
	Boot string        `json:"boot,omitempty"`
	Up   time.Duration `json:"up,omitzero"`
}

// in sets a deadline.
func (m moment) in(lasting time.Duration) deadline {
	return deadline{m.wall.Add(lasting).Round(0), lasting, m.boot, m.up + lasting}
}

func (d deadline) isZero() bool { return d.At.IsZero() }

// left is never more than it was when the deadline was set: a clock that starts
// in the past must not put it off for years.
func (d deadline) left(m moment) time.Duration {
	if d.Boot == m.boot {
		return d.Up - m.up
	}
	left := min(d.At.Sub(m.wall), forever)
	if d.For > 0 {
		left = min(left, d.For)
	}
	return left
}

// at is when it comes by the wall clock as that is now; in the same words each
// time, unless somebody has set it.
func (d deadline) at(m moment) time.Time {
	if d.isZero() {
		return time.Time{}
	}
	at := m.wall.Add(d.left(m)).Round(0)
	if at.Sub(d.At).Abs() < time.Second {
		return d.At
	}
	return at
}

// here is a deadline of another boot, counted from now on by the time since
// this one.
func (d deadline) here(m moment) deadline {
	if !d.elsewhere(m) {
		return d
	}
	return m.in(d.left(m))
}

// elsewhere holds for a deadline of another boot.
func (d deadline) elsewhere(m moment) bool { return !d.isZero() && d.Boot != m.boot }

// UnmarshalJSON also reads a bare time, which is how older versions kept it.
func (d *deadline) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte(`"`)) {
		*d = deadline{}
		return json.Unmarshal(b, &d.At)
	}
	type fields deadline
	return json.Unmarshal(b, (*fields)(d))
}
