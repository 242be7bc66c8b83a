package firewall

import (
	"net/netip"

	"go4.org/netipx"
)

// tunnelPort is where cloudflared reaches Cloudflare, by TCP for HTTP/2 and by
// UDP for QUIC. Both are always open together: without UDP cloudflared needs
// 107 s to fall back, and its unit ends it after 15 s.
const tunnelPort = 7844

// tunnel counts cloudflared's packets behind all that may change them, and
// those of containers, which are forwarded, too. It also has the kernel track
// connections, so that closing the host later knows the answers to it.
func (b builder) tunnel() Chain {
	return Chain{
		Name: "tunnel", Hook: Hook{Point: "postrouting", Priority: priorityMangle},
		Comment: "counts what goes to Cloudflare's end of the tunnel",
		Rules: []Rule{
			rule("HTTP/2", tcp.toPorts([]uint16{tunnelPort}), beginning(), count("tunnel_tcp")),
			rule("QUIC", udp.toPorts([]uint16{tunnelPort}), beginning(), count("tunnel_udp")),
		},
	}
}

// egress rejects what this host itself sends, so that programs fail at once.
func (b builder) egress() Chain {
	c := Chain{
		Name: "egress", Hook: Hook{Point: "output"},
		Comment: "[outbound] policy = drop: what this host may send",
	}
	add := func(comment string, parts ...match) { c.Rules = append(c.Rules, rule(comment, parts...)) }
	add("this host itself", toLoopback(), accept())
	c.Rules = append(c.Rules, b.trusted(wayOut)...)
	add("answers", answering(), accept())
	add("errors, and what helpers expect", related(), accept())
	// A reject would reset connections that came in before they were tracked,
	// SSH among them: for those the packets from here are no answers. The same
	// holds for UDP, WireGuard for instance.
	add("connections that are open already", match{notOpening().text, append(tcp.is(), notOpening().code...)}, accept())
	add("conversations that are open already", match{"meta l4proto udp", udp.is()}, established(), accept())
	c.Rules = append(c.Rules, b.everyHostNeeds(68, 67, 546, 547)...)
	add("time", udp.toPorts([]uint16{123}), accept())
	for _, f := range b.families() {
		c.Rules = append(c.Rules, b.tunnelNeeds(f)...)
	}
	// cloudflared asks 1.1.1.1 over TLS where the host's resolvers fail it.
	add("cloudflared's other resolver", b.toNetwork(netip.MustParsePrefix("1.1.1.1/32")), tcp.toPorts([]uint16{853}), accept())
	c.Rules = append(c.Rules, b.services(b.policy.Outbound.Allow, b.toNetwork, "[outbound] allow")...)
	for _, f := range b.families() {
		add("remembered for cfwall status", b.rememberDestination(f, b.named("rejected"+f.suffix)))
	}
	c.Rules = append(c.Rules, b.rejected()...)
	return c
}

// tunnelNeeds lets the tunnel pass and what it needs: names, and Cloudflare's
// API for updates and keys, whence cfwall's own list comes too.
func (b builder) tunnelNeeds(f addressFamily) []Rule {
	var rules []Rule
	add := func(comment string, parts ...match) { rules = append(rules, rule(comment, append(parts, accept())...)) }
	if len(f.resolvers(b.host)) > 0 {
		add("DNS", b.toSet(f, "resolvers"+f.suffix), udp.toPorts([]uint16{53}))
		add("DNS", b.toSet(f, "resolvers"+f.suffix), tcp.toPorts([]uint16{53, 853}))
	}
	for _, p := range []protocol{tcp, udp} {
		edge := []match{b.toSet(f, b.edgeSet(f)), p.toPorts([]uint16{tunnelPort})}
		switch {
		case b.policy.Tunnel.User == "":
			add("the tunnel", edge...)
		case b.host.TunnelUser != nil:
			add("the tunnel", append(edge, sentBy(*b.host.TunnelUser))...)
		}
	}
	add("updates, and keys of Access", b.toSet(f, "cloudflare"+f.suffix), tcp.toPorts([]uint16{443}))
	return rules
}

func (b builder) egressSets(f addressFamily) []Set {
	sets := []Set{
		{Name: "resolvers" + f.suffix, Type: f.setType, Comment: "the DNS servers of this host", Elements: f.resolvers(b.host)},
		{Name: b.named("rejected" + f.suffix), Type: f.serviceType, Timeouts: true, Comment: b.refused("where this host was not let send to")},
	}
	if b.edgeSet(f) == "edge"+f.suffix {
		sets = append(sets, Set{
			Name: "edge" + f.suffix, Type: f.setType, Comment: "the documented addresses of the tunnel's other end",
			Elements: networkElements(f.of(b.policy.Tunnel.Edge)),
		})
	}
	return sets
}

// edgeSet names the set of the addresses at the other end of the tunnel.
func (b builder) edgeSet(f addressFamily) string {
	if b.policy.Tunnel.Edge.Len() == 0 {
		return "cloudflare" + f.suffix
	}
	return "edge" + f.suffix
}

func (f addressFamily) resolvers(h Host) []Element {
	var elements []Element
	for _, a := range h.Resolvers {
		if familyOf(a) == f {
			elements = append(elements, Element{Range: netipx.IPRangeFrom(a, a)})
		}
	}
	return elements
}

// rejected refuses everything else, counted for each family.
func (b builder) rejected() []Rule {
	var rules []Rule
	add := func(parts ...match) { rules = append(rules, rule(b.refused("everything else"), parts...)) }
	for _, f := range b.families() {
		add(append(b.only(f), count(b.named("rejected_outbound"+f.suffix)))...)
	}
	if b.policy.Audit {
		add(accept())
		return rules
	}
	add(reset())
	add(b.prohibited())
	return rules
}
