package kernel

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/neighbours"
)

// Neighbours hands the rulesets of all other programs to the function, which
// must be done with them when it returns. It is called again where they changed
// meanwhile. Nothing is written. Errors are those of this package.
func (k *Kernel) Neighbours(ctx context.Context, judge func(neighbours.Ruleset)) error {
	_, err := uninterrupted(ctx, "reading the tables of others", func() (none struct{}, err error) {
		return none, k.neighboursOnce(ctx, judge)
	})
	return err
}

func (k *Kernel) neighboursOnce(ctx context.Context, judge func(neighbours.Ruleset)) error {
	c, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	n := neighbourhood{reader: reader{conn: c}, sets: make(map[string]neighbours.Set)}
	before, err := n.generation()
	if err != nil {
		return err
	}
	chains, err := n.baseChains()
	if err != nil {
		return err
	}
	judge(neighbours.Ruleset{Chains: chains, Source: &n})
	if n.err != nil {
		return n.err
	}
	after, err := n.generation()
	if err == nil && (before != after || n.interrupted) {
		err = errInterrupted
	}
	return err
}

// A neighbourhood reads what a walk comes across: a host may have tens of
// thousands of rules and sets of others, of which a packet meets few.
type neighbourhood struct {
	reader
	sets map[string]neighbours.Set
	err  error // the first; what is read after it does not matter
}

// fetch is get for the objects of one table.
func (n *neighbourhood) fetch(kind int, flags netlink.HeaderFlags, t neighbours.Table, fill func(*netlink.AttributeEncoder), each func(fields)) error {
	n.family = t.Family
	defer func() { n.family = unix.NFPROTO_UNSPEC }()
	return n.get(kind, flags, func(e *netlink.AttributeEncoder) {
		e.String(tableAttribute, t.Name)
		fill(e)
	}, each)
}

// fail notes an error. What was there a moment ago and is gone is none of the
// host's but of the moment.
func (n *neighbourhood) fail(err error) {
	if errors.Is(err, unix.ENOENT) {
		err = errInterrupted
	}
	if n.err == nil {
		n.err = err
	}
}

// baseChains lists those of all tables but ours and those that are dormant.
func (n *neighbourhood) baseChains() (chains []neighbours.BaseChain, err error) {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6, unix.NFPROTO_INET, unix.NFPROTO_NETDEV} {
		n.family = family
		dormant := map[string]bool{firewall.TableName: true}
		err = n.get(unix.NFT_MSG_GETTABLE, netlink.Dump, func(*netlink.AttributeEncoder) {}, func(f fields) {
			if f.number(unix.NFTA_TABLE_FLAGS)&unix.NFT_TABLE_F_DORMANT != 0 {
				dormant[f.text(unix.NFTA_TABLE_NAME)] = true
			}
		})
		if err != nil {
			return nil, err
		}
		err = n.get(unix.NFT_MSG_GETCHAIN, netlink.Dump, func(*netlink.AttributeEncoder) {}, func(f fields) {
			table := neighbours.Table{Family: family, Name: f.text(unix.NFTA_CHAIN_TABLE)}
			if hook := f.bytes(unix.NFTA_CHAIN_HOOK); hook != nil && !dormant[table.Name] {
				chains = append(chains, baseChain(table, &f, hook))
			}
		})
		if err != nil {
			return nil, err
		}
	}
	n.family = unix.NFPROTO_UNSPEC
	return chains, nil
}

// hookDevices holds the names of a chain's devices, where there may be several
// (NFTA_HOOK_DEVS).
const hookDevices = 4

func baseChain(t neighbours.Table, f *fields, hook []byte) neighbours.BaseChain {
	h := parseFields(hook)
	c := neighbours.BaseChain{
		Table: t, Name: f.text(unix.NFTA_CHAIN_NAME), Kind: f.text(unix.NFTA_CHAIN_TYPE),
		Hook:     neighbours.HookOf(t.Family, h.number(unix.NFTA_HOOK_HOOKNUM)),
		Priority: int32(h.number(unix.NFTA_HOOK_PRIORITY)),
		Drops:    f.number(unix.NFTA_CHAIN_POLICY) == uint32(firewall.Drop),
	}
	var broken bool
	for _, name := range eachAttribute(h.bytes(hookDevices), &broken) {
		c.Devices = append(c.Devices, string(bytes.TrimRight(name, "\x00")))
	}
	if device := h.text(unix.NFTA_HOOK_DEV); device != "" && c.Devices == nil { // older kernels know but one
		c.Devices = []string{device}
	}
	return c
}

// Rules reads the rules of a chain.
func (n *neighbourhood) Rules(t neighbours.Table, chain string) (rules []neighbours.Rule) {
	err := n.fetch(unix.NFT_MSG_GETRULE, netlink.Dump, t,
		func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_RULE_CHAIN, chain) },
		func(f fields) {
			if f.text(unix.NFTA_RULE_TABLE) != t.Name || f.text(unix.NFTA_RULE_CHAIN) != chain {
				return // older kernels list all
			}
			expressions := f.bytes(unix.NFTA_RULE_EXPRESSIONS)
			rules = append(rules, neighbours.Rule{
				Handle:  f.number64(unix.NFTA_RULE_HANDLE),
				Comment: commentText(f.bytes(unix.NFTA_RULE_USERDATA), userdata.TypeComment),
				Code:    sync.OnceValue(func() []neighbours.Instruction { return instructions(expressions) }),
			})
		})
	if err != nil {
		n.fail(err)
	}
	return rules
}

// Set reads what a set is like, and asks the kernel itself what is in it.
func (n *neighbourhood) Set(t neighbours.Table, name string) neighbours.Set {
	id := t.String() + " " + name
	s, read := n.sets[id]
	if read {
		return s
	}
	err := n.fetch(unix.NFT_MSG_GETSET, 0, t,
		func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_SET_NAME, name) },
		func(f fields) { s.KeySize = int(f.number(unix.NFTA_SET_KEY_LEN)) })
	if err != nil {
		n.fail(err)
	}
	found := make(map[string]func() (neighbours.Element, neighbours.Answer))
	s.Find = func(key []byte) (neighbours.Element, neighbours.Answer) {
		find := found[string(key)]
		if find == nil {
			find = sync.OnceValues(func() (neighbours.Element, neighbours.Answer) { return n.find(t, name, slices.Clone(key)) })
			found[string(key)] = find
		}
		return find()
	}
	n.sets[id] = s
	return s
}

func (n *neighbourhood) find(t neighbours.Table, set string, value []byte) (e neighbours.Element, found neighbours.Answer) {
	wanted := appendKey(nil, key{value: value})
	err := n.fetch(unix.NFT_MSG_GETSETELEM, 0, t, func(a *netlink.AttributeEncoder) {
		a.String(unix.NFTA_SET_ELEM_LIST_SET, set)
		a.Bytes(unix.NLA_F_NESTED|unix.NFTA_SET_ELEM_LIST_ELEMENTS, wanted)
	}, func(f fields) {
		var broken bool
		for _, b := range eachAttribute(f.bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS), &broken) {
			e, found = mapElement(b)
		}
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return neighbours.Element{}, neighbours.No
	case err != nil:
		n.fail(err)
		return neighbours.Element{}, neighbours.Maybe
	}
	return e, found
}

// mapElement reads an element and what it maps to. One with statements of its
// own counts, or limits, which nobody can tell.
func mapElement(element []byte) (neighbours.Element, neighbours.Answer) {
	const expressions = 11 // NFTA_SET_ELEM_EXPRESSIONS
	f := parseFields(element)
	data := parseFields(f.bytes(unix.NFTA_SET_ELEM_DATA))
	e := neighbours.Element{Data: data.bytes(unix.NFTA_DATA_VALUE), Verdict: verdict(data.bytes(unix.NFTA_DATA_VERDICT))}
	var statements [][]byte
	if one := f.bytes(unix.NFTA_SET_ELEM_EXPR); one != nil {
		statements = append(statements, one)
	}
	var broken bool
	for _, one := range eachAttribute(f.bytes(expressions), &broken) {
		statements = append(statements, one)
	}
	for _, s := range statements {
		if parsed := parseFields(s); parsed.text(unix.NFTA_EXPR_NAME) != "counter" {
			return e, neighbours.Maybe
		}
	}
	return e, neighbours.Yes
}
