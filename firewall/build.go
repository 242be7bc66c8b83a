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
	r := Ruleset{Family: FamilyINET, Comment: "made by cfwall: only Cloudflare may reach the web ports; see cfwall status"}
	if !b.host.IPv6 {
		r.Family = FamilyIP
	}
	for _, f := range b.families() {
		r.Sets = append(r.Sets, b.cloudflareSet(f), b.allowedSet(f))
		r.Counters = append(r.Counters,
			Counter{Name: "admitted_cloudflare" + f.suffix, Comment: f.full + " packets admitted from Cloudflare"},
			Counter{Name: "admitted_allowed" + f.suffix, Comment: f.full + " packets admitted by allow entries"},
			Counter{Name: "dropped" + f.suffix, Comment: f.full + " packets dropped at the guarded ports"})
	}
	r.Sets = append(r.Sets, b.trustedSet())
	r.Chains = []Chain{b.guard(), b.cloudflare(), b.closed(r)}
	if b.host.IPv6 {
		r.Chains = append(r.Chains, b.beforeDefrag(), b.fragments())
	}
	return r
}

func (b builder) cloudflareSet(f addressFamily) Set {
	networks := b.lists.Cloudflare.V4()
	if f == ipv6 {
		networks = b.lists.Cloudflare.V6()
	}
	return Set{
		Name: "cloudflare" + f.suffix, Type: f.setType,
		Comment:  "networks that Cloudflare publishes",
		Elements: networkElements(networks),
	}
}

func (b builder) allowedSet(f addressFamily) Set {
	networks := b.policy.Allow.V4()
	if f == ipv6 {
		networks = b.policy.Allow.V6()
	}
	return Set{
		Name: "allowed" + f.suffix, Type: f.setType, Timeouts: true,
		Comment:  "[allow] from in the config, and cfwall allow",
		Elements: append(networkElements(networks), b.temporaryElements(f)...),
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
// Nobody needs those on the Internet, and whoever is admitted may send them.
func (b builder) fragments() Chain {
	return Chain{
		Name: "fragments", Comment: "guards the same ports, and fragments that hide theirs",
		Rules: append(b.guardPorts(),
			rule("a fragment that shows its port, or belongs to one that does", b.showsItsPort(), accept()),
			rule("a fragment that hides its port", gotoChain("cloudflare"))),
	}
}

// guardPorts sends packets to guarded ports to whoever decides about them.
func (b builder) guardPorts() []Rule {
	var rules []Rule
	for _, ports := range tcp.matches(RepliesAt(b.policy.TCP, b.host)) {
		rules = append(rules, rule("replies to connections from here may use these ports",
			ports, notOpening(), accept()))
	}
	for _, ports := range tcp.matches(b.policy.TCP) {
		rules = append(rules, rule("guarded TCP ports", ports, gotoChain("cloudflare")))
	}
	for _, ports := range udp.matches(b.policy.UDP) {
		rules = append(rules, rule("guarded UDP ports; Cloudflare speaks only TCP to origins", ports, gotoChain("closed")))
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
func (b builder) closed(r Ruleset) Chain {
	c := Chain{Name: "closed", Comment: "admits this host itself and who the config allows, drops the rest"}
	add := func(comment string, parts ...match) { c.Rules = append(c.Rules, rule(comment, parts...)) }
	add("this host itself", fromLoopback(), accept())
	for _, f := range b.families() {
		if set, _ := r.Set("allowed" + f.suffix); len(set.Elements) > 0 {
			add("an allow entry", b.fromSet(f, set.Name), count("admitted_allowed"+f.suffix), accept())
		}
	}
	if set, _ := r.Set("trusted_interfaces"); len(set.Elements) > 0 {
		add("a trusted interface", fromTrustedInterface(), accept())
	}
	for _, pattern := range b.policy.Interfaces {
		if strings.HasSuffix(pattern, "*") {
			add("a trusted interface", fromInterfaces(pattern), accept())
		}
	}
	if b.host.Forwards {
		add("on its way to another host", toOtherHosts(), accept())
	}
	if b.host.IPv6 {
		add("everyone else", match{"meta nfproto ipv6", b.family(ipv6)}, count("dropped6"), drop())
	}
	add("everyone else", count("dropped4"), drop())
	return c
}
