package daemon

import (
	"net/netip"
	"os"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/sshd"
)

// What root tells of SSH counts for an order, whatever the daemon sees.
func TestRootTellsOfSSH(t *testing.T) {
	e, _, _ := newTestEngine(t)
	e.ssh = sshOn() // it sees nothing
	seen := sshd.Host{Servers: []sshd.Server{{Address: netip.MustParseAddrPort("0.0.0.0:443"), Program: "sshd"}}}
	expectRefusal(t, "an order of root", e.LoadConfig(t.Context(), Order{SSH: &seen}), 443, "")
	e.ssh = sshOn(443) // it takes something else for SSH
	if err := e.LoadConfig(t.Context(), Order{SSH: &sshd.Host{}}); err != nil {
		t.Errorf("root sees no SSH: %v", err)
	}
}

// What a survey has left counts for the start after it, whatever is read again
// meanwhile, and for no other.
func TestSurvey(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.ssh = sshOn()
	must(t, os.MkdirAll(e.paths.Runtime, 0o755), saveJSON(e.disk, e.paths.rootView(), sshd.Host{
		Servers: []sshd.Server{{Address: netip.MustParseAddrPort("[::]:443"), Program: "sshd"}},
	}))
	for _, open := range []bool{true, false} {
		e.survey = e.readSurvey()
		e.LoadConfigOrFallback()
		e.LoadConfigOrFallback() // as when /var is mounted a minute later
		if _, err := e.Pass(t.Context()); err != nil || table.admits("198.51.100.7", 443) != open {
			t.Errorf("open: %v, want %v (%v)", !open, open, err)
		}
	}
}

// The runtime directory is the daemon's user's, who could tell a daemon that is root
// that nobody serves SSH.
func TestRootBelievesNoSurvey(t *testing.T) {
	if os.Geteuid() != 0 {
		lab.Unprivileged(t, "it is about root")
	}
	d := startDaemon(t, func(d *testDaemon) {
		p := d.engine.paths
		d.engine.ssh = sshOn(443)
		must(t, os.MkdirAll(p.Runtime, 0o755), saveJSON(durable.OS{}, p.rootView(), sshd.Host{}))
	})
	if !d.admits(t, "198.51.100.7", 443) {
		t.Error("the port of SSH is closed")
	}
}

// A daemon that is not root cannot tell a login from a knock: strangers must not
// keep a config from coming into force, nor have a port opened for themselves.
func TestKnocksDoNotCount(t *testing.T) {
	e, _, _ := newTestEngine(t)
	stranger := sshd.Session{Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.MustParseAddrPort("198.51.100.7:40000")}
	e.ssh = func(firewall.Policy, sshd.Session) (sshd.Host, error) {
		return sshd.Host{Sessions: []sshd.Session{stranger}}, nil
	}
	writeFile(t, e.paths.Config, "[inbound]\npolicy = \"drop\"\nopen = [\"22/tcp from 192.0.2.0/24\"]\n")
	expectRefusal(t, "what it sees itself", e.LoadConfig(t.Context(), Order{}), 22, "")
	if err := e.LoadConfig(t.Context(), Order{SSH: &sshd.Host{}}); err != nil {
		t.Errorf("root knows that nobody is logged in: %v", err)
	}
}
