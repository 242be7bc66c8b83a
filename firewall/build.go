package firewall

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/cfwall/cfwall/ipranges"
)

// ErrEphemeralUDP says that a guarded UDP port is one from which this host
// opens connections of its own: dropping what arrives there would drop replies.
var ErrEphemeralUDP = errors.New("a guarded UDP port lies in the range of ports that this host uses for its own connections")

// ErrNoList says that there is no network to admit: such a ruleset is never built.
var ErrNoList = errors.New("the list of Cloudflare's networks is empty")

// priorityRaw runs before connection tracking and before DNAT, so that rules
// see the port which the client used (NF_IP_PRI_RAW).
const priorityRaw = -300

// priorityBeforeDefrag runs before connection tracking puts fragments together
// (NF_IP6_PRI_CONNTRACK_DEFRAG, -400).
const priorityBeforeDefrag = -450

// Build makes the ruleset that enforces a policy. Equal arguments give equal
// rulesets. It fails with ErrNoList or ErrEphemeralUDP.
func Build(p Policy, l Lists, h Host) (Ruleset, error) {
	if len(l.Cloudflare.V4()) == 0 || h.IPv6 && len(l.Cloudflare.V6()) == 0 {
		return Ruleset{}, ErrNoList
	}
	p.TCP, p.UDP = MergePorts(p.TCP), MergePorts(p.UDP) // a set that holds a port twice would never read back the same
	if risky := AtRisk(p.UDP, h); len(risky) > 0 {
		return Ruleset{}, fmt.Errorf("udp %s: %w", JoinPorts(risky), ErrEphemeralUDP)
	}
	b := builder{policy: p, lists: l, host: h}
	return b.ruleset(), nil
}

// AtRisk returns the ports among ranges that the host also uses for its own connections.
func AtRisk(ranges []PortRange, h Host) []PortRange { return intersect(ranges, h.Ephemeral) }

// natPorts are those that source NAT picks from when a client's own port is
// taken, or at random (nf_nat_l4proto_unique_tuple).
var natPorts = []PortRange{{1024, 65535}}

// RepliesAt returns the TCP ports among ranges to which replies come, to this
// host's own connections or to those of hosts behind it.
func RepliesAt(ranges []PortRange, h Host) []PortRange {
	if h.Routes {
		return intersect(ranges, natPorts)
	}
	return AtRisk(ranges, h)
}

func intersect(a, b []PortRange) []PortRange { return SubtractPorts(a, SubtractPorts(a, b)) }

// JoinPorts prints "80,443,8000-8010".
func JoinPorts(ranges []PortRange) string {
	words := make([]string, len(ranges))
	for i, r := range ranges {
		words[i] = r.String()
	}
	return strings.Join(words, ",")
}

type builder struct {
	policy Policy
	lists  Lists
	host   Host
}

func (b builder) families() []addressFamily {
	if !b.host.IPv6 {
		return []addressFamily{ipv4}
	}
	return []addressFamily{ipv4, ipv6}
}

func (b builder) ruleset() Ruleset {
	r := Ruleset{Family: FamilyINET, Comment: "kept by cfwall: see cfwall status"}
	if !b.host.IPv6 {
		r.Family = FamilyIP
	}
	for _, f := range b.families() {
		r.Sets = append(r.Sets, b.sets(f)...)
		r.Counters = append(r.Counters, b.counters(f)...)
	}
	r.Sets = append(r.Sets, b.trustedSet())
	r.Chains = b.guardChains()
	if b.policy.Inbound.Drop {
		r.Chains = append(r.Chains, b.inbound())
	}
	if b.policy.Mode == ModeTunnel {
		r.Counters = append(r.Counters,
			Counter{Name: "tunnel_tcp", Comment: "packets sent to port 7844, HTTP/2"},
			Counter{Name: "tunnel_udp", Comment: "packets sent to port 7844, QUIC"})
		r.Chains = append(r.Chains, b.tunnel())
	}
	if b.policy.Outbound.Drop {
		r.Chains = append(r.Chains, b.egress())
	}
	return r
}

func (b builder) guardChains() []Chain {
	chains := []Chain{b.guard()}
	if b.policy.Mode == ModeCloudflare {
		chains = append(chains, b.cloudflare())
	}
	chains = append(chains, b.closed())
	if b.host.IPv6 {
		chains = append(chains, b.beforeDefrag(), b.fragments())
	}
	return chains
}

// sets holds those that rules look into. A list that no rule needs is not in
// the kernel; where it comes to be needed it is filled before the rules change.
func (b builder) sets(f addressFamily) []Set {
	var sets []Set
	if b.policy.Mode == ModeCloudflare || b.policy.Outbound.Drop {
		sets = append(sets, Set{
			Name: "cloudflare" + f.suffix, Type: f.setType, Comment: "networks that Cloudflare publishes",
			Elements: networkElements(f.of(b.lists.Cloudflare)),
		})
	}
	sets = append(sets, b.allowedSet(f))
	sets = append(sets, b.auditSets(f)...)
	if b.policy.Outbound.Drop {
		sets = append(sets, b.egressSets(f)...)
	}
	return sets
}

func (b builder) counters(f addressFamily) []Counter {
	var counters []Counter
	add := func(name, comment string) {
		counters = append(counters, Counter{Name: name + f.suffix, Comment: f.full + " packets " + comment})
	}
	refused := func(name, comment string) {
		counters = append(counters, Counter{Name: b.named(name + f.suffix), Comment: b.refused(f.full + " packets " + comment)})
	}
	if b.policy.Mode == ModeCloudflare {
		add("admitted_cloudflare", "admitted from Cloudflare")
	}
	add("admitted_allowed", "admitted by allow entries")
	refused("dropped", "dropped at the guarded ports")
	if b.policy.Inbound.Drop {
		refused("dropped_inbound", "dropped at the other ports")
	}
	if b.policy.Outbound.Drop {
		refused("rejected_outbound", "that this host was not let send")
	}
	return counters
}

func (b builder) allowedSet(f addressFamily) Set {
	return Set{
		Name: "allowed" + f.suffix, Type: f.setType, Timeouts: true,
		Comment:  "[allow] from in the config, and cfwall allow",
		Elements: append(networkElements(f.of(b.policy.Allow)), b.temporaryElements(f)...),
	}
}

// temporaryElements are free of overlaps, as a set must be: where entries
// overlap, each address keeps the entry that lasts longest.
func (b builder) temporaryElements(f addressFamily) []Element {
	entries := slices.SortedStableFunc(slices.Values(b.lists.Temporary), func(x, y Temporary) int {
		return y.Expires.Compare(x.Expires)
	})
	covered := b.policy.Allow
	var elements []Element
	for _, e := range entries {
		if e.Network.Addr().Is4() != (f == ipv4) {
			continue
		}
		network := ipranges.NewList(e.Network)
		for _, n := range network.Minus(covered).Networks() {
			elements = append(elements, Element{Range: netipx.RangeOfPrefix(n), Expires: e.Expires})
		}
		covered = covered.Union(network)
	}
	return elements
}

func (b builder) trustedSet() Set {
	var names []string
	for _, pattern := range b.policy.Interfaces {
		if !strings.HasSuffix(pattern, "*") {
			names = append(names, pattern)
		}
	}
	if b.policy.ContainerBridges {
		names = append(names, b.host.Bridges...)
	}
	slices.Sort(names)
	s := Set{Name: "trusted_interfaces", Type: TypeInterface, Comment: "[allow] interfaces, and the bridges of container engines"}
	for _, n := range slices.Compact(names) {
		s.Elements = append(s.Elements, Element{Name: n})
	}
	return s
}

// guard looks at every packet that comes in, so it is as short as can be.
func (b builder) guard() Chain {
	return Chain{
		Name: "guard", Hook: Hook{Point: "prerouting", Priority: priorityRaw},
		Comment: "before DNAT: the port is the one that the client used",
		Rules:   b.guardPorts(),
	}
}

// beforeDefrag sends the parts of IPv6 packets to a chain of their own before
// connection tracking puts them together. Where other headers stand before the
// fragment header, what Linux makes of the packet then shows later rules
// another protocol than the host will read.
func (b builder) beforeDefrag() Chain {
	return Chain{
		Name: "before_defrag", Hook: Hook{Point: "prerouting", Priority: priorityBeforeDefrag},
		Comment: "IPv6 fragments, before they are put together",
		Rules:   []Rule{rule("IPv6 fragments", b.fragmented(), gotoChain("fragments"))},
	}
}

// fragments guards the same ports, and what hides its port: a fragment header
// behind others, or a first part without its headers (RFC 8200, section 4.5).
// Nobody needs those on the Internet. Whoever is admitted to the guarded ports
// may send them, but not where other ports are closed as well.
func (b builder) fragments() Chain {
	c := Chain{
		Name: "fragments", Comment: "guards the same ports, and fragments that hide theirs",
		Rules: append(b.guardPorts(),
			rule("a fragment that shows its port, or belongs to one that does", b.showsItsPort(), accept())),
	}
	if !b.policy.Inbound.Drop {
		c.Rules = append(c.Rules, rule("a fragment that hides its port", gotoChain(b.decider())))
		return c
	}
	c.Rules = append(c.Rules, b.unfiltered()...)
	c.Rules = append(c.Rules, rule(b.refused("a fragment that hides its port"), count(b.named("dropped_inbound6")), b.drop()))
	return c
}

// decider is the chain that decides who reaches guarded TCP ports: all that
// tells one mode from the other.
func (b builder) decider() string {
	if b.policy.Mode == ModeCloudflare {
		return "cloudflare"
	}
	return "closed"
}

// guardPorts sends packets to guarded ports to whoever decides about them.
func (b builder) guardPorts() []Rule {
	var rules []Rule
	for _, ports := range tcp.matches(RepliesAt(b.policy.TCP, b.host)) {
		rules = append(rules, rule("replies to connections from here may use these ports",
			ports, notOpening(), accept()))
	}
	for _, ports := range tcp.matches(b.policy.TCP) {
		rules = append(rules, rule("guarded TCP ports", ports, gotoChain(b.decider())))
	}
	for _, ports := range udp.matches(b.policy.UDP) {
		rules = append(rules, rule("guarded UDP ports; Cloudflare uses none", ports, gotoChain("closed")))
	}
	return rules
}

// matches covers ports with as few matches as possible: one for all single
// ports, one for each range.
func (p protocol) matches(ranges []PortRange) []match {
	var single []uint16
	var matches []match
	for _, r := range ranges {
		if r.First == r.Last {
			single = append(single, r.First)
		} else {
			matches = append(matches, p.toRange(r))
		}
	}
	if len(single) > 0 {
		matches = append([]match{p.toPorts(single)}, matches...)
	}
	return matches
}

func (b builder) cloudflare() Chain {
	c := Chain{Name: "cloudflare", Comment: "admits Cloudflare"}
	for _, f := range b.families() {
		c.Rules = append(c.Rules, rule("a network that Cloudflare publishes", b.fromSet(f, "cloudflare"+f.suffix), count("admitted_cloudflare"+f.suffix), accept()))
	}
	c.Rules = append(c.Rules, rule("anyone else", gotoChain("closed")))
	return c
}

// closed admits whoever the policy names and drops the rest. A rule that
// cannot match now is left out: every instruction costs time for each packet.
func (b builder) closed() Chain {
	rules := b.unfiltered()
	for _, f := range b.families() {
		if set := b.allowedSet(f); len(set.Elements) > 0 {
			rules = append(rules, rule("an allow entry", b.fromSet(f, set.Name), count("admitted_allowed"+f.suffix), accept()))
		}
	}
	return Chain{
		Name: "closed", Comment: "admits this host itself and who the config allows, drops the rest",
		Rules: append(rules, b.dropped("dropped")...),
	}
}

// unfiltered leaves alone what comes from this host itself, in by trusted
// interfaces, or is on its way to another host.
func (b builder) unfiltered() []Rule {
	rules := append([]Rule{rule("this host itself", fromLoopback(), accept())}, b.trusted(wayIn)...)
	if b.host.Forwards {
		rules = append(rules, rule("on its way to another host", toOtherHosts(), accept()))
	}
	return rules
}

func (b builder) trusted(w wayEnd) []Rule {
	var rules []Rule
	if len(b.trustedSet().Elements) > 0 {
		rules = append(rules, rule("a trusted interface", w.trusted(), accept()))
	}
	for _, pattern := range b.policy.Interfaces {
		if strings.HasSuffix(pattern, "*") {
			rules = append(rules, rule("a trusted interface", w.begins(pattern), accept()))
		}
	}
	return rules
}

// dropped drops everything else, counted for each family.
func (b builder) dropped(counter string) []Rule {
	comment, counter := b.refused("everyone else"), b.named(counter)
	rules := b.rememberDropped()
	if b.host.IPv6 {
		rules = append(rules, rule(comment, b.only(ipv6)[0], count(counter+ipv6.suffix), b.drop()))
	}
	return append(rules, rule(comment, count(counter+ipv4.suffix), b.drop()))
}
