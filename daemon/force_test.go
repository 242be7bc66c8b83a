package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/sshd"
)

// --force holds for one command.
func TestLockoutByForce(t *testing.T) {
	for _, c := range []trap{guardedTraps[3], inboundTraps[0], sessionTraps[0]} {
		t.Run(c.name, func(t *testing.T) {
			e, table, _ := newTestEngine(t)
			e.table = modeTable{table}
			own := surround(t, e, c.ssh)
			writeFile(t, e.paths.Config, c.wish.text())
			r, err := e.Apply(t.Context(), Order{Force: true, Session: own})
			if err != nil || len(r.Forced) == 0 || r.Forced[0].Port != c.port {
				t.Fatalf("apply --force: %v, %v", r.Forced, err)
			}
			if table.admits("198.51.100.7", c.port) {
				t.Errorf("port %d is open", c.port)
			}
			before := table.applied
			_, err = e.Apply(t.Context(), Order{Session: own})
			expectRefusal(t, "the next", err, c.port, "")
			if table.applied != before || table.admits("198.51.100.7", c.port) {
				t.Error("the refused one has changed the table")
			}
			if own.Remote.IsValid() {
				return // at a start nobody gives a command
			}
			again := *e // a daemon starts: what was forced stays
			again.state = state{}
			again.LoadState()
			again.LoadConfigOrFallback()
			if _, err := again.Pass(t.Context()); err != nil || table.admits("198.51.100.7", c.port) {
				t.Errorf("after a restart port %d is open (%v)", c.port, err)
			}
			if s, err := again.Status(t.Context()); err != nil || !has(s.Problems, "ssh-closed", fmt.Sprint(c.port)) {
				t.Errorf("status does not say it: %v, %v", s.Problems, err)
			}
		})
	}
}

// What was forced about one port says nothing about another, and is forgotten
// with the next config that needs no force.
func TestLockoutByForceIsAboutOnePort(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.ssh = sshOn(2222)
	writeFile(t, e.paths.Config, "[inbound]\npolicy = \"drop\"\nopen = []\n")
	if _, err := e.Apply(t.Context(), Order{Force: true}); err != nil || table.admits("198.51.100.7", 2222) {
		t.Fatalf("apply --force: %v", err)
	}
	restart := func(port uint16) {
		t.Helper()
		e.ssh = sshOn(port)
		e.LoadState()
		e.LoadConfigOrFallback()
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if restart(22); !table.admits("198.51.100.7", 22) {
		t.Error("SSH has moved to port 22, which nobody has forced, and it is closed")
	}
	writeFile(t, e.paths.Config, "[inbound]\npolicy = \"drop\"\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if restart(2222); !table.admits("198.51.100.7", 2222) {
		t.Error("port 2222 is closed by a force that is over")
	}
}

// The daemon of the unit is not root, and parts of sshd's configuration are root's
// alone on many hosts: that is no reason to refuse a config.
func TestSSHConfigurationOfRootAlone(t *testing.T) {
	for _, test := range []struct {
		err     error
		refused bool
	}{
		{fmt.Errorf("reading the configuration of sshd: %w", fs.ErrPermission), false},
		{errors.New("reading the configuration of sshd: input/output error"), true},
	} {
		e, _, _ := newTestEngine(t)
		e.ssh = func(firewall.Policy, sshd.Session) (sshd.Host, error) { return sshd.Host{}, test.err }
		if err := e.LoadConfig(t.Context(), Order{}); (err != nil) != test.refused {
			t.Errorf("%v: the config is refused: %v", test.err, err)
		}
	}
}
