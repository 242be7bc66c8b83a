package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// A path names a value among a kernel's answers: the type of the message, then
// the types of the attributes around it. Expressions begin paths of their own.
type path string

func at(start any, attributes ...int) path {
	p := path(fmt.Sprint(start))
	for _, a := range attributes {
		p += path(fmt.Sprintf("/%d", a))
	}
	return p
}

// containers are the attributes that hold attributes.
var containers = []path{
	at(unix.NFT_MSG_NEWSET, unix.NFTA_SET_DESC),
	at(unix.NFT_MSG_NEWSETELEM, unix.NFTA_SET_ELEM_LIST_ELEMENTS),
	at(unix.NFT_MSG_NEWSETELEM, unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM),
	at(unix.NFT_MSG_NEWSETELEM, unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM, unix.NFTA_SET_ELEM_KEY),
	at(unix.NFT_MSG_NEWOBJ, unix.NFTA_OBJ_DATA),
	at(unix.NFT_MSG_NEWCHAIN, unix.NFTA_CHAIN_HOOK),
	at(unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_EXPRESSIONS),
	at(unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_LIST_ELEM),
	at("cmp", unix.NFTA_EXPR_DATA), at("cmp", unix.NFTA_EXPR_DATA, unix.NFTA_CMP_DATA),
	at("bitwise", unix.NFTA_EXPR_DATA),
	at("bitwise", unix.NFTA_EXPR_DATA, unix.NFTA_BITWISE_MASK), at("bitwise", unix.NFTA_EXPR_DATA, unix.NFTA_BITWISE_XOR),
	at("immediate", unix.NFTA_EXPR_DATA), at("immediate", unix.NFTA_EXPR_DATA, unix.NFTA_IMMEDIATE_DATA),
	at("immediate", unix.NFTA_EXPR_DATA, unix.NFTA_IMMEDIATE_DATA, unix.NFTA_DATA_VERDICT),
	at("meta", unix.NFTA_EXPR_DATA), at("payload", unix.NFTA_EXPR_DATA), at("lookup", unix.NFTA_EXPR_DATA),
	at("fib", unix.NFTA_EXPR_DATA), at("objref", unix.NFTA_EXPR_DATA), at("exthdr", unix.NFTA_EXPR_DATA),
	at("ct", unix.NFTA_EXPR_DATA), at("reject", unix.NFTA_EXPR_DATA),
	at("dynset", unix.NFTA_EXPR_DATA), at("dynset", unix.NFTA_EXPR_DATA, unix.NFTA_DYNSET_EXPR),
}

// unread are the values that say nothing about what the table does. Numbers
// without a name are handles, and what later kernels added.
var unread = []path{
	at(unix.NFT_MSG_NEWGEN, unix.NFTA_GEN_PROC_PID), at(unix.NFT_MSG_NEWGEN, unix.NFTA_GEN_PROC_NAME),
	at(unix.NFT_MSG_NEWTABLE, unix.NFTA_TABLE_NAME), // we asked for it
	at(unix.NFT_MSG_NEWTABLE, unix.NFTA_TABLE_USE), at(unix.NFT_MSG_NEWTABLE, 4), at(unix.NFT_MSG_NEWTABLE, tableUserdata),
	at(unix.NFT_MSG_NEWSET, unix.NFTA_SET_USERDATA), at(unix.NFT_MSG_NEWSET, 16), at(unix.NFT_MSG_NEWSET, 19), at(unix.NFT_MSG_NEWSET, 20),
	at(unix.NFT_MSG_NEWSETELEM, unix.NFTA_SET_ELEM_LIST_SET), // we asked for it
	at(unix.NFT_MSG_NEWOBJ, unix.NFTA_OBJ_USE), at(unix.NFT_MSG_NEWOBJ, 6), at(unix.NFT_MSG_NEWOBJ, objectUserdata),
	at(unix.NFT_MSG_NEWOBJ, unix.NFTA_OBJ_DATA, unix.NFTA_COUNTER_PACKETS), at(unix.NFT_MSG_NEWOBJ, unix.NFTA_OBJ_DATA, unix.NFTA_COUNTER_BYTES),
	at(unix.NFT_MSG_NEWCHAIN, unix.NFTA_CHAIN_USE), at(unix.NFT_MSG_NEWCHAIN, unix.NFTA_CHAIN_HANDLE), at(unix.NFT_MSG_NEWCHAIN, chainUserdata),
	at(unix.NFT_MSG_NEWCHAIN, 10), // flags: that it has a hook
	at(unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_HANDLE), at(unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_POSITION),
	at(unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_USERDATA), // the comment is read, the zero behind it is not
	// The type of constants is for those who list them.
	at("constants", unix.NFTA_SET_KEY_TYPE), at("constants", unix.NFTA_SET_KEY_LEN), at("constants", unix.NFTA_SET_USERDATA),
	at("constants", 16), at("constants", 19), at("constants", 20),
}

// values finds the values on a tape: which bytes belong to which.
func values(t *testing.T, answers []byte) map[int]path {
	t.Helper()
	all := map[int]path{}
	left := tape(answers)
	for m, ok := left.next(); ok; m, ok = left.next() {
		if m.Header.Type == netlink.Done || bytes.HasSuffix(m.Data, []byte{unix.SizeofNlAttr, 0, unix.NFTA_SET_ELEM_LIST_ELEMENTS, 0}) {
			continue // no more elements
		}
		start := at(int(m.Header.Type) & 0xff)
		if start == at(unix.NFT_MSG_NEWSET) && bytes.Contains(m.Data, []byte("__set")) {
			start = "constants"
		}
		end := len(answers) - len(left) - -len(m.Data)&3
		descend(t, start, answers, end-len(m.Data)+4, end, all)
	}
	return all
}

// descend goes through attributes without the package's help.
func descend(t *testing.T, above path, b []byte, from, to int, all map[int]path) {
	t.Helper()
	if above == at(unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_LIST_ELEM) {
		name, _, _ := bytes.Cut(b[from+unix.SizeofNlAttr:to], []byte{0}) // NFTA_EXPR_NAME comes first
		above = path(name)
	}
	for from < to {
		length := int(binary.NativeEndian.Uint16(b[from:]))
		if length < unix.SizeofNlAttr || from+length > to {
			t.Fatalf("%s: an attribute of %d bytes", above, length)
		}
		here := at(above, int(binary.NativeEndian.Uint16(b[from+2:])&0x3fff))
		if slices.Contains(containers, here) {
			descend(t, here, b, from+unix.SizeofNlAttr, from+length, all)
		} else {
			for i := from + unix.SizeofNlAttr; i < from+length; i++ {
				all[i] = here
			}
		}
		from += (length + 3) &^ 3
	}
}

// TestEveryValueCounts changes bits of what a kernel answered, one at a time:
// the table read must differ, unless the bit means nothing.
func TestEveryValueCounts(t *testing.T) {
	for _, name := range []string{"ephemeral-port", "container-bridges"} {
		t.Run(name, func(t *testing.T) {
			want, answers := wanted(t, name), recording(t, name)
			missed := map[path]int{}
			tried := 0
			for i, where := range values(t, answers) {
				if slices.Contains(unread, where) {
					continue
				}
				for _, bit := range []byte{0x01, 0x40} {
					tried++
					answers[i] ^= bit
					state, err := play(t, answers, want.Family)
					answers[i] ^= bit
					if err == nil && firewall.MakePlan(state, *want).Empty() {
						missed[where]++
					}
				}
			}
			// Two rules look among the same ports: the name of one set in place
			// of the other's says the same, to the one and to the other.
			if sameSet := at("lookup", unix.NFTA_EXPR_DATA, unix.NFTA_LOOKUP_SET); missed[sameSet] <= 2 {
				delete(missed, sameSet)
			}
			if len(missed) > 0 || tried < 1000 {
				t.Errorf("tried %d bits; some can change unnoticed: %v", tried, missed)
			}
		})
	}
}

// FuzzRead lets the kernel answer anything: what is read equals what is wanted
// only if all of that was said.
func FuzzRead(f *testing.F) {
	rulesets := map[string]firewall.Ruleset{}
	for _, name := range recorded {
		if r := wanted(f, name); r != nil {
			rulesets[name] = *r
		}
	}
	f.Fuzz(func(t *testing.T, answers []byte) {
		state, err := play(t, answers, firewall.FamilyINET)
		if err != nil {
			return
		}
		if state.Generation == 0 {
			t.Error("generation 0")
		}
		for name, want := range rulesets {
			plan := firewall.MakePlan(state, want)
			_ = plan.String()
			if !plan.Empty() {
				continue
			}
			for fact := range facts(want) {
				if !bytes.Contains(answers, []byte(fact)) {
					t.Errorf("reads as %s, but nobody said %q", name, fact)
				}
			}
		}
	})
}

// facts are strings that any answer must hold which describes a ruleset.
func facts(r firewall.Ruleset) map[string]bool {
	all := map[string]bool{}
	for _, s := range r.Sets {
		all[s.Name] = true
		for _, e := range s.Elements {
			for _, k := range keysOf(e) {
				all[string(k.value)] = true
			}
		}
	}
	for _, c := range r.Counters {
		all[c.Name] = true
	}
	for _, c := range r.Chains {
		all[c.Name] = true
		for _, rule := range c.Rules {
			all[rule.Comment] = true
			for _, e := range rule.Code {
				all[constant(e)] = true
			}
		}
	}
	return all
}

func keysOf(e firewall.Element) []key {
	keys, _ := parseKeys(appendElement(nil, e, time.Now()), nil)
	return keys
}

func constant(e firewall.Expr) string {
	switch e := e.(type) {
	case firewall.Equal:
		return e.Data
	case firewall.AtLeast:
		return e.Data
	case firewall.AtMost:
		return e.Data
	case firewall.OneOf:
		return e.Values[:e.Width]
	case firewall.Verdict:
		return e.Goto
	default:
		return ""
	}
}

// FuzzParseFields reads attributes, elements and expressions of any bytes.
func FuzzParseFields(f *testing.F) {
	for _, name := range recorded {
		left := tape(recording(f, name))
		for m, ok := left.next(); ok; m, ok = left.next() {
			if len(m.Data) > 4 {
				f.Add(m.Data[4:])
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parsed := parseFields(b)
		size := 0
		for _, v := range parsed.values {
			size += unix.SizeofNlAttr + len(v)
		}
		if size > len(b) || !parsed.broken && len(b) > 0 && size == 0 {
			t.Errorf("%d bytes hold %d bytes of attributes; broken: %t", len(b), size, parsed.broken)
		}
		keys, plain := parseKeys(b, nil)
		for _, timeouts := range []bool{false, true} {
			elements, understood := ranges(slices.Clone(keys), timeouts, time.Now())
			if plain && understood && !timeouts && len(elements) > 0 {
				same(t, elements, keys)
			}
		}
		names(slices.Clone(keys))
		constants(firewall.TypePort, slices.Clone(keys), plain)
		_ = commentText(b, 0)
		for _, name := range []string{"meta", "payload", "fib", "bitwise", "cmp", "lookup", "objref", "immediate", "counter", "exthdr", "ct", "dynset", "reject"} {
			raise(name, b, nil)
		}
		messageFields(netlink.Message{Data: b})
	})
}

// same fails the test unless the elements are what the keys say.
func same(t *testing.T, elements []firewall.Element, keys []key) {
	t.Helper()
	type end struct {
		value string
		isEnd bool
	}
	said, read := map[end]bool{}, map[end]bool{}
	for _, k := range keys {
		if !k.end || !isZero(k.value) { // nft begins sets with such an end
			said[end{string(k.value), k.end}] = true
		}
	}
	for _, e := range elements {
		for _, k := range keysOf(e) {
			read[end{string(k.value), k.end}] = true
		}
	}
	if !maps.Equal(said, read) {
		t.Errorf("the keys %v were read as %v", said, read)
	}
}
