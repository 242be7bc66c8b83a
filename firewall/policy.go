package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cfwall/cfwall/ipranges"
)

// Mode says who may reach the guarded ports from outside.
type Mode string

// The modes.
const (
	// ModeCloudflare admits Cloudflare's published ranges, and what Policy allows.
	ModeCloudflare Mode = "cloudflare"
	// ModeTunnel admits only what Policy allows: cloudflared on this host
	// connects to Cloudflare, and nobody needs to come in.
	ModeTunnel Mode = "tunnel"
)

// Policy is what the administrator wants: which ports are guarded and who,
// besides Cloudflare, may reach them.
type Policy struct {
	Mode Mode
	// TCP and UDP are the guarded ports. Cloudflare speaks only TCP to
	// origins, so a guarded UDP port admits only what is allowed below.
	TCP, UDP []PortRange
	// Allow holds the networks that may reach the guarded ports as well.
	Allow ipranges.List
	// Interfaces names the interfaces whose traffic is not filtered; a
	// trailing "*" stands for any ending.
	Interfaces []string
	// ContainerBridges trusts the bridges that container engines made.
	ContainerBridges bool
	// Audit lets everything pass, and counts and remembers what the rest of the
	// policy would drop or reject.
	Audit bool

	Inbound  Inbound
	Outbound Outbound
	Tunnel   Tunnel
}

// Inbound says what may come in to this host besides what the guarded ports admit.
type Inbound struct {
	// Drop drops all of it but for Open, answers and what every host needs.
	Drop bool
	Open []Service
}

// Outbound says what this host itself may send. What it forwards for
// containers and other hosts is left alone.
type Outbound struct {
	// Drop rejects all of it but for Allow, answers, the tunnel and what it needs.
	Drop  bool
	Allow []Service
}

// Tunnel says how cloudflared may leave, where Outbound drops.
type Tunnel struct {
	// Edge holds the addresses of Cloudflare's side; empty means all of
	// Cloudflare's networks, which hold them.
	Edge ipranges.List
	// User names the only user that may talk to them, by name or number; ""
	// stands for all.
	User string
}

// A Service is ports of a protocol, at this host or elsewhere.
type Service struct {
	Protocol string // "tcp" or "udp"
	Ports    PortRange
	// Peers are those who may use it from outside, or where it may be used;
	// an empty list stands for everybody.
	Peers ipranges.List
}

// Text prints the service as the config has it, "22/tcp from 192.0.2.0/24",
// with "from" or "to" before the peers.
func (s Service) Text(preposition string) string {
	text := fmt.Sprintf("%s/%s", s.Ports, s.Protocol)
	if s.Peers.Len() == 0 {
		return text
	}
	var peers []string
	for _, n := range s.Peers.Networks() {
		peers = append(peers, networkText(n))
	}
	return fmt.Sprintf("%s %s %s", text, preposition, strings.Join(peers, ","))
}

// Lists holds the networks that change without the administrator's hand.
type Lists struct {
	// Cloudflare is the published list that is in force.
	Cloudflare ipranges.List
	// Temporary holds the entries of `cfwall allow` that have not expired.
	Temporary []Temporary
}

// Temporary lets a network reach the guarded ports until it expires.
type Temporary struct {
	Network netip.Prefix `json:"network"`
	Expires time.Time    `json:"expires"`
}

// Host holds the facts about this machine that the ruleset depends on.
type Host struct {
	// IPv6 is false where the kernel has no IPv6 at all; the table is then
	// of family ip.
	IPv6 bool
	// Forwards is true where packets for other hosts may pass prerouting: the
	// host routes, or has a bridge whose frames br_netfilter may hand over.
	Forwards bool
	// Routes is true where the host routes, and so may translate addresses:
	// replies to hosts behind it then come in at its own ports.
	Routes bool
	// Bridges names the container bridges that exist now.
	Bridges []string
	// Ephemeral holds the ports from which the host opens connections of
	// its own: net.ipv4.ip_local_port_range without
	// net.ipv4.ip_local_reserved_ports.
	Ephemeral []PortRange
	// Resolvers are the DNS servers that the host asks, as far as they are
	// not the host itself.
	Resolvers []netip.Addr
	// TunnelUser is the number of the user in Tunnel.User; nil where the host
	// knows no such user.
	TunnelUser *uint32
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	First, Last uint16
}

// ParsePortRange reads "443" or "8000-8010". Port 0 is not a port.
func ParsePortRange(s string) (PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	f, errFirst := strconv.ParseUint(first, 10, 16)
	l, errLast := strconv.ParseUint(last, 10, 16)
	if errFirst != nil || errLast != nil || f == 0 || l < f {
		return PortRange{}, fmt.Errorf("%q is not a port (1-65535) or a range such as \"8000-8010\"", s)
	}
	return PortRange{uint16(f), uint16(l)}, nil
}

// String prints "443" or "8000-8010".
func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Contains reports whether a port lies in the range.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// MergePorts sorts ranges and merges those that overlap or touch.
func MergePorts(ranges []PortRange) []PortRange {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b PortRange) int { return int(a.First) - int(b.First) })
	var merged []PortRange
	for _, r := range sorted {
		if n := len(merged); n > 0 && int(r.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// SubtractPorts returns the ports of ranges that are in none of others.
func SubtractPorts(ranges, others []PortRange) []PortRange {
	left := MergePorts(ranges)
	for _, o := range others {
		var next []PortRange
		for _, r := range left {
			if o.Last < r.First || r.Last < o.First {
				next = append(next, r)
				continue
			}
			if r.First < o.First {
				next = append(next, PortRange{r.First, o.First - 1})
			}
			if o.Last < r.Last {
				next = append(next, PortRange{o.Last + 1, r.Last})
			}
		}
		left = next
	}
	return left
}

// PortsContain reports whether a port lies in any of the ranges.
func PortsContain(ranges []PortRange, port uint16) bool {
	return slices.ContainsFunc(ranges, func(r PortRange) bool { return r.Contains(port) })
}
