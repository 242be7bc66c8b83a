package daemon

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/sshd"
)

// newAuditEngine makes an engine on a host with a live connection to a server
// elsewhere, on which no tunnel is up. It counts the connections that it ends.
func newAuditEngine(t *testing.T) (*Engine, *fakeTable, *int) {
	t.Helper()
	e, table, _ := newTestEngine(t)
	e.table = modeTable{table}
	e.host = func() (firewall.Host, error) {
		return firewall.Host{IPv6: true, Ephemeral: []firewall.PortRange{{First: 32768, Last: 60999}}}, nil
	}
	e.processes = func() []cloudflared.Process { return []cloudflared.Process{{PID: 675, UID: 0}} }
	e.ready = func(context.Context, config.Ready) []cloudflared.Instance { return instances(0) }
	e.connections = func() ([]kernel.Connection, error) {
		return []kernel.Connection{{Local: netip.MustParseAddrPort("192.0.2.2:40000"), Remote: netip.MustParseAddrPort("203.0.113.9:25")}}, nil
	}
	ended := 0
	e.destroy = func(kernel.Connection) error { ended++; return nil }
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e, table, &ended
}

// What apply would refuse of a config, it takes with audit = true, for nothing
// is closed; check says then what is in its way, with the same cure.
func TestAuditIsNotRefused(t *testing.T) {
	local := sshd.Session{Local: netip.MustParseAddrPort("127.0.0.1:22"), Remote: netip.MustParseAddrPort("127.0.0.1:50000")}
	for name, test := range map[string]struct {
		config, refused string
		session         sshd.Session
	}{
		"SSH on a guarded port":         {"[web]\ntcp = [443, 2222]\n", "port 2222 is where SSH listens", sshd.Session{}},
		"SSH on a closed port":          {"[inbound]\npolicy = \"drop\"\nopen = []\n", "port 2222 is where SSH listens", sshd.Session{}},
		"no tunnel is up":               {"mode = \"tunnel\"\n", "no tunnel is up", sshd.Session{}},
		"a user who is not the tunnel":  {"[outbound]\npolicy = \"drop\"\n[tunnel]\nuser = \"4711\"\n", "cloudflared (pid 675) runs as user 0", sshd.Session{}},
		"what brings the SSH session":   {"[outbound]\npolicy = \"drop\"\n", "comes by another program on this host", local},
		"nothing":                       {"[outbound]\npolicy = \"drop\"\n", "", sshd.Session{}},
		"nothing, in the other policy":  {"[inbound]\npolicy = \"drop\"\nopen = [\"2222/tcp\"]\n", "", sshd.Session{}},
		"nothing, and the mode is kept": {"[web]\ntcp = [443]\n", "", sshd.Session{}},
	} {
		t.Run(name, func(t *testing.T) {
			e, table, ended := newAuditEngine(t)
			e.ssh = sshOn(2222)
			order := Order{Session: test.session}
			writeFile(t, e.paths.Config, "audit = true\n"+test.config)
			checked, err := e.Check(t.Context(), order, false)
			if err != nil {
				t.Fatalf("check: %v", err)
			}
			if r, err := e.Apply(t.Context(), order); err != nil || !r.Audit || r.Cut != 0 || *ended != 0 {
				t.Fatalf("apply: %+v, %v, %d connections ended", r, err, *ended)
			}
			for _, port := range []uint16{443, 2222, 5432} {
				if !table.admits("198.51.100.7", port) {
					t.Errorf("port %d is closed", port)
				}
			}
			writeFile(t, e.paths.Config, test.config)
			_, err = e.Apply(t.Context(), order)
			if test.refused == "" {
				if err != nil || has(checked.Problems, "audit-hides", "") {
					t.Errorf("in earnest: %v; check said %v", err, checked.Problems)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.refused) || !table.admits("198.51.100.7", 443) {
				t.Fatalf("in earnest: %v", err)
			}
			want := Problem{"audit-hides", Warning, "without audit = true this config would be refused: " + err.Error(), refusalOf(err).Hint}
			if !slices.Contains(checked.Problems, want) {
				t.Errorf("check said %v\nwant %v", checked.Problems, want)
			}
		})
	}
}

// Connections live on under audit, and end with it.
func TestAuditEndsNoConnection(t *testing.T) {
	e, _, ended := newAuditEngine(t)
	for _, step := range []struct {
		config string
		want   int
	}{
		{"audit = true\n[outbound]\npolicy = \"drop\"\n", 0},
		{"[outbound]\npolicy = \"drop\"\n", 1},
	} {
		writeFile(t, e.paths.Config, step.config)
		p, err := e.Plan(t.Context(), Order{})
		if err != nil || len(p.Cuts) != step.want {
			t.Errorf("%q: plan ends %v, %v", step.config, p.Cuts, err)
		}
		if _, err := e.Apply(t.Context(), Order{}); err != nil || *ended != step.want {
			t.Errorf("%q: %d connections ended, want %d (%v)", step.config, *ended, step.want, err)
		}
	}
}

// At the start no port has to be left open for SSH.
func TestAuditAtTheStart(t *testing.T) {
	e, table, _ := newAuditEngine(t)
	e.ssh = sshOn(443)
	writeFile(t, e.paths.Config, "audit = true\n")
	e.LoadConfigOrFallback()
	if _, err := e.Pass(t.Context()); err != nil || !table.admits("198.51.100.7", 443) {
		t.Fatalf("the pass: %v", err)
	}
	if len(e.configProblems) > 0 {
		t.Errorf("problems: %v", e.configProblems)
	}
}

// auditTable remembers what the kernel would.
type auditTable struct{ modeTable }

var lately = time.Now().Round(0)

func (auditTable) Remembered(_ context.Context, _ firewall.Family, sets ...string) ([]kernel.Remembered, error) {
	return map[string][]kernel.Remembered{
		firewall.WouldBeDropped + "4":  {{Protocol: "tcp", Peer: netip.MustParseAddrPort("198.51.100.7:443"), Packets: 5, Last: lately}},
		firewall.WouldBeRejected + "4": {{Protocol: "udp", Peer: netip.MustParseAddrPort("203.0.113.9:53"), Packets: 2, Last: lately}},
	}[sets[0]], nil
}

func TestAuditIsLoud(t *testing.T) {
	e, table, _ := newAuditEngine(t)
	e.table = auditTable{modeTable{table}}
	writeFile(t, e.paths.Config, "audit = true\n[inbound]\npolicy = \"drop\"\n[outbound]\npolicy = \"drop\"\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	s, err := e.Status(t.Context())
	if err != nil || s.Verdict != VerdictUnprotected || !s.Audit || !has(s.Problems, "audit", "nothing is dropped") || !s.Table.Matches {
		t.Errorf("status: %+v, %v", s, err)
	}
	want := &WouldBe{
		Dropped:  []Stranger{{"tcp", netip.MustParseAddr("198.51.100.7"), 443, 5, lately}},
		Rejected: []Rejected{{"udp", netip.MustParseAddrPort("203.0.113.9:53"), 2, lately}},
	}
	if d := cmp.Diff(want, s.WouldBe, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("would be (-want +got):\n%s", d)
	}
	text := metricsText(s, nil, e.tally)
	for _, line := range []string{"cfwall_protected 0\n", "cfwall_audit 1\n", "cfwall_problems{code=\"audit\",severity=\"unprotected\"} 1\n", "{counter=\"would_be_dropped4\"} 0\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("no %q in:\n%s", line, text)
		}
	}
	d := &Daemon{engine: e}
	if _, line, _ := d.line(); !strings.HasPrefix(line, "AUDIT: nothing is dropped; ") {
		t.Errorf("the daemon says %q", line)
	}
	for _, q := range []Question{
		{Source: netip.MustParseAddr("198.51.100.7")},
		{Source: netip.MustParseAddr("198.51.100.7"), Port: 5432},
		{Source: netip.MustParseAddr("203.0.113.9"), Port: 25, Outgoing: true},
	} {
		x, err := e.Why(t.Context(), q)
		if err != nil || x.Verdict != Audited || !strings.HasPrefix(x.Text, "it would be dropped, but audit = true lets everything pass: ") {
			t.Errorf("%+v: %+v, %v", q, x, err)
		}
	}
	if x, err := e.Why(t.Context(), Question{Source: netip.MustParseAddr("104.16.0.1")}); err != nil || x.Verdict != Admitted {
		t.Errorf("Cloudflare: %+v, %v", x, err)
	}
	writeFile(t, e.paths.Config, "audit = false\n")
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	if s, err := e.Status(t.Context()); err != nil || s.Audit || s.WouldBe != nil || has(s.Problems, "audit", "") || s.Verdict == VerdictUnprotected {
		t.Errorf("status without audit: %+v, %v", s, err)
	}
}
