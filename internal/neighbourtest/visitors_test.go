package neighbourtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cfwall/cfwall/internal/lab"
)

// Who asks for the web port: an address of Cloudflare's gets in, and these do not.
var (
	edges     = []netip.Addr{netip.MustParseAddr("173.245.48.7"), netip.MustParseAddr("2400:cb00::7")}
	strangers = []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:1::7")}
)

// connect puts the machine on the Internet, with a web server at the port.
func (m *machine) connect(n neighbour) {
	m.Helper()
	m.port = n.port
	m.client = m.net.Host("client")
	m.net.Connect(m.client, "eth0", m.web, "eth0")
	for host, addresses := range map[*lab.Host][]netip.Addr{m.client: {lab.Client4, lab.Client6}, m.web: {lab.Web4, lab.Web6}} {
		host.Addr("eth0", netip.PrefixFrom(addresses[0], 24))
		host.Addr("eth0", netip.PrefixFrom(addresses[1], 64))
	}
	m.web.Route(netip.MustParsePrefix("0.0.0.0/0"), lab.Client4, "eth0")
	m.web.Route(netip.MustParsePrefix("::/0"), lab.Client6, "eth0")
	for _, a := range slices.Concat(edges, strangers) {
		m.client.Addr("lo", netip.PrefixFrom(a, a.BitLen()))
	}
	if n.setup != nil {
		n.setup(m)
	} else {
		m.web.ListenTCP(fmt.Sprintf(":%d", n.port))
	}
}

// target is the web server as a visitor calls it.
func (m *machine) target(visitor netip.Addr) netip.AddrPort {
	if visitor.Is4() {
		return netip.AddrPortFrom(lab.Web4, m.port)
	}
	return netip.AddrPortFrom(lab.Web6, m.port)
}

// expectVisits wants each of the visitors to get an answer, or none.
func (m *machine) expectVisits(when string, visitors []netip.Addr, admit bool) {
	m.Helper()
	var probes []lab.Probe
	for _, v := range visitors {
		probes = append(probes, lab.Probe{Network: "tcp", From: v, To: m.target(v), Admit: admit})
	}
	for _, r := range lab.Unexpected(m.client.DialMany(probes)) {
		m.Fatalf("%s, %v: admitted is not %v: %v", when, r.Probe, admit, r.Err)
	}
}

// A knock is strangers that ask for the web port all the time, and a count of
// all that comes back to them.
type knock struct {
	*machine
	stop context.CancelFunc
	sent chan int
}

const knockTable = `table inet knock {
	counter answers { }
	chain answers {
		type filter hook prerouting priority -400;
		ip daddr 198.51.100.7 tcp sport %[1]d counter name answers
		ip6 daddr 2001:db8:1::7 tcp sport %[1]d counter name answers
	}
}`

func (m *machine) knock() *knock {
	m.Helper()
	m.client.Nft(m, fmt.Sprintf(knockTable, m.port))
	ctx, stop := context.WithCancel(m.Context())
	k := &knock{m, stop, make(chan int, 1)}
	go func() { k.sent <- k.ask(ctx); close(k.sent) }()
	m.Cleanup(func() { // before the hosts go
		stop()
		for range k.sent {
		}
	})
	return k
}

// ask sends a burst every 10 ms or so, so that the machine has time for
// other things, and returns how many packets it sent.
func (k *knock) ask(ctx context.Context) (sent int) {
	const burst = 100 * time.Microsecond
	for ctx.Err() == nil {
		for _, s := range strangers {
			short, cancel := context.WithTimeout(ctx, burst)
			n, err := k.client.Flood(short, "tcp", []netip.Addr{s}, k.target(s))
			cancel()
			if err != nil {
				k.Error(err)
				return sent
			}
			sent += n
		}
		time.Sleep(10 * time.Millisecond)
	}
	return sent
}

// answers is how many packets have come back to the strangers.
func (k *knock) answers() (packets int) {
	k.Helper()
	out := k.client.NftList(k, "counter", "inet", "knock", "answers")
	_, figures, _ := strings.Cut(out, "packets ")
	if _, err := fmt.Sscan(figures, &packets); err != nil {
		k.Fatalf("%v in %q", err, out)
	}
	return packets
}

// letLive has the neighbour live its whole life, and looks after every step
// whether our table is whole. Where nobody can change it, no stranger may get
// an answer in between either.
func (m *machine) letLive(n neighbour) {
	m.Helper()
	m.cfwallDoes("on")
	m.write("/etc/cfwall/config.toml", fmt.Sprintf("[web]\ntcp = [%d]\n", n.port))
	m.startDaemon()
	m.owned = m.status().Table.Ownership == "owned" // by Linux 6.9 and later
	k := m.knock()
	for _, s := range n.life {
		s.do(m)
		m.expectWhole(s.what)
		m.expectVisits("after "+s.what, edges, true)
		m.expectVisits("after "+s.what, strangers, false)
		if got := k.answers(); m.owned && got != 0 {
			m.Fatalf("LEAKED: until after %s, %d packets came back to strangers", s.what, got)
		}
	}
	before := k.answers()
	m.cfwallDoes("off")
	m.expectVisits("after off", strangers, true) // so it was us who kept them out
	k.stop()
	if sent := <-k.sent; sent == 0 || k.answers() == before {
		m.Fatalf("strangers sent %d packets, %d answers were counted while all was open", sent, k.answers()-before)
	}
}
