package main

import (
	"net/netip"

	"github.com/cfwall/cfwall/internal/lab"
)

// A visitor tries to reach the services of the web host.
type visitor struct {
	name     string
	host     *lab.Host
	from, to netip.Addr
	kind     kind
}

// A kind of visitor is what cfwall tells apart.
type kind int

const (
	cloudflare kind = iota
	stranger
	local // the host itself, and the containers on it
)

// A service of the web host.
type service struct {
	name, note string
	network    string
	port       uint16
}

var services = []service{
	{"tcp 80", "web", "tcp", 80},
	{"tcp 443", "web", "tcp", 443},
	{"tcp 8443", "container", "tcp", 8443},
	{"udp 443", "HTTP/3", "udp", 443},
	{"tcp 22", "SSH", "tcp", 22},
}

// config guards the published port of the container too.
const config = `[web]
tcp = [80, 443, 8443]
udp = [443]
`

// admitted is what cfwall promises for config. Cloudflare speaks only TCP to
// origins.
func admitted(v visitor, s service) bool {
	return s.port == 22 || v.kind == local || v.kind == cloudflare && s.network == "tcp"
}

// A site is a web host with a container, and its visitors.
type site struct {
	t          *lab.Program
	web        *lab.Host
	cloudflare *lab.Cloudflare
	visitors   []visitor
}

// The visitors' addresses.
var (
	edge4     = netip.MustParseAddr("104.16.0.1")
	edge6     = netip.MustParseAddr("2606:4700::1")
	stranger4 = netip.MustParseAddr("198.51.100.7")
	stranger6 = netip.MustParseAddr("2001:db8:bad::7")
)

func newSite(p *lab.Program) *site {
	s := lab.NewSite(p)
	container := s.Container()
	for _, a := range []netip.Addr{edge4, edge6, stranger4, stranger6} {
		s.Client.Anycast(netip.PrefixFrom(a, a.BitLen()))
	}
	// The container engine's part: DNAT for who comes from outside, a proxy for
	// who does not.
	s.Web.Nft(p, `table inet nat { chain prerouting {
		type nat hook prerouting priority dstnat
		iifname eth0 tcp dport 8443 dnat ip to 172.17.0.2:443
		iifname eth0 tcp dport 8443 dnat ip6 to [fd00:17::2]:443
		}
	}`)
	container.ListenTCP(":443")
	bridge4, bridge6 := lab.Container4.Prev(), lab.Container6.Prev()
	for _, a := range []netip.Addr{loopback4, loopback6, bridge4, bridge6} {
		s.Web.ListenTCP(netip.AddrPortFrom(a, 8443).String())
	}
	s.Web.ListenTCP(":80", ":443", ":22")
	s.Web.ListenUDP(":443")
	return &site{
		t: p, web: s.Web,
		cloudflare: s.Client.Cloudflare(lab.Client4),
		visitors: []visitor{
			{"Cloudflare", s.Client, edge4, lab.Web4, cloudflare},
			{"", s.Client, edge6, lab.Web6, cloudflare},
			{"a stranger", s.Client, stranger4, lab.Web4, stranger},
			{"", s.Client, stranger6, lab.Web6, stranger},
			{"a container", container, lab.Container4, bridge4, local},
			{"", container, lab.Container6, bridge6, local},
			{"the host itself", s.Web, loopback4, loopback4, local},
			{"", s.Web, loopback6, loopback6, local},
		},
	}
}

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.IPv6Loopback()
)

// ask has every visitor try every service, and expect what admit says.
func (s *site) ask(admit func(visitor, service) bool) []lab.Result {
	var results []lab.Result
	for _, v := range s.visitors {
		var probes []lab.Probe
		for _, to := range services {
			probes = append(probes, lab.Probe{
				Network: to.network, From: v.from, To: netip.AddrPortFrom(v.to, to.port), Admit: admit(v, to),
			})
		}
		results = append(results, v.host.DialMany(probes)...)
	}
	return results
}
