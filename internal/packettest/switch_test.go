package packettest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// A combination of the modes and the two policies.
type combination struct {
	mode              firewall.Mode
	inbound, outbound bool // dropped
}

func (c combination) String() string {
	policy := map[bool]string{true: "drop", false: "accept"}
	return fmt.Sprintf("%s, in %s, out %s", c.mode, policy[c.inbound], policy[c.outbound])
}

func (c combination) wanted() wanted {
	w := outbound()
	w.policy.Mode = c.mode
	w.policy.Inbound.Drop, w.policy.Outbound.Drop = c.inbound, c.outbound
	w.policy.Inbound.Open = []firewall.Service{openService("tcp", 22), openService("tcp", 2222)}
	return w
}

// combinations are those of the modes and policies that something holds for.
func combinations(holds func(combination) bool) []combination {
	var all []combination
	for _, mode := range []firewall.Mode{firewall.ModeCloudflare, firewall.ModeTunnel} {
		for _, inbound := range []bool{false, true} {
			for _, outbound := range []bool{false, true} {
				if c := (combination{mode, inbound, outbound}); holds(c) {
					all = append(all, c)
				}
			}
		}
	}
	return all
}

// tour visits combinations so that, when it begins again at its end, each has
// been left for each of the others once.
func tour(all []combination) []combination {
	var visits []combination
	for i, c := range all {
		for _, d := range all[i+1:] {
			visits = append(visits, c, d)
		}
	}
	return visits
}

func TestSwitchTourTakesEveryWay(t *testing.T) {
	for _, all := range [][]combination{
		combinations(func(combination) bool { return true }),
		combinations(func(c combination) bool { return c.inbound }),
	} {
		ways := make(map[[2]combination]int)
		visits := tour(all)
		for i, c := range visits {
			ways[[2]combination{c, visits[(i+1)%len(visits)]}]++
		}
		if n := len(all) * (len(all) - 1); len(ways) != n || len(visits) != n {
			t.Errorf("%d visits take %d ways between %d combinations, want %d", len(visits), len(ways), len(all), n)
		}
	}
}

// While modes and policies are switched under flood, nothing gets in or out
// that both the old and the new refuse, and nothing is lost that both admit.
func TestSwitchesUnderFlood(t *testing.T) {
	s := newBusy(t)
	whole := func(combination) bool { return true }
	tests := []struct {
		name          string
		among         func(combination) bool
		rounds        int
		admits, stops []string // besides what all combinations do
	}{
		{"all", whole, amount(2, 40), nil, nil},
		{"mode cloudflare", func(c combination) bool { return c.mode == firewall.ModeCloudflare }, amount(2, 40), []string{"edge"}, nil},
		{"mode tunnel", func(c combination) bool { return c.mode == firewall.ModeTunnel }, amount(2, 40), nil, []string{"edge"}},
		{"ports closed", func(c combination) bool { return c.inbound }, amount(2, 40), nil, []string{"closed"}},
		{"ports not closed", func(c combination) bool { return !c.inbound }, amount(2, 40), []string{"closed"}, nil},
		{"ways out closed", func(c combination) bool { return c.outbound }, amount(2, 40), nil, []string{"astray"}},
		{"ways out not closed", func(c combination) bool { return !c.outbound }, amount(2, 40), []string{"astray"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			visits := slices.Repeat(tour(combinations(tt.among)), tt.rounds)
			enforce(t, s.Web, visits[len(visits)-1].wanted())
			start := time.Now()
			seen := s.underFlood(t, func() {
				for _, c := range visits {
					enforce(t, s.Web, c.wanted())
				}
			})
			t.Logf("%d switches in %v: %v", len(visits), time.Since(start).Round(time.Millisecond), seen)
			seen.check(t, append(tt.admits, "open", "tunnel in", "tunnel out"), append(tt.stops, "guarded"))
		})
	}
}

// The detectors of TestSwitchesUnderFlood find what they are to find.
func TestSwitchFloodFindsGaps(t *testing.T) {
	closed := combination{firewall.ModeTunnel, true, true}
	tests := []struct {
		name  string
		from  combination
		wrong func(*testing.T, *lab.Host)
		lost  []string // of what should be admitted
		past  []string // of what should be stopped
	}{
		{"the table is deleted and made anew", closed, func(t *testing.T, h *lab.Host) {
			apply(t, h, firewall.DeleteTable{})
			enforce(t, h, closed.wanted())
		}, nil, []string{"guarded", "edge", "closed", "astray"}},
		{"no port is open for a moment", closed, func(t *testing.T, h *lab.Host) {
			w := closed.wanted()
			w.policy.Inbound.Open = nil
			enforce(t, h, w)
			enforce(t, h, closed.wanted())
		}, []string{"open"}, nil},
		{"mode tunnel for a moment", combination{mode: firewall.ModeCloudflare}, func(t *testing.T, h *lab.Host) {
			enforce(t, h, combination{mode: firewall.ModeTunnel}.wanted())
			enforce(t, h, combination{mode: firewall.ModeCloudflare}.wanted())
		}, []string{"edge"}, nil},
		{"the tunnel is dropped for a moment", closed, func(t *testing.T, h *lab.Host) {
			h.Nft(t, `table inet foreign { chain out { type filter hook output priority 5; udp dport 7844 drop; }; }`)
			h.Nft(t, `delete table inet foreign`)
		}, []string{"tunnel out"}, nil},
		{"answers are no answers for a moment", closed, func(t *testing.T, h *lab.Host) {
			h.Nft(t, `table inet foreign { chain in { type filter hook prerouting priority -160; udp sport 7844 drop; }; }`)
			h.Nft(t, `delete table inet foreign`)
		}, []string{"tunnel in"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newBusy(t)
			enforce(t, s.Web, tt.from.wanted())
			seen := s.underFlood(t, func() {
				for range 8 {
					tt.wrong(t, s.Web)
				}
			})
			t.Log(seen)
			for _, kind := range tt.lost {
				if seen.kinds[kind].lost() == 0 {
					t.Errorf("nothing was lost of %q: the flood would not find a loss", kind)
				}
			}
			for _, kind := range tt.past {
				if seen.kinds[kind].past == 0 {
					t.Errorf("nothing got past of %q: the flood would not find a leak", kind)
				}
			}
			if slices.ContainsFunc(tt.lost, func(k string) bool { return strings.HasPrefix(k, "tunnel") }) && seen.tunnel.lost() == 0 {
				t.Errorf("no datagram was missed: the flows would not find a loss")
			}
		})
	}
}

// A busy site takes floods at ports where nobody answers, has a tunnel to the
// edge, and sends astray what no policy needs.
type busy struct{ *lab.Site }

// kinds are what is counted, before and after all rules of ours, and how nft
// knows it.
var kinds = map[string][]string{
	"guarded":    {"ip saddr 198.51.100.7 tcp dport 80", "ip6 saddr 2001:db8:bad::7 tcp dport 80", "udp dport 443"},
	"edge":       {"ip saddr 104.16.0.1 tcp dport 80", "ip6 saddr 2606:4700::1 tcp dport 80"},
	"open":       {"tcp dport { 22, 2222 }"},
	"closed":     {"tcp dport 8022", "udp dport 9999"},
	"tunnel in":  {"tcp sport 7844", "udp sport 7844"},
	"tunnel out": {"tcp dport 7844", "udp dport 7844"},
	"astray":     {"udp dport 9"},
}

// outgoing are the kinds that this host sends.
var outgoing = []string{"tunnel out", "astray"}

func newBusy(t *testing.T) *busy {
	t.Helper()
	s := newOutside(t, lab.Edge{})
	s.Web.ListenTCP(":443", ":2222")
	var counters, before, after, beforeOut, afterOut strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		name := strings.ReplaceAll(kind, " ", "_")
		fmt.Fprintf(&counters, "counter %s_came { }\ncounter %s_past { }\n", name, name)
		first, last := &before, &after
		if slices.Contains(outgoing, kind) {
			first, last = &beforeOut, &afterOut
		}
		for _, match := range kinds[kind] {
			fmt.Fprintf(first, "%s counter name %s_came\n", match, name)
			fmt.Fprintf(last, "%s counter name %s_past\n", match, name)
		}
	}
	s.Web.Nft(t, fmt.Sprintf(`table inet watch {
		%s
		chain before { type filter hook prerouting priority -310; iif eth0 jump came; }
		chain came { %s }
		chain after { type filter hook prerouting priority -140; iif eth0 jump past; }
		chain past { %s }
		chain before_out { type filter hook output priority -10; oif eth0 jump leaves; }
		chain leaves { %s }
		chain after_out { type filter hook output priority 10; oif eth0 jump left; }
		chain left { %s }
		chain sink {
			type filter hook prerouting priority -130
			tcp dport { 22, 80, 8022 } drop
			udp dport { 443, 9999 } drop
		}
	}`, &counters, &before, &after, &beforeOut, &afterOut))
	// An answer would open the way for the next datagram from the same port.
	s.Client.Nft(t, `table inet mute { chain in { type filter hook prerouting priority -310; udp dport 9 drop; }; }`)
	return &busy{s}
}

// activity is what was seen while something was done.
type activity struct {
	kinds  map[string]packets
	tunnel *tunnel
	logins conversations // of strangers at an open port
}

// underFlood does something while all is under way.
func (s *busy) underFlood(t *testing.T, do func()) activity {
	t.Helper()
	a := activity{tunnel: startTunnel(t, s.Site)}
	ctx, stop := context.WithCancel(t.Context())
	before := s.read(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	var failed error
	wg.Go(func() { failed = s.flood(ctx) })
	wg.Go(func() { s.stray(ctx) })
	wg.Go(func() { a.logins = s.login(ctx) })
	do()
	stop()
	wg.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	a.tunnel.stop()
	a.kinds = s.settled(t)
	for kind, p := range a.kinds {
		a.kinds[kind] = p.minus(before[kind])
	}
	return a
}

// flood sends to one port after the other, so shortly that each switch meets
// most of them.
func (s *busy) flood(ctx context.Context) error {
	const turn = time.Millisecond
	targets := []struct {
		network string
		port    uint16
		callers [2][]netip.Addr // of IPv4 and IPv6
	}{
		{"tcp", 80, both(strangers, edges)},
		{"udp", 443, both(strangers, edges)},
		{"tcp", 22, both(strangers, edges)},
		{"tcp", 8022, both(strangers, edges)},
		{"udp", 9999, both(strangers, edges)},
	}
	for ctx.Err() == nil {
		for _, to := range targets {
			for _, callers := range to.callers {
				turn, done := context.WithTimeout(ctx, turn)
				_, err := s.Client.Flood(turn, to.network, callers, web(callers[0], to.port))
				done()
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// both turns two who have an address of each family into one pair for each family.
func both(a, b []netip.Addr) [2][]netip.Addr {
	return [2][]netip.Addr{{a[0], b[0]}, {a[1], b[1]}}
}

// stray sends datagrams that are refused where ways out are closed.
func (s *busy) stray(ctx context.Context) {
	for ctx.Err() == nil {
		for _, to := range strangers {
			_ = sendFrom(s.Web, ":0", netip.AddrPortFrom(to, 9)) // refused at times
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// login has strangers converse with a service at an open port.
func (s *busy) login(ctx context.Context) (c conversations) {
	for ctx.Err() == nil {
		from := strangers[c.held%len(strangers)]
		c.note(s.Client.Dial("tcp", from, web(from, 2222), 10*time.Second))
	}
	return c
}

func (c *conversations) note(err error) {
	c.held++
	if err != nil && c.failed == nil {
		c.failed = err
	}
}

var counterText = regexp.MustCompile(`counter (\w+)_(came|past) \{\s+packets (\d+)`)

func (s *busy) read(t *testing.T) map[string]packets {
	t.Helper()
	all := make(map[string]packets)
	for _, m := range counterText.FindAllStringSubmatch(s.Web.NftList(t, "table", "inet", "watch"), -1) {
		kind := strings.ReplaceAll(m[1], "_", " ")
		n, err := strconv.Atoi(m[3])
		if err != nil {
			t.Fatal(err)
		}
		p := all[kind]
		if m[2] == "came" {
			p.came = n
		} else {
			p.past = n
		}
		all[kind] = p
	}
	return all
}

// settled reads the counters once nothing is under way any more.
func (s *busy) settled(t *testing.T) map[string]packets {
	t.Helper()
	for last := s.read(t); ; {
		time.Sleep(50 * time.Millisecond)
		now := s.read(t)
		if maps.Equal(now, last) {
			return now
		}
		last = now
	}
}

func (a activity) String() string {
	var words []string
	for _, kind := range slices.Sorted(maps.Keys(a.kinds)) {
		p := a.kinds[kind]
		words = append(words, fmt.Sprintf("%s: %d of %d got past", kind, p.past, p.came))
	}
	return fmt.Sprintf("%s; %d logins; %v", strings.Join(words, ", "), a.logins.held, a.tunnel)
}

func (a activity) check(t *testing.T, admitted, stopped []string) {
	t.Helper()
	for _, kind := range admitted {
		if p := a.kinds[kind]; p.lost() != 0 || p.came < 100 {
			t.Errorf("LOST or too little of %q: %v", kind, a)
		}
	}
	for _, kind := range stopped {
		if p := a.kinds[kind]; p.past != 0 || p.came < 100 {
			t.Errorf("LEAKED or too little of %q: %v", kind, a)
		}
	}
	if a.logins.failed != nil || a.logins.held < 10 {
		t.Errorf("LOST or too few logins: %d, %v", a.logins.held, a.logins.failed)
	}
	a.tunnel.check(t)
}

// Who came in from Cloudflare is cut off by mode tunnel within a second, who is
// allowed is not.
func TestSwitchToTunnelCutsCloudflareOff(t *testing.T) {
	for name, w := range map[string]wanted{
		"alone":               withFriends(),
		"and all else closed": closedInbound(closedOutbound(withFriends())),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			served := stream(t, s.Web, ":443")
			enforce(t, s.Web, w)
			var peers []*peer
			for _, from := range slices.Concat(edges, friends) {
				peers = append(peers, connect(t, s.Client, from, web(from, 443), served))
			}
			for _, p := range peers {
				p.expectFlow(t, true)
			}
			enforce(t, s.Web, tunnelled(w))
			time.Sleep(time.Second)
			for _, p := range peers {
				p.expectFlow(t, slices.Contains(friends, p.from))
			}
			enforce(t, s.Web, w)
			for _, from := range edges {
				connect(t, s.Client, from, web(from, 443), served).expectFlow(t, true)
			}
		})
	}
}
