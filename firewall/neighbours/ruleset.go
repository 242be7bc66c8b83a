package neighbours

import (
	"cmp"
	"slices"

	"golang.org/x/sys/unix"
)

// A Table is named by its family (NFPROTO_*) and its name.
type Table struct {
	Family byte
	Name   string
}

// String prints "ip filter".
func (t Table) String() string {
	family := map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet", unix.NFPROTO_NETDEV: "netdev"}[t.Family]
	return family + " " + t.Name
}

// A Hook is a point of the packet path.
type Hook string

// The points of the packet path, in nft's words.
const (
	Ingress     Hook = "ingress"
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
	Egress      Hook = "egress"
)

// HookOf names the hook with a number, which counts differently in family
// netdev (NF_NETDEV_*). "" is one that this package does not know.
func HookOf(family byte, number uint32) Hook {
	hooks := []Hook{Prerouting, Input, Forward, Output, Postrouting, Ingress}
	if family == unix.NFPROTO_NETDEV {
		hooks = []Hook{Ingress, Egress}
	}
	if number >= uint32(len(hooks)) {
		return ""
	}
	return hooks[number]
}

// A BaseChain is where packets enter a table.
type BaseChain struct {
	Table    Table
	Name     string
	Kind     string // "filter", "nat" or "route"
	Hook     Hook
	Priority int32
	Drops    bool // its policy
	Devices  []string
}

// A Rule is what the kernel lists: instructions, of which the last may be a verdict.
type Rule struct {
	Handle  uint64
	Comment string
	// Code decodes the instructions: of most rules nobody wants to know.
	Code func() []Instruction
}

// An Element is what a map holds for a key; both are zero in a set.
type Element struct {
	Data    []byte
	Verdict Verdict
}

// A Set answers what is in it.
type Set struct {
	KeySize int
	// Find looks a key up as the kernel would. No is also what a set says
	// that does not exist; Maybe one whose elements count or limit.
	Find func(key []byte) (Element, Answer)
}

// A Source holds what walks come across, so that it need not be read before.
type Source interface {
	Rules(t Table, chain string) []Rule
	Set(t Table, name string) Set
}

// A Ruleset is what the other programs of a host have loaded.
type Ruleset struct {
	// Chains are the base chains as the kernel lists them, without those of
	// dormant tables.
	Chains []BaseChain
	Source Source
}

// priorities at which the kernel tracks connections and translates addresses
// (enum nf_ip_hook_priorities).
const (
	priorityTracking       = -200
	priorityDestinationNAT = -100
	prioritySourceNAT      = 100
)

// at is when the kernel calls a chain: all nat chains of a hook run in one
// place, whatever their own priority (nf_nat_register_fn).
func (c BaseChain) at() int32 {
	switch {
	case c.Kind != "nat":
		return c.Priority
	case c.Hook == Prerouting || c.Hook == Output:
		return priorityDestinationNAT
	default:
		return prioritySourceNAT
	}
}

// chainsAt lists the chains that a packet of a family meets at a hook, in
// order. Of those with equal priority the newest comes first (nf_hook_entries_grow).
func (r Ruleset) chainsAt(hook Hook, family byte, device string) []BaseChain {
	var met []BaseChain
	for _, c := range slices.Backward(r.Chains) {
		ofFamily := c.Table.Family == family || c.Table.Family == unix.NFPROTO_INET || c.Table.Family == unix.NFPROTO_NETDEV
		if c.Hook == hook && ofFamily && (len(c.Devices) == 0 || slices.Contains(c.Devices, device)) {
			met = append(met, c)
		}
	}
	slices.SortStableFunc(met, func(a, b BaseChain) int {
		return cmp.Or(cmp.Compare(a.at(), b.at()), cmp.Compare(a.Priority, b.Priority))
	})
	return met
}
