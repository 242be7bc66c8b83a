package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/sshd"
)

// A wish is a config in short. Without ports it guards 80 and 443.
type wish struct {
	tunnel, drop, outboundDrop bool // drop is that of [inbound]
	ports                      []string
	open, from, interfaces     []string
	allow                      []string // of [outbound]
	more                       string   // lines of the config
}

func (w wish) text() string {
	mode, policies := "cloudflare", [2]string{policyText(w.drop), policyText(w.outboundDrop)}
	if w.tunnel {
		mode = "tunnel"
	}
	if w.ports == nil {
		w.ports = []string{"80", "443"}
	}
	return fmt.Sprintf("mode = %q\n[web]\ntcp = [%s]\n[inbound]\npolicy = %q\nopen = [%s]\n[outbound]\npolicy = %q\nallow = [%s]\n[allow]\nfrom = [%s]\ninterfaces = [%s]\n%s",
		mode, quoted(w.ports), policies[0], quoted(w.open), policies[1], quoted(w.allow), quoted(w.from), quoted(w.interfaces), w.more)
}

func quoted(words []string) string {
	var all []string
	for _, w := range words {
		all = append(all, strconv.Quote(w))
	}
	return strings.Join(all, ", ")
}

// following does what the hint of a refusal says first.
func (w wish) following(t *testing.T, refused *Refusal) wish {
	t.Helper()
	var port uint16
	if _, err := fmt.Sscanf(refused.Error(), "port %d ", &port); err != nil {
		t.Fatalf("no port in %q", refused)
	}
	if strings.HasPrefix(refused.Hint, "take the port out of [web] tcp") {
		w.ports = slices.DeleteFunc(append([]string{}, w.ports...), func(p string) bool { return contains(t, p, port) })
		return w
	}
	entry := regexp.MustCompile(`"([^"]*)"`).FindStringSubmatch(refused.Hint)
	if entry == nil {
		t.Fatalf("no line to add in %q", refused.Hint)
	}
	if strings.Contains(refused.Hint, "[inbound] open") {
		w.open = append(slices.Clip(w.open), entry[1])
	} else {
		w.from = append(slices.Clip(w.from), entry[1])
	}
	return w
}

func contains(t *testing.T, ports string, port uint16) bool {
	t.Helper()
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	a, errFirst := strconv.Atoi(first)
	b, errLast := strconv.Atoi(last)
	if errFirst != nil || errLast != nil {
		t.Fatalf("%q are no ports", ports)
	}
	return a <= int(port) && int(port) <= b
}

// A trap is a config that would lock SSH out of a host, or seems to.
type trap struct {
	name string
	wish wish
	ssh  string // as sshOf reads it
	port uint16 // that the refusal names; 0: it is not refused
	says string // by the refusal or its hint
}

const (
	takeOut = "take the port out of [web] tcp"
	add     = "add to [inbound] open: "
)

var guardedTraps = []trap{
	{"on 443", wish{}, "sshd 0.0.0.0:443", 443, takeOut},
	{"on 80, by IPv6 alone", wish{}, "sshd [::]:80 only", 80, takeOut},
	{"on 443 in mode tunnel", wish{tunnel: true}, "sshd [::]:443", 443, takeOut},
	{"on a port that comes to be guarded", wish{ports: []string{"2222"}}, "sshd [::]:2222", 2222, takeOut},
	{"on one that comes to be guarded, in mode tunnel", wish{tunnel: true, ports: []string{"443", "2222"}}, "sshd 0.0.0.0:2222", 2222, takeOut},
	{"amid a guarded range", wish{ports: []string{"443", "8000-8010"}}, "sshd [::]:8005", 8005, takeOut},
	{"at the end of a guarded range", wish{ports: []string{"8000-8010"}}, "sshd [::]:8010", 8010, takeOut},
	{"one server of two", wish{}, "sshd [::]:22, sshd [::]:443", 443, takeOut},
	{"sslh, which shares 443 with HTTPS", wish{}, "sslh-ev 0.0.0.0:443", 443, "sslh-ev"},
	{"dropbear on 80", wish{}, "dropbear [::]:80", 80, "dropbear"},
	{"systemd listens for it", wish{}, "ssh.socket [::]:443", 443, "ssh.socket"},
	{"at one address alone", wish{}, "sshd 192.0.2.2:443", 443, takeOut},
	{"the administrator is in [allow] from", wish{from: []string{"198.51.100.7"}}, "sshd [::]:443, own 198.51.100.7 at 192.0.2.2:443", 443, takeOut},
	{"the administrator comes by way of Cloudflare", wish{}, "sshd [::]:443, own 104.16.0.1 at 192.0.2.2:443", 443, takeOut},
	{"the administrator comes by a trusted interface", wish{interfaces: []string{"wg0"}}, "sshd [::]:443, own 10.8.0.2 at 10.8.0.1:443 by wg0", 443, takeOut},
	{"it is in [inbound] open as well", wish{drop: true, open: []string{"443/tcp"}}, "sshd [::]:443", 443, takeOut},
	{"a session of somebody else", wish{ports: []string{"2222"}}, "sshd [::]:2222, session 198.51.100.7 at 192.0.2.2:2222", 2222, "SSH"},
	{"the own session, to what is not known to be SSH", wish{}, "own 198.51.100.7 at 192.0.2.2:443", 443, `"198.51.100.7" to [allow] from`},
	{"where it will run", wish{}, "sshd 0.0.0.0:443 configured", 443, "once it runs"},
}

var inboundTraps = []trap{
	{"nothing open", wish{drop: true}, "sshd [::]:22", 22, add + `"22/tcp"`},
	{"nothing open, in mode tunnel", wish{drop: true, tunnel: true}, "sshd [::]:22", 22, add + `"22/tcp"`},
	{"nothing open, outbound drop too", wish{drop: true, outboundDrop: true}, "sshd [::]:22", 22, add + `"22/tcp"`},
	{"on 2222, and 22 open", wish{drop: true, open: []string{"22/tcp"}}, "sshd [::]:2222", 2222, add + `"2222/tcp"`},
	{"open for udp", wish{drop: true, open: []string{"2222/udp"}}, "sshd [::]:2222", 2222, add + `"2222/tcp"`},
	{"a range that ends before", wish{drop: true, open: []string{"2000-2221/tcp"}}, "sshd [::]:2222", 2222, add + `"2222/tcp"`},
	{"a range that begins behind", wish{drop: true, open: []string{"2223-2300/tcp"}}, "sshd [::]:2222", 2222, add + `"2222/tcp"`},
	{"by IPv6 alone, from IPv4", wish{drop: true, open: []string{"22/tcp from 192.0.2.0/24"}}, "sshd [::]:22 only", 22, add + `"22/tcp"`},
	{"by IPv4 alone, from IPv6", wish{drop: true, open: []string{"22/tcp from 2001:db8::/32"}}, "sshd 0.0.0.0:22", 22, add + `"22/tcp"`},
	{"at an address of IPv6, from IPv4", wish{drop: true, open: []string{"22/tcp from 192.0.2.0/24"}}, "sshd [2001:db8::2]:22", 22, add + `"22/tcp"`},
	{"at an address of IPv4, from IPv6", wish{drop: true, open: []string{"22/tcp from 2001:db8::/32"}}, "sshd 192.0.2.2:22", 22, add + `"22/tcp"`},
	{"one port of two", wish{drop: true, open: []string{"22/tcp"}}, "sshd [::]:22, sshd [::]:2222", 2222, add + `"2222/tcp"`},
	{"a port for each family", wish{drop: true, open: []string{"22/tcp"}}, "sshd 0.0.0.0:22, sshd [::]:2222 only", 2222, add + `"2222/tcp"`},
	{"sslh", wish{drop: true, open: []string{"22/tcp"}}, "sshd [::]:22, sslh [::]:8443", 8443, "sslh"},
	{"dropbear", wish{drop: true, open: []string{"22/tcp"}}, "dropbear [::]:2222", 2222, "dropbear"},
	{"systemd listens for it", wish{drop: true, open: []string{"22/tcp"}}, "ssh.socket [::]:2222", 2222, "ssh.socket"},
	{"where it will run", wish{drop: true, open: []string{"22/tcp"}}, "sshd 0.0.0.0:2222 configured", 2222, "once it runs"},
	{"a trusted interface that is not there", wish{drop: true, interfaces: []string{"tailscale0"}}, "sshd [::]:22", 22, add + `"22/tcp"`},
	{"a trusted pattern of what is not there", wish{drop: true, interfaces: []string{"tun*"}}, "sshd [::]:22", 22, add + `"22/tcp"`},
	{"to trust the loopback lets nobody in", wish{drop: true, interfaces: []string{"lo"}}, "sshd [::]:22", 22, add + `"22/tcp"`},
	{"nor does a pattern of it", wish{drop: true, interfaces: []string{"l*"}}, "sshd [::]:22", 22, add + `"22/tcp"`},
}

var sessionTraps = []trap{
	{"from elsewhere", wish{drop: true, open: []string{"22/tcp from 203.0.113.0/24"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 22, `"22/tcp from 198.51.100.7"`},
	{"from the next address", wish{drop: true, open: []string{"22/tcp from 198.51.100.6"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 22, "your SSH session from 198.51.100.7"},
	{"from the next network", wish{drop: true, open: []string{"22/tcp from 198.51.100.8/29"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 22, `"22/tcp from 198.51.100.7"`},
	{"by IPv6, and open for IPv4", wish{drop: true, open: []string{"22/tcp from 198.51.100.0/24"}}, "sshd [::]:22, own 2001:db8:bad::7 at [2001:db8::2]:22", 22, `"22/tcp from 2001:db8:bad::7"`},
	{"by IPv4, and open for IPv6", wish{drop: true, open: []string{"22/tcp from 2001:db8::/32"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 22, `"22/tcp from 198.51.100.7"`},
	{"of somebody else", wish{drop: true, open: []string{"22/tcp from 203.0.113.0/24"}}, "sshd [::]:22, session 198.51.100.7 at 192.0.2.2:22", 22, "an SSH session from 198.51.100.7"},
	{"of somebody else besides the own", wish{drop: true, open: []string{"22/tcp from 203.0.113.7"}}, "sshd [::]:22, own 203.0.113.7 at 192.0.2.2:22, session 198.51.100.7 at 192.0.2.2:22", 22, `"22/tcp from 198.51.100.7"`},
	{"at the other port", wish{drop: true, open: []string{"22/tcp from 198.51.100.7", "2222/tcp from 203.0.113.7"}}, "sshd [::]:22, sshd [::]:2222, own 198.51.100.7 at 192.0.2.2:2222", 2222, `"2222/tcp from 198.51.100.7"`},
	{"by an interface that is no longer trusted", wish{drop: true, open: []string{"22/tcp from 198.51.100.0/24"}}, "sshd [::]:22, own 10.8.0.2 at 10.8.0.1:22 by wg0", 22, `"22/tcp from 10.8.0.2"`},
	{"not by the interface that is trusted", wish{drop: true, interfaces: []string{"wg0"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22 by eth0", 22, `"22/tcp from 198.51.100.7"`},
	{"not by one of the trusted pattern", wish{drop: true, interfaces: []string{"wg1*"}, open: []string{"22/tcp from 203.0.113.7"}}, "sshd [::]:22, own 10.8.0.2 at 10.8.0.1:22 by wg0", 22, `"22/tcp from 10.8.0.2"`},
	{"from who is allowed at the web ports", wish{drop: true, from: []string{"198.51.100.7"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 22, `"22/tcp from 198.51.100.7"`},
	{"to what is not known to be SSH", wish{drop: true, open: []string{"22/tcp"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:2200", 2200, `"2200/tcp from 198.51.100.7"`},
	{"by a link-local address", wish{drop: true, open: []string{"22/tcp from 2001:db8::/32"}}, "sshd [::]:22, own fe80::7 at [fe80::2]:22", 22, `"22/tcp from fe80::7"`},
}

var noTraps = []trap{
	{"on 22", wish{}, "sshd [::]:22", 0, ""},
	{"on 22 in mode tunnel", wish{tunnel: true}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 0, ""},
	{"on a port that is not guarded", wish{}, "sshd [::]:2222, own 198.51.100.7 at 192.0.2.2:2222", 0, ""},
	{"beside a guarded range", wish{ports: []string{"8000-8010"}}, "sshd [::]:8011", 0, ""},
	{"on loopback alone", wish{drop: true}, "sshd 127.0.0.1:443, sshd [::1]:22", 0, ""},
	{"a session on loopback", wish{drop: true}, "sshd 127.0.0.1:22, own 127.0.0.1 at 127.0.0.1:22 by lo", 0, ""},
	{"no SSH at all", wish{drop: true, tunnel: true}, "", 0, ""},
	{"open for everybody", wish{drop: true, open: []string{"22/tcp"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 0, ""},
	{"open for the administrator's network", wish{drop: true, open: []string{"22/tcp from 198.51.100.0/24"}}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 0, ""},
	{"open for the administrator, by IPv6", wish{drop: true, open: []string{"22/tcp from 192.0.2.1,2001:db8:bad::/48"}}, "sshd [::]:22 only, own 2001:db8:bad::7 at [2001:db8::2]:22", 0, ""},
	{"open by a range", wish{drop: true, open: []string{"2000-3000/tcp"}}, "sshd [::]:2222, session 198.51.100.7 at 192.0.2.2:2222", 0, ""},
	{"all ports open", wish{drop: true, open: []string{"22/tcp", "2222/tcp"}}, "sshd [::]:22, dropbear [::]:2222", 0, ""},
	{"for both families, from IPv4", wish{drop: true, open: []string{"22/tcp from 192.0.2.0/24"}}, "sshd [::]:22", 0, ""},
	{"a server for each family, from IPv4", wish{drop: true, open: []string{"22/tcp from 192.0.2.0/24"}}, "sshd 0.0.0.0:22, sshd [::]:22 only", 0, ""},
	{"at one address", wish{drop: true, open: []string{"22/tcp from 198.51.100.0/24"}}, "sshd 192.0.2.2:22", 0, ""},
	{"by a trusted interface", wish{drop: true, interfaces: []string{"wg0"}}, "sshd [::]:22, own 10.8.0.2 at 10.8.0.1:22 by wg0", 0, ""},
	{"by one of a trusted pattern", wish{drop: true, tunnel: true, interfaces: []string{"wg*"}}, "sshd [::]:22, own fd00:8::2 at [fd00:8::1]:22 by wg0", 0, ""},
	{"where it will run", wish{drop: true, open: []string{"2222/tcp"}}, "sshd [::]:2222 configured", 0, ""},
	{"nothing may be sent", wish{outboundDrop: true}, "sshd [::]:22, own 198.51.100.7 at 192.0.2.2:22", 0, ""},
}

// sshOf reads "sshd [::]:22 only", "sshd 0.0.0.0:22 configured",
// "session 198.51.100.7 at 192.0.2.2:22" and "own ... by INTERFACE", with commas
// between them.
func sshOf(t *testing.T, text string) (found sshd.Host, own sshd.Session, ways map[netip.Addr]string) {
	t.Helper()
	ways = make(map[netip.Addr]string)
	for part := range strings.SplitSeq(text, ", ") {
		words := append(strings.Fields(part), "", "", "", "", "")
		switch words[0] {
		case "":
		case "session", "own":
			remote := netip.MustParseAddr(words[1])
			ways[remote] = words[5]
			s := sshd.Session{Local: netip.MustParseAddrPort(words[3]), Remote: netip.AddrPortFrom(remote, 50000)}
			if words[0] == "own" {
				own = s
			} else {
				found.Sessions = append(found.Sessions, s)
			}
		default:
			found.Servers = append(found.Servers, sshd.Server{Program: words[0], Address: netip.MustParseAddrPort(words[1]),
				OnlyIPv6: words[2] == "only", Configured: words[2] == "configured"})
		}
	}
	return found, own, ways
}

// surround gives an engine what a text says about SSH.
func surround(t *testing.T, e *Engine, text string) (own sshd.Session) {
	t.Helper()
	found, own, ways := sshOf(t, text)
	e.ssh = func(_ firewall.Policy, own sshd.Session) (sshd.Host, error) {
		answer := found
		if own.Remote.IsValid() {
			own.Own = true
			answer.Sessions = append(slices.Clip(answer.Sessions), own)
		}
		return answer, nil
	}
	e.routeTo = func(a netip.Addr) (kernel.Route, error) {
		if ways[a] == "" {
			return kernel.Route{Interface: "eth0"}, nil
		}
		return kernel.Route{Interface: ways[a]}, nil
	}
	return own
}

// refusals asks for a config in every way there is. A way that refuses it has
// to change nothing.
func refusals(t *testing.T, e *Engine, table *fakeTable, own sshd.Session) map[string]error {
	t.Helper()
	o := Order{Session: own}
	d := &Daemon{engine: e, opts: Options{Log: e.log, Level: &slog.LevelVar{}}}
	_, check := e.Check(t.Context(), o, false)
	plan, err := e.Plan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]error{"check": check}
	if plan.Refused != "" {
		all["plan"] = &Refusal{errors.New(plan.Refused), plan.Hint, ExitUsage}
	}
	before := table.applied
	_, all["apply"] = e.Apply(t.Context(), o)
	_, all["reload"] = d.reload(t.Context(), o)
	if all["reload"] != nil && table.applied != before {
		t.Error("what was refused has changed the table")
	}
	return all
}

// inHost runs each test where there is an interface of a VPN.
func inHost(t *testing.T, all []trap, test func(*testing.T, trap)) {
	t.Helper()
	n := lab.New(t)
	host, vpn := n.Host("host"), n.Host("vpn")
	n.Connect(host, "wg0", vpn, "wg0")
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) { host.Do(func() { test(t, c) }) })
	}
}

func TestLockoutTraps(t *testing.T) {
	all := slices.Concat(guardedTraps, inboundTraps, sessionTraps)
	if len(all) < 40 {
		t.Errorf("%d traps, want 40 at least", len(all))
	}
	inHost(t, all, func(t *testing.T, c trap) {
		e, table, _ := newTestEngine(t)
		e.table = modeTable{table}
		if _, err := e.Pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		own := surround(t, e, c.ssh)
		writeFile(t, e.paths.Config, c.wish.text())
		all := refusals(t, e, table, own)
		for _, way := range []string{"check", "plan", "apply", "reload"} {
			expectRefusal(t, way, all[way], c.port, c.says)
		}
		s, err := e.Status(t.Context())
		if err != nil || !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "config-refused" }) {
			t.Errorf("status does not say it: %v, %v", s.Problems, err)
		}
		follow(t, e, c, own)
	})
}

func expectRefusal(t *testing.T, way string, err error, port uint16, says string) {
	t.Helper()
	var refused *Refusal
	if !errors.As(err, &refused) {
		t.Errorf("%s: %v", way, err)
		return
	}
	text := refused.Error() + "; " + refused.Hint
	named := strings.HasPrefix(text, fmt.Sprintf("port %d ", port))
	if refused.Exit != ExitUsage || !named || !strings.Contains(text, says) || !strings.Contains(refused.Hint, "--force") {
		t.Errorf("%s: %s, exit code %d; want port %d, %q", way, text, refused.Exit, port, says)
	}
}

// follow does what the hints say until the config is taken.
func follow(t *testing.T, e *Engine, c trap, own sshd.Session) {
	t.Helper()
	var err error
	for w, round := c.wish, 0; round < 5; round++ {
		if w.ports == nil {
			w.ports = []string{"80", "443"}
		}
		if _, err = e.Apply(t.Context(), Order{Session: own}); err == nil {
			return
		}
		var refused *Refusal
		if !errors.As(err, &refused) {
			break
		}
		w = w.following(t, refused)
		writeFile(t, e.paths.Config, w.text())
	}
	t.Errorf("whoever does what the hints say ends with: %v", err)
}

func TestLockoutIsNotSeenWhereThereIsNone(t *testing.T) {
	if len(noTraps) < 15 {
		t.Errorf("%d cases, want 15 at least", len(noTraps))
	}
	inHost(t, noTraps, func(t *testing.T, c trap) {
		e, table, _ := newTestEngine(t)
		e.table = modeTable{table}
		own := surround(t, e, c.ssh)
		writeFile(t, e.paths.Config, c.wish.text())
		for way, err := range refusals(t, e, table, own) {
			if err != nil {
				t.Errorf("%s: %v", way, err)
			}
		}
	})
}

// The session is that of the command, not that of the daemon.
func TestLockoutOverTheControlSocket(t *testing.T) {
	for _, c := range []trap{guardedTraps[3], guardedTraps[12], inboundTraps[3], sessionTraps[0], sessionTraps[3]} {
		t.Run(c.name, func(t *testing.T) {
			client, d, table, _ := serveTest(t)
			var own sshd.Session
			if err := d.do(t.Context(), func(context.Context) { own = surround(t, d.engine, c.ssh) }); err != nil {
				t.Fatal(err)
			}
			writeFile(t, d.engine.paths.Config, c.wish.text())
			before := table.applied
			o := Order{Session: own}
			_, apply := client.Apply(t.Context(), o)
			_, reload := client.Reload(t.Context(), o)
			plan, err := client.Plan(t.Context(), o)
			for way, err := range map[string]error{"apply": apply, "reload": reload, "plan": errors.Join(err, &Refusal{errors.New(plan.Refused), plan.Hint, ExitUsage})} {
				expectRefusal(t, way, err, c.port, c.says)
			}
			if table.applied != before {
				t.Error("what was refused has changed the table")
			}
			o.Force = true
			if r, err := client.Reload(t.Context(), o); err != nil || !r.Changed {
				t.Errorf("--force: changed %t, %v", r.Changed, err)
			}
		})
	}
}

// A daemon that starts cannot refuse: it leaves open what it would close, and
// says so. At boot SSH may not run yet.
func TestLockoutAtTheStart(t *testing.T) {
	for _, c := range slices.Concat(guardedTraps, inboundTraps) {
		if strings.Contains(c.ssh, "own ") || c.wish.interfaces != nil {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			e, table, _ := newTestEngine(t)
			e.table = modeTable{table}
			surround(t, e, c.ssh)
			writeFile(t, e.paths.Config, c.wish.text())
			e.LoadConfigOrFallback()
			if _, err := e.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, from := range []string{"198.51.100.7", "2001:db8:bad::7"} {
				if !table.admits(from, c.port) {
					t.Errorf("port %d is closed to %s", c.port, from)
				}
			}
			if table.admits("198.51.100.7", 8090) == c.wish.drop {
				t.Errorf("the rest of the policy does not hold")
			}
			s, err := e.Status(t.Context())
			text := fmt.Sprintf("port %d ", c.port)
			if err != nil || s.Verdict != VerdictDegraded || !slices.ContainsFunc(s.Problems, func(p Problem) bool {
				return p.Code == "ssh-left-open" && strings.Contains(p.Text, text)
			}) {
				t.Errorf("status does not say it: %s %v, %v", s.Verdict, s.Problems, err)
			}
		})
	}
}
