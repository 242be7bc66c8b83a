package firewall

import (
	"net/netip"
	"slices"
)

// priorityMangle runs after connection tracking and before DNAT
// (NF_IP_PRI_MANGLE): answers are known, and ports are those that clients used.
const priorityMangle = -150

// inbound drops what comes in to other ports than the guarded ones. It looks at
// ports again for every packet that is not an answer, so that a connection
// which is no longer open to its client ends.
func (b builder) inbound() Chain {
	c := Chain{
		Name: "inbound", Hook: Hook{Point: "prerouting", Priority: priorityMangle},
		Comment: "[inbound] policy = drop: what else may come in",
		Rules:   b.unfiltered(),
	}
	add := func(comment string, parts ...match) { c.Rules = append(c.Rules, rule(comment, parts...)) }
	add("answers to this host", answering(), accept())
	add("errors, and what helpers expect", related(), accept())
	for _, ports := range tcp.matches(b.host.Ephemeral) {
		add("connections from here that are older than their tracking", ports, notOpening(), accept())
	}
	for _, ports := range udp.matches(b.host.Ephemeral) {
		add("conversations from here that are older than their tracking", ports, established(), accept())
	}
	c.Rules = append(c.Rules, b.everyHostNeeds(67, 68, 547, 546)...)
	for _, ports := range slices.Concat(tcp.matches(b.policy.TCP), udp.matches(b.policy.UDP)) {
		add("guarded: who may not reach it was dropped before", ports, accept())
	}
	c.Rules = append(c.Rules, b.services(b.policy.Inbound.Open, b.fromNetwork, "[inbound] open")...)
	c.Rules = append(c.Rules, b.dropped("dropped_inbound")...)
	return c
}

// multicast is what IPv4 groups have for addresses (RFC 5771): no router passes
// on what comes there from afar.
var multicast = netip.MustParsePrefix("224.0.0.0/4")

// everyHostNeeds lets ICMP pass, IGMP, which is a part of ICMP in IPv6, and DHCP (RFC 2131, RFC 8415) between the
// given ports: answers to broadcasts are no answers to connection tracking.
func (b builder) everyHostNeeds(from4, to4, from6, to6 uint16) []Rule {
	rules := []Rule{
		rule("ICMP that every host needs", b.needed(icmp4), accept()),
		rule("DHCP", b.fromTo(ipv4, from4, to4), accept()),
		rule("who listens to a group", igmp(), b.toNetwork(multicast), accept()),
	}
	if b.host.IPv6 {
		rules = append(rules,
			rule("ICMPv6 that every host needs", b.needed(icmp6), accept()),
			rule("DHCPv6", b.fromTo(ipv6, from6, to6), accept()))
	}
	return rules
}

// services makes the rules for services of the config: one for all ports that
// are for everybody, others for each network. Networks are compared and not
// looked up: a set of intervals would have to be there before the rules.
func (b builder) services(all []Service, peer func(netip.Prefix) match, comment string) []Rule {
	var rules []Rule
	for _, p := range []protocol{tcp, udp} {
		var everybody []PortRange
		for _, s := range all {
			if s.Protocol == p.name && s.Peers.Len() == 0 {
				everybody = append(everybody, s.Ports)
			}
		}
		for _, ports := range p.matches(MergePorts(everybody)) {
			rules = append(rules, rule(comment, ports, accept()))
		}
	}
	for _, s := range all {
		for _, n := range s.Peers.Networks() {
			if n.Addr().Is4() || b.host.IPv6 {
				rules = append(rules, b.service(s, peer(n), comment))
			}
		}
	}
	return rules
}

func (b builder) service(s Service, peer match, comment string) Rule {
	p := tcp
	if s.Protocol == udp.name {
		p = udp
	}
	return rule(comment, peer, p.matches([]PortRange{s.Ports})[0], accept())
}
