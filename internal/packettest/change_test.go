package packettest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

// soak is set in the environment for a long run.
const soak = "CFWALL_SOAK"

// amount is how often to do something, in a normal run and in a long one.
func amount(normal, long int) int {
	if os.Getenv(soak) != "" {
		return long
	}
	return normal
}

// While lists and policies change under a flood from strangers, none of them
// gets past the firewall and nothing that the edge sends is dropped.
func TestChangesUnderFlood(t *testing.T) {
	s := floodedSite(t)
	random := rand.New(rand.NewPCG(2, 2026))
	reloads := reloads{random, s.Web, make(map[string]bool)}
	w := withFriends()
	w.policy.Allow = w.policy.Allow.Union(randomNetworks(random, 500)) // the longer a set, the longer it takes to change
	enforce(t, s.Web, w)

	tests := []struct {
		name    string
		changes int
		change  func()
		changed bool
		quic    bool // the edge is in [allow] at times, which admits UDP too
	}{
		{name: "nothing changes", changes: 100, change: func() {}},
		{name: "the list changes", changes: amount(200, 1000), changed: true, change: func() {
			w.lists.Cloudflare = randomList(random)
		}},
		{name: "the edge moves between the list and [allow]", changes: amount(60, 400), changed: true, quic: true, change: func() {
			w = moved(w)
		}},
		{name: "the config is reloaded", changes: amount(40, 100), changed: true, quic: true, change: func() {
			w = reloads.next()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			seen := s.underFlood(t, func() {
				for done := 0; done < tt.changes; {
					tt.change()
					if enforce(t, s.Web, w) == tt.changed {
						done++
					}
				}
			})
			t.Logf("%d changes in %v: %v", tt.changes, time.Since(start).Round(time.Millisecond), seen)
			seen.check(t, tt.quic)
		})
	}
}

// The detectors of TestChangesUnderFlood find what they are to find.
func TestFloodFindsGaps(t *testing.T) {
	s := floodedSite(t)
	w := withFriends()
	enforce(t, s.Web, w)

	t.Run("the table is deleted and made anew", func(t *testing.T) {
		seen := s.underFlood(t, func() {
			for range 20 {
				apply(t, s.Web, firewall.DeleteTable{})
				enforce(t, s.Web, w)
			}
		})
		t.Log(seen)
		if seen.strangers.past == 0 {
			t.Error("no stranger got in while there was no table: the flood would not find a leak")
		}
		if seen.edges.lost() != 0 || seen.served.lost() != 0 {
			t.Error("LOST packets of the edge while the table was made")
		}
	})
	t.Run("a list is emptied and filled again", func(t *testing.T) {
		seen := s.underFlood(t, func() {
			for _, set := range slices.Repeat(cloudflareSets(t, w), 10) {
				apply(t, s.Web, firewall.DeleteElements{Set: set, Elements: set.Elements})
				apply(t, s.Web, firewall.AddElements{Set: set, Elements: set.Elements})
			}
		})
		t.Log(seen)
		if seen.edges.lost() == 0 {
			t.Error("all packets of the edge got in while the list was empty: the flood would not find a loss")
		}
	})
}

// apply makes one change as a transaction of its own.
func apply(t *testing.T, h *lab.Host, op firewall.Op) {
	t.Helper()
	var err error
	h.Do(func() {
		err = kernel.New().Apply(t.Context(), firewall.Plan{Family: firewall.FamilyINET, Steps: []firewall.Step{{op}}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func cloudflareSets(t *testing.T, w wanted) []firewall.Set {
	t.Helper()
	r, err := firewall.Build(w.policy, w.lists, firewall.Host{IPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	v4, _ := r.Set("cloudflare4")
	v6, _ := r.Set("cloudflare6")
	return []firewall.Set{v4, v6}
}

// randomList is Cloudflare's list with networks split, merged, narrowed, added
// and removed. The edges are always in it, the strangers never.
func randomList(random *rand.Rand) ipranges.List {
	l := ipranges.Embedded().List
	add := func(networks ...string) { l = l.Union(list(networks...)) }
	remove := func(networks ...string) { l = l.Minus(list(networks...)) }
	edits := []func(){
		func() { remove("173.245.48.0/20", "2400:cb00::/32") },
		func() { remove("104.24.0.0/14", "2c0f:f248::/32") },
		func() { add("104.16.0.0/12", "2606:4700::/31") },         // the edge's network and its neighbour become one
		func() { remove("104.20.0.0/22", "2606:4700:8000::/34") }, // the edge's network falls into pieces
		func() { remove("104.16.1.0/24", "2606:4700:0:1::/64") },  // and into more
		func() { remove("104.16.0.0/13", "2606:4700::/32"); add("104.16.0.0/24", "2606:4700::/48") },
		func() { remove("104.16.0.0/13", "2606:4700::/32"); add("104.16.0.0/31", "2606:4700::/127") },
		func() { add("104.0.0.0/8", "2600::/12") },
		func() { l = l.Union(randomNetworks(random, 300)) },
	}
	for _, edit := range edits {
		if random.IntN(3) == 0 {
			edit()
		}
	}
	return l
}

// randomNetworks is a list of about as many networks of each family, none of
// them anybody's.
func randomNetworks(random *rand.Rand, n int) ipranges.List {
	var networks []netip.Prefix
	for range n {
		a, b := byte(random.IntN(256)), byte(random.IntN(256))
		networks = append(networks,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{100, a, b, 0}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x2a, 0, a, b}), 32))
	}
	return ipranges.NewList(networks...)
}

func list(networks ...string) ipranges.List {
	var prefixes []netip.Prefix
	for _, n := range networks {
		prefixes = append(prefixes, netip.MustParsePrefix(n))
	}
	return ipranges.NewList(prefixes...)
}

// edgeNetworks are the networks of the edges in Cloudflare's list.
var edgeNetworks = list("104.16.0.0/13", "2606:4700::/32")

// moved takes the edge's networks out of the list and into [allow], or back.
func moved(w wanted) wanted {
	allow := w.policy.Allow.Union(edgeNetworks)
	if w.policy.Allow.Equal(allow) {
		w.policy.Allow = w.policy.Allow.Minus(edgeNetworks)
		w.lists.Cloudflare = w.lists.Cloudflare.Union(edgeNetworks)
	} else {
		w.policy.Allow = allow
		w.lists.Cloudflare = w.lists.Cloudflare.Minus(edgeNetworks)
	}
	return w
}

// reloads makes configs, lists and hosts at random. The flooded ports are
// always guarded, and the strangers never admitted.
type reloads struct {
	random  *rand.Rand
	web     *lab.Host
	bridges map[string]bool // that exist
}

func (r *reloads) next() wanted {
	w := withFriends()
	w.lists.Cloudflare = randomList(r.random)
	p := &w.policy
	edits := []func(){
		func() { p.TCP = append(p.TCP, ports(8443)...) },
		func() { p.TCP = append(p.TCP, ports(ephemeral)...) },
		func() { p.TCP = append(p.TCP, firewall.PortRange{First: 8000, Last: 8010}) },
		func() { p.UDP = append(p.UDP, ports(8443)...) },
		func() { p.Allow = ipranges.List{} },
		func() { p.Allow = p.Allow.Union(list("10.0.0.0/8", "2001:db8:a::/48")) },
		func() { w = moved(w) },
		func() { p.Interfaces = append(p.Interfaces, "vpn0") },
		func() { p.Interfaces = append(p.Interfaces, "wg*") },
		func() { p.ContainerBridges = false },
		func() { w.facts = func(h *firewall.Host) { h.Forwards = !h.Forwards } },
		func() {
			expires := time.Now().Add(time.Duration(1+r.random.IntN(60)) * time.Minute)
			w.lists.Temporary = []firewall.Temporary{{Network: single(friend4), Expires: expires}}
		},
		func() { r.toggleBridge("docker0") },
		func() { r.toggleBridge("br-0123456789ab") },
	}
	for _, edit := range edits {
		if r.random.IntN(2) == 0 {
			edit()
		}
	}
	p.TCP, p.UDP = firewall.MergePorts(p.TCP), firewall.MergePorts(p.UDP)
	return w
}

func (r *reloads) toggleBridge(name string) {
	if r.bridges[name] {
		r.web.Remove(name)
	} else {
		r.web.Bridge(name)
	}
	r.bridges[name] = !r.bridges[name]
}

// A flooded site takes a flood at port 80, where nobody answers, and serves at
// port 443.
type flooded struct {
	*lab.Site
	strangers, strangersQUIC, edges, edgesQUIC, served *lab.Arrivals
}

func floodedSite(t *testing.T) *flooded {
	t.Helper()
	s := newSite(t)
	s.Web.ListenTCP(":443")
	s.Web.Nft(t, `table inet sink {
		chain in {
			type filter hook prerouting priority -280
			tcp dport 80 drop
		}
	}`)
	return &flooded{
		Site:          s,
		strangers:     s.Web.CountArrivals(t, "tcp", 80, singles(strangers...)...),
		strangersQUIC: s.Web.CountArrivals(t, "udp", 443, singles(strangers...)...),
		edges:         s.Web.CountArrivals(t, "tcp", 80, singles(edges...)...),
		edgesQUIC:     s.Web.CountArrivals(t, "udp", 443, singles(edges...)...),
		served:        s.Web.CountArrivals(t, "tcp", 443, singles(edges...)...),
	}
}

// underFlood does something while the flood goes on, and the edge converses
// with the web host, and tells what came of it.
func (s *flooded) underFlood(t *testing.T, do func()) observed {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	before := s.read(t)
	var floodFailed error
	wg.Go(func() { floodFailed = s.flood(ctx) })
	var talks conversations
	wg.Go(func() { talks = s.converse(ctx) })
	do()
	stop()
	wg.Wait()
	if floodFailed != nil {
		t.Fatal(floodFailed)
	}
	o := s.settled(t).minus(before)
	o.conversations = talks
	return o
}

// flood sends, turn by turn, what is admitted and what is not.
func (s *flooded) flood(ctx context.Context) error {
	const turn = 5 * time.Millisecond
	for ctx.Err() == nil {
		for i := range edges {
			callers := []netip.Addr{strangers[i], edges[i]}
			for network, port := range map[string]uint16{"tcp": 80, "udp": 443} {
				turn, done := context.WithTimeout(ctx, turn)
				_, err := s.Client.Flood(turn, network, callers, web(edges[i], port))
				done()
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// stall is how long a conversation takes at least in which a packet was lost:
// TCP sends a SYN again after a second.
const stall = 900 * time.Millisecond

// conversations sums up what the edge said to the web host.
type conversations struct {
	held, stalled int
	slowest       time.Duration
	failed        error
}

func (s *flooded) converse(ctx context.Context) (c conversations) {
	for ctx.Err() == nil {
		from := edges[c.held%len(edges)]
		start := time.Now()
		err := s.Client.Dial("tcp", from, web(from, 443), 10*time.Second)
		took := time.Since(start)
		c.held++
		c.slowest, c.failed = max(c.slowest, took), errors.Join(c.failed, err)
		if took > stall {
			c.stalled++
		}
	}
	return c
}

// packets counts what came to the firewall and what got past it.
type packets struct{ came, past int }

func (p packets) minus(q packets) packets { return packets{p.came - q.came, p.past - q.past} }

func (p packets) lost() int { return p.came - p.past }

// observed is what happened during a flood.
type observed struct {
	strangers, strangersQUIC packets // are never admitted
	edges, served            packets // always are
	edgesQUIC                packets // are where the edge is in [allow]
	conversations            conversations
}

func (s *flooded) read(t *testing.T) (o observed) {
	t.Helper()
	o.strangers.came, o.strangers.past = s.strangers.Read(t)
	o.strangersQUIC.came, o.strangersQUIC.past = s.strangersQUIC.Read(t)
	o.edges.came, o.edges.past = s.edges.Read(t)
	o.edgesQUIC.came, o.edgesQUIC.past = s.edgesQUIC.Read(t)
	o.served.came, o.served.past = s.served.Read(t)
	return o
}

// settled reads the counters once nothing is under way any more.
func (s *flooded) settled(t *testing.T) observed {
	t.Helper()
	for last := s.read(t); ; {
		time.Sleep(50 * time.Millisecond)
		now := s.read(t)
		if now == last {
			return now
		}
		last = now
	}
}

func (o observed) minus(p observed) observed {
	o.strangers, o.strangersQUIC = o.strangers.minus(p.strangers), o.strangersQUIC.minus(p.strangersQUIC)
	o.edges, o.edgesQUIC = o.edges.minus(p.edges), o.edgesQUIC.minus(p.edgesQUIC)
	o.served = o.served.minus(p.served)
	return o
}

func (o observed) String() string {
	c := o.conversations
	return fmt.Sprintf("strangers: %d of %d packets got in, UDP: %d of %d; edge: %d of %d lost, %d of %d in conversations, UDP: %d of %d got in; %d conversations, slowest %v, %d over %v",
		o.strangers.past, o.strangers.came, o.strangersQUIC.past, o.strangersQUIC.came,
		o.edges.lost(), o.edges.came, o.served.lost(), o.served.came, o.edgesQUIC.past, o.edgesQUIC.came,
		c.held, c.slowest.Round(time.Millisecond), c.stalled, stall)
}

// check judges by counters, which a busy machine does not disturb: a
// conversation that stalled has lost something only where packets were dropped.
func (o observed) check(t *testing.T, quic bool) {
	t.Helper()
	if o.strangers.past != 0 || o.strangersQUIC.past != 0 {
		t.Errorf("LEAKED packets of strangers: %v", o)
	}
	if o.edgesQUIC.past != 0 && !quic {
		t.Errorf("LEAKED UDP packets of the edge: %v", o)
	}
	if o.edges.lost() != 0 || o.served.lost() != 0 {
		t.Errorf("LOST packets of the edge: %v", o)
	}
	if err := o.conversations.failed; err != nil {
		t.Errorf("LOST conversations of the edge: %v", err)
	}
	if min(o.strangers.came, o.strangersQUIC.came, o.edges.came, o.edgesQUIC.came) < 1000 || o.conversations.held < 10 {
		t.Errorf("too little traffic to judge by: %v", o)
	}
}
