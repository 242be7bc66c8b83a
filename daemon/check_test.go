package daemon

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
)

func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		config         string
		refused        string
		remark, policy string
	}{
		"no file":                      {"", "", "", "80,443"},
		"good":                         {"[web]\ntcp = [8443]\n", "", "", "8443"},
		"a mistake":                    {"[web]\ntpc = [8443]\n", `unknown key "web.tpc"`, "", ""},
		"SSH":                          {"[web]\ntcp = [2222]\n", "port 2222 is where SSH listens", "", ""},
		"UDP of this host's own":       {"[web]\nudp = [40000]\n", "[web] udp 40000", "", ""},
		"TCP of this host's own":       {"[web]\ntcp = [443, 40000]\n", "", "tcp 40000", "443,40000"},
		"interfaces, and nothing else": {"[allow]\ninterfaces = [\"wg0\"]\n", "", "", "80,443"},
	} {
		t.Run(name, func(t *testing.T) {
			e, _, _ := newTestEngine(t)
			e.ssh = sshOn(2222)
			e.host = func() (firewall.Host, error) {
				return firewall.Host{IPv6: true, Ephemeral: []firewall.PortRange{{First: 32768, Last: 60999}}}, nil
			}
			writeFile(t, e.paths.Config, test.config)
			checked, err := e.Check(t.Context(), Order{}, false)
			switch {
			case test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)):
				t.Errorf("the error is %v, want one with %q", err, test.refused)
			case test.refused == "" && err != nil:
				t.Errorf("the error is %v", err)
			case test.refused == "" && firewall.JoinPorts(checked.Config.Policy.TCP) != test.policy:
				t.Errorf("guarded are %s, want %s", firewall.JoinPorts(checked.Config.Policy.TCP), test.policy)
			}
			var texts []string
			for _, r := range checked.Problems {
				texts = append(texts, r.Text)
			}
			if got := strings.Join(texts, "\n"); (test.remark == "") != (got == "") || !strings.Contains(got, test.remark) {
				t.Errorf("the remarks are %q, want %q", got, test.remark)
			}
		})
	}
}

// A file that was edited by hand must not keep the daemon from starting.
func TestEntriesThatAreNoNetworks(t *testing.T) {
	e, table, _ := newTestEngine(t)
	writeFile(t, e.paths.allow(), `[
		{"network": "", "expires": "2099-01-01T00:00:00Z"},
		{"network": "::ffff:198.51.100.1/128", "expires": "2099-01-01T00:00:00Z"},
		{"network": "0.0.0.0/0", "expires": "2099-01-01T00:00:00Z"},
		{"network": "198.51.100.7/32", "expires": "2099-01-01T00:00:00Z"}]`)
	e.LoadState()
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !table.admits("198.51.100.7", 443) || table.admits("198.51.100.1", 443) {
		t.Error("want 198.51.100.7 admitted, and nobody else")
	}
	if len(e.stateProblems) == 0 {
		t.Error("nothing is said about the file")
	}
	for _, n := range []netip.Prefix{{}, netip.MustParsePrefix("::ffff:198.51.100.1/128"), netip.MustParsePrefix("::/0")} {
		if _, err := e.Allow(t.Context(), n, time.Hour); err == nil {
			t.Errorf("%v is allowed", n)
		}
	}
}
