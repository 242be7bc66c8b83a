package cases

import (
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// The worlds are small, so that lists drawn one after the other split and merge
// each other's networks; the second of each family ends at its highest address.
var (
	worlds4 = prefixes("192.0.2.0/27", "255.255.255.240/28")
	worlds6 = prefixes("2001:db8::/123", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124")
	// wide ones are rare: they swallow the rest.
	wide = prefixes("0.0.0.0/0", "128.0.0.0/1", "0.0.0.0/1", "::/0", "8000::/1", "2000::/3")
)

func prefixes(texts ...string) []netip.Prefix {
	var networks []netip.Prefix
	for _, s := range texts {
		networks = append(networks, netip.MustParsePrefix(s))
	}
	return networks
}

// interfaces are the names that packets drawn at random come in by; situations
// drawn at random trust some of them.
var interfaces = []string{"eth0", "lo", "wg0", "wg1", "tailscale0", "docker0", "br-0123456789ab"}

// Situations draws what Build accepts. Temporary entries end hours after now,
// at least one hour apart.
func Situations(now time.Time) *rapid.Generator[Situation] {
	return rapid.Custom(func(t *rapid.T) Situation {
		host := firewall.Host{
			IPv6:      rapid.IntRange(0, 9).Draw(t, "IPv6") > 0,
			Forwards:  rapid.Bool().Draw(t, "forwards"),
			Bridges:   subset(t, "bridges", "docker0", "br-0123456789ab"),
			Ephemeral: rapid.SampledFrom([][]firewall.PortRange{nil, {{First: 4, Last: 9}}, {{First: 2, Last: 2}, {First: 8, Last: 65535}}}).Draw(t, "ephemeral"),
			Resolvers: resolvers(t),
		}
		if rapid.Bool().Draw(t, "user is known") {
			host.TunnelUser = new(rapid.Uint32Range(0, 2).Draw(t, "user"))
		}
		policy := firewall.Policy{
			Mode:             rapid.SampledFrom([]firewall.Mode{firewall.ModeCloudflare, firewall.ModeTunnel}).Draw(t, "mode"),
			TCP:              ports(t, "tcp"),
			UDP:              firewall.SubtractPorts(ports(t, "udp"), host.Ephemeral),
			Allow:            ipranges.NewList(networks(t, "allow", slices.Concat(worlds4, worlds6), 0, 5)...),
			Interfaces:       subset(t, "interfaces", "tailscale0", "wg0", "wg*"),
			ContainerBridges: rapid.Bool().Draw(t, "container bridges"),
			Audit:            rapid.IntRange(0, 3).Draw(t, "audit") == 0,
			Inbound:          firewall.Inbound{Drop: rapid.Bool().Draw(t, "inbound"), Open: services(t, "open")},
			Outbound:         firewall.Outbound{Drop: rapid.Bool().Draw(t, "outbound"), Allow: services(t, "allow")},
			Tunnel: firewall.Tunnel{
				Edge: ipranges.NewList(networks(t, "edge", slices.Concat(worlds4, worlds6), 0, 2)...),
				User: rapid.SampledFrom([]string{"", "cloudflared"}).Draw(t, "tunnel user"),
			},
		}
		lists := firewall.Lists{
			Cloudflare: ipranges.NewList(slices.Concat(networks(t, "ranges", worlds4, 1, 8), networks(t, "ranges", worlds6, 1, 8))...),
		}
		for _, n := range networks(t, "temporary", slices.Concat(worlds4, worlds6), 0, 4) {
			left := time.Duration(rapid.IntRange(1, 4).Draw(t, "hours")) * time.Hour
			lists.Temporary = append(lists.Temporary, firewall.Temporary{Network: n, Expires: now.Add(left)})
		}
		return Situation{policy, lists, host}
	})
}

func resolvers(t *rapid.T) []netip.Addr {
	var all []netip.Addr
	for _, n := range networks(t, "resolvers", slices.Concat(worlds4, worlds6), 0, 2) {
		if a := n.Addr(); !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

func services(t *rapid.T, label string) []firewall.Service {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) firewall.Service {
		return firewall.Service{
			Protocol: rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "protocol"),
			Ports:    rapid.SampledFrom([]firewall.PortRange{{First: 3, Last: 3}, {First: 5, Last: 5}, {First: 7, Last: 11}}).Draw(t, "ports"),
			Peers:    ipranges.NewList(networks(t, "peers", slices.Concat(worlds4, worlds6), 0, 3)...),
		}
	}), 0, 3).Draw(t, label)
}

func ports(t *rapid.T, label string) []firewall.PortRange {
	drawn := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) firewall.PortRange {
		first := rapid.SampledFrom([]uint16{1, 2, 4, 6, 8, 10, 65535}).Draw(t, "first")
		width := rapid.SampledFrom([]uint16{0, 0, 0, 1, 2}).Draw(t, "width")
		return firewall.PortRange{First: first, Last: first + min(width, 65535-first)}
	}), 0, 5).Draw(t, label)
	return firewall.MergePorts(drawn)
}

func networks(t *rapid.T, label string, worlds []netip.Prefix, least, most int) []netip.Prefix {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
		world := rapid.SampledFrom(worlds).Draw(t, "world")
		if rapid.IntRange(0, 39).Draw(t, "wide") == 39 {
			return rapid.SampledFrom(family(wide, world.Addr())).Draw(t, "network")
		}
		a := address(t, world)
		return netip.PrefixFrom(a, rapid.IntRange(world.Bits(), a.BitLen()).Draw(t, "bits")).Masked()
	}), least, most).Draw(t, label)
}

func family(networks []netip.Prefix, of netip.Addr) (same []netip.Prefix) {
	for _, n := range networks {
		if n.Addr().Is4() == of.Is4() {
			same = append(same, n)
		}
	}
	return same
}

// address draws an address of a network of at most 256.
func address(t *rapid.T, within netip.Prefix) netip.Addr {
	b := within.Addr().AsSlice()
	b[len(b)-1] |= byte(rapid.IntRange(0, 1<<(within.Addr().BitLen()-within.Bits())-1).Draw(t, "host"))
	a, _ := netip.AddrFromSlice(b)
	return a
}

func subset(t *rapid.T, label string, of ...string) []string {
	var chosen []string
	for _, s := range of {
		if rapid.Bool().Draw(t, label+" "+s) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// Packets returns one packet for each kind of difference that rulesets drawn at
// random can make: every address of the worlds, one outside each of them, and
// for a few of those every port, protocol and interface.
func Packets(ipv6 bool) []firewall.Packet {
	var packets []firewall.Packet
	for _, source := range sources(ipv6) {
		for _, protocol := range []string{"tcp", "udp"} {
			for _, port := range []uint16{2, 5, 8} {
				packets = append(packets, firewall.Packet{Source: source, Protocol: protocol, Port: port, Interface: "eth0", Opening: true})
			}
			for _, port := range []uint16{3, 53, 443, 7844} {
				packets = append(packets, firewall.Packet{Destination: source, Protocol: protocol, Port: port, Interface: "eth0", Opening: true, User: 1})
			}
		}
	}
	for _, source := range family(outsiders, netip.IPv4Unspecified()) {
		packets = append(packets, everyKind(source.Addr())...)
	}
	return packets
}

// outsiders hold addresses that only the wide networks hold.
var outsiders = prefixes("1.1.1.1/32", "198.51.100.1/32", "1::1/128", "2001::1/128", "9999::1/128")

func sources(ipv6 bool) []netip.Addr {
	var all []netip.Addr
	for _, world := range slices.Concat(worlds4, worlds6, outsiders) {
		if world.Addr().Is6() && !ipv6 {
			continue
		}
		last := netipx.PrefixLastIP(world)
		for a := world.Addr(); a.IsValid() && a.Compare(last) <= 0; a = a.Next() {
			all = append(all, a)
		}
	}
	return all
}

func everyKind(source netip.Addr) []firewall.Packet {
	var packets []firewall.Packet
	for _, port := range []uint16{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 65534, 65535} {
		for _, name := range interfaces {
			for _, kind := range []firewall.Packet{{Protocol: "udp"}, {Protocol: "tcp"}, {Protocol: "tcp", Opening: true}} {
				kind.Source, kind.Port, kind.Interface = source, port, name
				packets = append(packets, kind)
				kind.Destination, kind.Source, kind.User = source, netip.Addr{}, 2
				packets = append(packets, kind)
			}
		}
	}
	return packets
}
