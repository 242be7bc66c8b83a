package firewall

import (
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
)

// TableName is the one table that is ours; no other is ever written.
const TableName = "cfwall"

// Family is the address family of the table.
type Family string

// FamilyINET is the family of hosts with IPv6, FamilyIP that of hosts without.
const (
	FamilyINET Family = "inet"
	FamilyIP   Family = "ip"
)

// A Ruleset is the content of the table as a value: what Build wants and what
// the kernel holds are of the same type, so that they can be compared.
type Ruleset struct {
	Family   Family
	Comment  string
	Hold     Hold   // as the kernel reports it; "" in what Build makes
	Flags    uint32 // others, as the kernel reports them; Build wants none
	Sets     []Set
	Counters []Counter
	Objects  []Object // of other kinds, which Build never makes
	Chains   []Chain
}

// An Object is a named one that no ruleset of ours has: a quota, a limit, a helper.
type Object struct {
	Kind uint32 // the kernel's number (NFT_OBJECT_QUOTA and so on)
	Name string
}

// SetType is the type of a set's elements, in nft's words.
type SetType string

// The types of our sets.
const (
	TypeIPv4      SetType = "ipv4_addr"
	TypeIPv6      SetType = "ipv6_addr"
	TypeInterface SetType = "ifname"
	// Sets of services are filled by rules: destination, protocol, port.
	TypeService4 SetType = "ipv4_addr . inet_proto . inet_service"
	TypeService6 SetType = "ipv6_addr . inet_proto . inet_service"
)

// What rules fill holds this many entries, each for this long after the last packet.
const (
	RememberedSize = 1024
	RememberedFor  = time.Hour
)

// RuleFilled reports whether rules fill a set of this type: what is in it is
// then no part of the policy, and not in Set.Elements.
func (t SetType) RuleFilled() bool { return t == TypeService4 || t == TypeService6 }

// A Set is a named set. Sets of addresses hold intervals.
type Set struct {
	Name     string
	Type     SetType
	Timeouts bool   // elements may expire
	Foreign  string // not empty: a shape that Build never makes, and why
	Comment  string
	Elements []Element
}

// An Element is a range of addresses, or the name of an interface.
type Element struct {
	Range   netipx.IPRange
	Name    string
	Expires time.Time // zero: never
}

// A Counter is a named counter; it keeps its value when rules change.
type Counter struct {
	Name    string
	Comment string
	Packets uint64
	Bytes   uint64
}

// A Chain holds rules; a base chain is also hooked into the packet path.
type Chain struct {
	Name    string
	Comment string
	Hook    Hook // zero for a chain that only rules lead to
	Rules   []Rule
}

// A Hook says where in the packet path a base chain of type filter sits.
// What reaches the end of a base chain of ours is accepted, that is left to
// the other tables of the host.
type Hook struct {
	Point    string // "prerouting", "output" or "postrouting"
	Priority int32
	Foreign  string // not empty: another type, policy or device
}

// A Rule is a statement of the ruleset, as nft text and as the instructions
// that the kernel runs. Rules read from the kernel have no text.
type Rule struct {
	Text    string
	Code    []Expr
	Comment string
	Handle  uint64 // the kernel's number for it; 0 in what Build makes
}

// Equal reports whether two rules do the same and say the same.
func (r Rule) Equal(s Rule) bool {
	return r.Comment == s.Comment && slices.Equal(r.Code, s.Code)
}

// A State is what the kernel holds at one moment.
type State struct {
	// Table is nil where no table of ours exists.
	Table *Ruleset
	// Generation numbers the state of all tables of this network namespace;
	// every change of any of them raises it.
	Generation uint32
	// Owner is the netlink port of the process that owns the table; 0: none does.
	Owner uint32
	// Best is how firmly the reader can hold the table, if it writes: Plain or ""
	// where the kernel knows no owners that tables outlive, Orphan where the
	// reader will not stay, else Owned.
	Best Hold
}

// Mode is the mode that a table of ours enforces.
func (r Ruleset) Mode() Mode {
	if _, ok := r.Chain("cloudflare"); ok {
		return ModeCloudflare
	}
	return ModeTunnel
}

// TrustsInterfaces reports whether some packets pass for the interface that they
// come or leave by, besides this host's own.
func (r Ruleset) TrustsInterfaces() bool {
	return slices.ContainsFunc(r.Chains, func(c Chain) bool {
		return slices.ContainsFunc(c.Rules, func(rule Rule) bool {
			return slices.Contains(rule.Code, Expr(Meta{MetaInputName})) || slices.Contains(rule.Code, Expr(Meta{MetaOutputName}))
		})
	})
}

// expiringSoon is how near its end an element need not be in the kernel any more,
// and need not be gone yet.
const expiringSoon = expiryTolerance

// Unexpired leaves out the elements that have expired, or are about to.
func (r Ruleset) Unexpired(now time.Time) Ruleset {
	r.Sets = slices.Clone(r.Sets)
	for i, s := range r.Sets {
		r.Sets[i].Elements = slices.DeleteFunc(slices.Clone(s.Elements), func(e Element) bool {
			return !e.Expires.IsZero() && e.Expires.Before(now.Add(expiringSoon))
		})
	}
	return r
}

// Set returns a set by name.
func (r Ruleset) Set(name string) (Set, bool) {
	return find(r.Sets, func(s Set) bool { return s.Name == name })
}

// Chain returns a chain by name.
func (r Ruleset) Chain(name string) (Chain, bool) {
	return find(r.Chains, func(c Chain) bool { return c.Name == name })
}

func find[T any](all []T, is func(T) bool) (T, bool) {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], true
	}
	var none T
	return none, false
}

func networkElements(networks []netip.Prefix) []Element {
	elements := make([]Element, len(networks))
	for i, n := range networks {
		elements[i] = Element{Range: netipx.RangeOfPrefix(n)}
	}
	return elements
}
