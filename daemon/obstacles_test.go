package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/neighbours"
	"github.com/cfwall/cfwall/resolvers"
)

// sends asks the table that is in force whether a user of this host may send.
func (f *fakeTable) sends(protocol, to string, user uint32) bool {
	a := netip.MustParseAddrPort(to)
	d := f.table.Decide(firewall.Packet{Destination: a.Addr(), Protocol: protocol, Port: a.Port(), User: user, Opening: true})
	return d.Verdict == firewall.Accept && d.Certain
}

var edges = []string{"198.41.192.7:7844", "[2606:4700:a0::1]:7844"}

func outbound(more string) string { return "[outbound]\npolicy = \"drop\"\n" + more }

// The port of the tunnel is open to its user alone, and to nobody while the host
// does not know that user.
func TestSurroundingsTunnelUser(t *testing.T) {
	var users map[string]uint32
	lookup := func(name string) (uint32, error) {
		id, ok := users[name]
		if !ok {
			return userNumber(newLastKnown(lookupUser), name)
		}
		return id, nil
	}
	reaches := func(t *testing.T, table *fakeTable, user uint32, want bool) {
		t.Helper()
		for _, to := range edges {
			for _, protocol := range []string{"tcp", "udp"} {
				if table.sends(protocol, to, user) != want {
					t.Errorf("user %d to %s/%s: want %t", user, to, protocol, want)
				}
			}
		}
	}
	t.Run("by name", func(t *testing.T) {
		users = map[string]uint32{"cloudflared": 998}
		e, table, _ := newTestEngine(t)
		e.user = lookup
		writeFile(t, e.paths.Config, outbound("[tunnel]\nuser = \"cloudflared\"\n"))
		if _, err := e.Apply(t.Context(), Order{}); err != nil {
			t.Fatal(err)
		}
		reaches(t, table, 998, true)
		reaches(t, table, 0, false)
	})
	t.Run("by number", func(t *testing.T) {
		e, table, _ := newTestEngine(t)
		writeFile(t, e.paths.Config, outbound("[tunnel]\nuser = \"4242424\"\n"))
		if _, err := e.Apply(t.Context(), Order{}); err != nil {
			t.Fatal(err)
		}
		reaches(t, table, 4242424, true)
		reaches(t, table, 998, false)
	})
	t.Run("nobody in particular", func(t *testing.T) {
		e, table, _ := newTestEngine(t)
		writeFile(t, e.paths.Config, outbound(""))
		if _, err := e.Apply(t.Context(), Order{}); err != nil {
			t.Fatal(err)
		}
		reaches(t, table, 0, true)
		reaches(t, table, 998, true)
	})
	t.Run("unknown", func(t *testing.T) {
		users = nil
		e, table, _ := newTestEngine(t)
		e.user = lookup
		writeFile(t, e.paths.Config, outbound("[tunnel]\nuser = \"nobody-of-this-name\"\n"))
		_, check := e.Check(t.Context(), Order{}, false)
		_, apply := e.Apply(t.Context(), Order{})
		_, force := e.Apply(t.Context(), Order{Force: true})
		plan, err := e.Plan(t.Context(), Order{})
		for way, err := range map[string]error{"check": check, "apply": apply, "--force": force, "plan": errors.Join(err, planned(plan))} {
			var refused *Refusal
			if !errors.As(err, &refused) || refused.Exit != ExitUsage || !strings.Contains(refused.Error(), `knows no user "nobody-of-this-name"`) || !strings.Contains(refused.Hint, "ps -o user=") {
				t.Errorf("%s: %v", way, err)
			}
		}
		if table.table != nil {
			t.Error("what was refused has changed the table")
		}
		e.LoadConfigOrFallback()
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		reaches(t, table, 0, false)
		reaches(t, table, 998, false)
		if table.admits("198.51.100.7", 443) || table.sends("tcp", "198.51.100.7:25", 0) || !table.sends("udp", "192.0.2.53:53", 0) {
			t.Error("the rest of the policy does not hold")
		}
		s, err := e.Status(t.Context())
		if err != nil || s.Verdict != VerdictDegraded || !has(s.Problems, "user-unknown", "nobody-of-this-name") || !has(s.Problems, "config-refused", "nobody-of-this-name") {
			t.Errorf("%s, %v, %v", s.Verdict, s.Problems, err)
		}
		users = map[string]uint32{"nobody-of-this-name": 998} // a package is installed
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		reaches(t, table, 998, true)
		reaches(t, table, 0, false)
		if s, err := e.Status(t.Context()); err != nil || has(s.Problems, "user-unknown", "") {
			t.Errorf("%v, %v", s.Problems, err)
		}
	})
	t.Run("unknown, where nothing is closed", func(t *testing.T) {
		e, _, _ := newTestEngine(t)
		writeFile(t, e.paths.Config, "[tunnel]\nuser = \"nobody-of-this-name\"\n")
		if _, err := e.Apply(t.Context(), Order{}); err != nil {
			t.Error(err)
		}
	})
}

func TestSurroundingsResolvers(t *testing.T) {
	errMissing := errors.New("reading /etc/resolv.conf: file does not exist")
	for _, c := range []struct {
		name       string
		found      resolvers.Found
		err        error
		code, says string
		verdict    string
	}{
		{"known", resolvers.Found{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, nil, "", "", ""},
		{"known, and something is wrong", resolvers.Found{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, errMissing, "", "", ""},
		{"a stub", resolvers.Found{Stub: true}, nil, "resolvers-unknown", "a DNS server on this host", ""},
		{"no file", resolvers.Found{Stub: true}, errMissing, "no-resolvers", "resolv.conf: file does not exist", VerdictDegraded},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, table, _ := newTestEngine(t)
			e.self.Running, e.book.Current.From, e.book.CheckedAt = true, "api", time.Now()
			e.resolvers = func() (resolvers.Found, error) { return c.found, c.err }
			writeFile(t, e.paths.Config, outbound(""))
			checked, err := e.Check(t.Context(), Order{}, false)
			_, apply := e.Apply(t.Context(), Order{})
			s, status := e.Status(t.Context())
			if err := errors.Join(err, apply, status); err != nil {
				t.Fatal(err)
			}
			for what, all := range map[string][]Problem{"check": checked.Problems, "status": s.Problems} {
				if c.code == "" && len(all) > 0 || c.code != "" && !has(all, c.code, c.says) {
					t.Errorf("%s: %v, want %q", what, all, c.code)
				}
				if slices.ContainsFunc(all, func(p Problem) bool { return p.Cure == "" }) {
					t.Errorf("%s: no cure in %v", what, all)
				}
			}
			if (s.Verdict == VerdictDegraded) != (c.verdict == VerdictDegraded) {
				t.Errorf("the verdict is %s", s.Verdict)
			}
			known := len(c.found.Addresses) > 0
			if table.sends("udp", "192.0.2.53:53", 0) != known || table.sends("tcp", "192.0.2.53:53", 0) != known || table.sends("udp", "192.0.2.54:53", 0) {
				t.Error("DNS is open to others than those that are known")
			}
			if !table.sends("tcp", "1.1.1.1:853", 0) {
				t.Error("cloudflared's other resolver is closed")
			}
			writeFile(t, e.paths.Config, "[log]\nlevel = \"info\"\n")
			if checked, err := e.Check(t.Context(), Order{}, false); err != nil || len(checked.Problems) > 0 {
				t.Errorf("where nothing is closed: %v, %v", checked.Problems, err)
			}
		})
	}
}

// The list of DNS servers is followed without a command.
func TestSurroundingsResolversFollow(t *testing.T) {
	e, table, _ := newTestEngine(t)
	var now []netip.Addr
	e.resolvers = func() (resolvers.Found, error) { return resolvers.Found{Addresses: now, Stub: len(now) == 0}, nil }
	writeFile(t, e.paths.Config, outbound(""))
	e.LoadConfigOrFallback()
	all := []string{"192.0.2.53", "192.0.2.54", "2001:db8::53"}
	for _, present := range [][]string{all[:1], all[1:], nil, all} {
		now = nil
		for _, a := range present {
			now = append(now, netip.MustParseAddr(a))
		}
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, a := range all {
			if got := table.sends("udp", netip.AddrPortFrom(netip.MustParseAddr(a), 53).String(), 0); got != slices.Contains(present, a) {
				t.Errorf("with %v: %s reached: %t", present, a, got)
			}
		}
		if s, err := e.Status(t.Context()); err != nil || !slices.Equal(s.Outbound.Resolvers, now) && len(now) > 0 {
			t.Errorf("status names %v, want %v (%v)", s.Outbound.Resolvers, now, err)
		}
	}
}

func TestObstaclesOfSystemd(t *testing.T) {
	const unit, dropIn = "etc/systemd/system/cloudflared.service", "etc/systemd/system/cloudflared.service.d/"
	edge := []netip.Addr{netip.MustParseAddr("198.41.192.7"), netip.MustParseAddr("198.41.200.13"), netip.MustParseAddr("2606:4700:a0::1")}
	service := func(lines ...string) string { return "[Service]\n" + strings.Join(lines, "\n") + "\n" }
	for _, c := range []struct {
		name  string
		files map[string]string
		says  string // "" where nothing is in the way
	}{
		{"no unit", nil, ""},
		{"a usual unit", map[string]string{unit: service("ExecStart=/usr/bin/cloudflared", "Restart=on-failure")}, ""},
		{"all denied", map[string]string{unit: service("IPAddressDeny=any")}, "198.41.192.7"},
		{"all denied, in networks", map[string]string{unit: service("IPAddressDeny=0.0.0.0/0 ::/0")}, "198.41.192.7"},
		{"IPv6 denied", map[string]string{unit: service("IPAddressDeny=::/0")}, "2606:4700:a0::1"},
		{"a network of theirs denied", map[string]string{unit: service("IPAddressDeny=10.0.0.0/8 198.41.128.0/17")}, "198.41.192.7"},
		{"an address of theirs denied", map[string]string{unit: service("IPAddressDeny=198.41.192.7")}, "198.41.192.7"},
		{"others denied", map[string]string{unit: service("IPAddressDeny=10.0.0.0/8 169.254.169.254 localhost link-local multicast")}, ""},
		{"all denied but theirs", map[string]string{unit: service("IPAddressDeny=any", "IPAddressAllow=localhost 198.41.128.0/17", "IPAddressAllow=2606:4700::/32")}, ""},
		{"all denied but theirs of IPv4", map[string]string{unit: service("IPAddressDeny=any", "IPAddressAllow=198.41.128.0/17")}, "2606:4700:a0::1"},
		{"all denied, and all allowed", map[string]string{unit: service("IPAddressDeny=any", "IPAddressAllow=any")}, ""},
		{"all denied but the loopback", map[string]string{unit: service("IPAddressDeny=any", "IPAddressAllow=localhost 127.0.0.0/8")}, "198.41.192.7"},
		{"in a drop-in", map[string]string{unit: service("Type=notify"), dropIn + "hard.conf": service("IPAddressDeny=any")}, "198.41.192.7"},
		{"no longer, by a drop-in", map[string]string{unit: service("IPAddressDeny=any"), dropIn + "soft.conf": service("IPAddressDeny=")}, ""},
		{"allowed by a drop-in", map[string]string{unit: service("IPAddressDeny=any"), dropIn + "soft.conf": service("IPAddressAllow=any")}, ""},
		{"in another section", map[string]string{unit: "[Unit]\nIPAddressDeny=any\n" + service("Type=notify")}, ""},
		{"beside what cannot be read", map[string]string{unit: service("IPAddressDeny=any"), dropIn + "gone.conf": "-> /nowhere"}, "198.41.192.7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range c.files {
				path := filepath.Join(root, name)
				err := os.MkdirAll(filepath.Dir(path), 0o755)
				if target, ok := strings.CutPrefix(text, "-> "); ok {
					err = errors.Join(err, os.Symlink(target, path))
				} else {
					err = errors.Join(err, os.WriteFile(path, []byte(text), 0o600))
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			got := deniedBySystemd(root, edge)
			if (len(got) > 0) != (c.says != "") || len(got) > 0 && !has(got, "tunnel-blocked", "cloudflared.service: its IPAddressDeny= drops what goes to "+c.says) {
				t.Errorf("got %v, want %q", got, c.says)
			}
			if len(got) > 0 && (got[0].Severity != Degraded || !strings.Contains(got[0].Cure, "IPAddressAllow=any")) {
				t.Errorf("got %+v", got[0])
			}
		})
	}
}

// Whoever else drops the tunnel is named, by check and by status; our own table
// is not among them.
func TestObstaclesOfOtherTables(t *testing.T) {
	for _, c := range []struct {
		name, table, chain string
		says               string // "" where nothing is in the way
		wish               wish
	}{
		{"no other table", "", "", "", wish{}},
		{"our own closes what goes out", "", "", "", wish{outboundDrop: true, drop: true}},
		{"one that lets the tunnel pass", "inet other", `chain out { type filter hook output priority 0; policy drop; oif lo accept; meta l4proto { tcp, udp } th dport { 53, 7844 } accept; }`, "", wish{}},
		{"one that drops others", "inet other", `chain out { type filter hook output priority 0; tcp dport 25 drop; ip daddr 10.0.0.0/8 drop; }`, "", wish{}},
		{"one that drops it", "inet other", `chain out { type filter hook output priority 0; meta l4proto { tcp, udp } th dport 7844 drop; }`,
			"table inet other, chain out, rule handle", wish{}},
		{"one that drops QUIC by IPv6", "ip6 strict", `chain post { type filter hook postrouting priority 0; udp dport 7844 drop; }`,
			"table ip6 strict, chain post, rule handle", wish{}},
		{"a policy of another", "inet hard", `chain outgoing { type filter hook output priority 10; policy drop; oif lo accept; udp dport 53 accept; tcp dport { 53, 443 } accept; }`,
			"table inet hard, chain outgoing", wish{outboundDrop: true}},
		{"one that drops the answers", "ip in4", `chain incoming { type filter hook input priority 0; policy drop; iif lo accept; tcp dport 22 accept; }`,
			"table ip in4, chain incoming", wish{drop: true, open: []string{"22/tcp"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.wish.tunnel, c.wish.more = true, notAsked
			e := newLabEngine(t, c.wish)
			if c.table != "" {
				s.Web.Nft(t, fmt.Sprintf("table %s {\n%s\n}", c.table, c.chain))
			}
			if _, err := applyIn(t, s.Web, e, c.wish, Order{}); err != nil {
				t.Fatal(err)
			}
			var checked Checked
			var st Status
			var check, status error
			s.Web.Do(func() {
				checked, check = e.Check(t.Context(), Order{}, false)
				st, status = e.Status(t.Context())
			})
			if err := errors.Join(check, status); err != nil {
				t.Fatal(err)
			}
			for what, all := range map[string][]Problem{"check": checked.Problems, "status": st.Problems} {
				if c.says == "" && (has(all, "tunnel-blocked", "") || has(all, "neighbours-unknown", "")) || c.says != "" && !has(all, "tunnel-blocked", c.says) {
					t.Errorf("%s: %v, want %q", what, all, c.says)
				}
			}
			if c.says != "" && st.Verdict != VerdictDegraded {
				t.Errorf("the verdict is %s", st.Verdict)
			}
		})
	}
}

func TestObstaclesThatAreNotKnown(t *testing.T) {
	e, _, _ := newTunnelEngine(t, `"auto"`, 4)
	e.neighbours = func(context.Context, func(neighbours.Ruleset)) error { return errDown }
	checked, err := e.Check(t.Context(), Order{}, false)
	if err != nil || !has(checked.Problems, "neighbours-unknown", errDown.Error()) {
		t.Errorf("%v, %v", checked.Problems, err)
	}
}
