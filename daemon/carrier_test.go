package daemon

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/sshd"
)

// expectRefused is about refusals that --force overrides.
func expectRefused(t *testing.T, e *Engine, own sshd.Session, says string) {
	t.Helper()
	_, err := e.Apply(t.Context(), Order{Session: own})
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Exit != ExitUsage || !strings.Contains(err.Error(), says) || !strings.Contains(refusal.Hint, "--force") {
		t.Errorf("got %v, want %q", err, says)
	}
	if _, err := e.Apply(t.Context(), Order{Session: own, Force: true}); err != nil {
		t.Errorf("--force: %v", err)
	}
}

// The port of a VPN is not closed under a session that comes by it.
func TestLockoutOfTheVPNThatCarriesASession(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Web.ListenUDP(":51820")
	for _, open := range []bool{false, true} {
		e, table, _ := newTestEngine(t)
		e.table = modeTable{table}
		own := surround(t, e, "sshd [::]:22, own 10.8.0.2 at 10.8.0.1:22 by wg0")
		w := wish{drop: true, open: []string{"22/tcp from 192.0.2.7"}, interfaces: []string{"wg0"}}
		if open {
			w.open = append(w.open, "51820/udp")
		}
		writeFile(t, e.paths.Config, w.text())
		s.Web.Do(func() {
			if _, err := e.Apply(t.Context(), Order{Session: own}); open != (err == nil) || err != nil && !strings.Contains(err.Error(), "port 51820/udp may carry the VPN") {
				t.Errorf("open: %t, but %v", open, err)
			}
		})
	}
}

// One that comes by this host itself comes by no VPN.
func TestLockoutOfNoVPN(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Web.ListenUDP(":51820")
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	own := surround(t, e, "sshd 127.0.0.1:22, own 127.0.0.1 at 127.0.0.1:22 by lo")
	writeFile(t, e.paths.Config, wish{drop: true, open: []string{"25/tcp"}}.text())
	s.Web.Do(func() {
		if _, err := e.Apply(t.Context(), Order{Session: own}); err != nil {
			t.Error(err)
		}
	})
}

// A session that another program brings is not risked.
func TestLockoutOfTheProgramThatBringsASession(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.host = func() (firewall.Host, error) {
		return firewall.Host{IPv6: true, Ephemeral: []firewall.PortRange{{First: 32768, Last: 60999}}}, nil
	}
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.connections = func() ([]kernel.Connection, error) {
		return []kernel.Connection{{Local: netip.MustParseAddrPort("192.0.2.2:40000"), Remote: netip.MustParseAddrPort("203.0.113.9:22")}}, nil
	}
	ended := 0
	e.destroy = func(kernel.Connection) error { ended++; return nil }
	writeFile(t, e.paths.Config, "[outbound]\npolicy = \"drop\"\n")
	own := sshd.Session{Local: netip.MustParseAddrPort("127.0.0.1:22"), Remote: netip.MustParseAddrPort("127.0.0.1:50000")}
	expectRefused(t, e, own, "comes by another program on this host")
	if ended != 1 {
		t.Errorf("%d connections were ended by force", ended)
	}
}

// A [tunnel] user is not taken that refuses the cloudflared that runs.
func TestTunnelUserThatRefusesCloudflared(t *testing.T) {
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.processes = func() []cloudflared.Process { return []cloudflared.Process{{PID: 675, UID: 0}} }
	writeFile(t, e.paths.Config, "[outbound]\npolicy = \"drop\"\n[tunnel]\nuser = \"4711\"\n")
	expectRefused(t, e, sshd.Session{}, "[tunnel] user is 4711, but cloudflared (pid 675) runs as user 0")
	writeFile(t, e.paths.Config, "[outbound]\npolicy = \"drop\"\n[tunnel]\nuser = \"0\"\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Error(err)
	}
}

// At the start a port is left open for a session's client, and for nobody else.
func TestLockoutAtTheStartOfASession(t *testing.T) {
	for _, c := range []struct{ config, ssh string }{
		{"[inbound]\npolicy = \"drop\"\nopen = [\"22/tcp from 203.0.113.0/24\"]\n", "sshd [::]:22, session 198.51.100.7 at 192.0.2.2:22"},
		{"[web]\ntcp = [2222]\n", "session 198.51.100.7 at 192.0.2.2:2222"},
	} {
		e, table, _ := newTestEngine(t)
		e.table = modeTable{table}
		surround(t, e, c.ssh)
		writeFile(t, e.paths.Config, c.config)
		e.LoadConfigOrFallback()
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		port := uint16(22)
		if strings.Contains(c.ssh, ":2222") {
			port = 2222
		}
		if !table.admits("198.51.100.7", port) || table.admits("198.51.100.8", port) {
			t.Errorf("port %d is open to the session: %t, to others: %t", port, table.admits("198.51.100.7", port), table.admits("198.51.100.8", port))
		}
	}
}
