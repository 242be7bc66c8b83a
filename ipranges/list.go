package ipranges

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// A List is a set of networks of both address families. It is masked, merged,
// sorted and free of overlaps by construction, as an nftables interval set
// wants it. The zero List is empty. Lists are values: nothing changes one.
type List struct {
	v4, v6 []netip.Prefix
}

// NewList makes a List of networks. Host bits are masked off; overlapping and
// adjacent networks are merged into the fewest that cover the same addresses;
// IPv4-mapped IPv6 networks and invalid ones are programming errors and panic.
func NewList(networks ...netip.Prefix) List {
	var b netipx.IPSetBuilder
	for _, n := range networks {
		if !n.IsValid() || n.Addr().Is4In6() {
			panic("ipranges: not a network: " + n.String())
		}
		b.AddPrefix(n)
	}
	return fromBuilder(&b)
}

func fromBuilder(b *netipx.IPSetBuilder) List {
	set, err := b.IPSet()
	if err != nil {
		panic("ipranges: " + err.Error()) // only an invalid network gets here, and NewList has refused it
	}
	var l List
	for _, p := range set.Prefixes() {
		if p.Addr().Is4() {
			l.v4 = append(l.v4, p)
		} else {
			l.v6 = append(l.v6, p)
		}
	}
	return l
}

// V4 returns the IPv4 networks in ascending order.
func (l List) V4() []netip.Prefix { return slices.Clone(l.v4) }

// V6 returns the IPv6 networks in ascending order.
func (l List) V6() []netip.Prefix { return slices.Clone(l.v6) }

// Networks returns all networks, IPv4 before IPv6.
func (l List) Networks() []netip.Prefix { return slices.Concat(l.v4, l.v6) }

// Len is the number of networks of both families.
func (l List) Len() int { return len(l.v4) + len(l.v6) }

// Equal reports whether two lists cover the same addresses.
func (l List) Equal(m List) bool {
	return slices.Equal(l.v4, m.v4) && slices.Equal(l.v6, m.v6)
}

// Lookup returns the network that holds an address.
func (l List) Lookup(a netip.Addr) (netip.Prefix, bool) {
	networks := l.v6
	if a.Is4() {
		networks = l.v4
	}
	i, found := slices.BinarySearchFunc(networks, a, func(p netip.Prefix, a netip.Addr) int {
		return p.Addr().Compare(a)
	})
	if found {
		return networks[i], true
	}
	if i > 0 && networks[i-1].Contains(a) {
		return networks[i-1], true
	}
	return netip.Prefix{}, false
}

// Union returns the addresses that are in either list.
func (l List) Union(m List) List {
	return NewList(slices.Concat(l.Networks(), m.Networks())...)
}

// Minus returns the addresses of l that are not in m.
func (l List) Minus(m List) List {
	var b netipx.IPSetBuilder
	for _, n := range l.Networks() {
		b.AddPrefix(n)
	}
	for _, n := range m.Networks() {
		b.RemovePrefix(n)
	}
	return fromBuilder(&b)
}

// String prints one network a line, IPv4 before IPv6.
func (l List) String() string {
	var b strings.Builder
	for _, n := range l.Networks() {
		b.WriteString(n.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// MarshalJSON writes the networks as an array of CIDR strings, IPv4 before IPv6.
func (l List) MarshalJSON() ([]byte, error) {
	networks := l.Networks()
	if networks == nil {
		networks = []netip.Prefix{} // an empty list is [], not null
	}
	return json.Marshal(networks)
}

// UnmarshalJSON reads what MarshalJSON writes. An entry that is not a CIDR, or
// has host bits set, is an error: a file that was edited or damaged must not
// be read as something near to what it says.
func (l *List) UnmarshalJSON(data []byte) error {
	var entries []string
	if err := json.Unmarshal(data, &entries); err != nil {
		return fmt.Errorf("reading a list of networks: %w", err)
	}
	networks := make([]netip.Prefix, 0, len(entries))
	for _, entry := range entries {
		n, err := parseNetwork(entry)
		if err != nil {
			return fmt.Errorf("reading a list of networks: %w", err)
		}
		networks = append(networks, n)
	}
	*l = NewList(networks...)
	return nil
}
