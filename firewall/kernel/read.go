package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// errInterrupted says that a dump mixed two states of the ruleset.
var errInterrupted = errors.New("the ruleset changed while it was read")

// readTries bounds how often a table is read anew because other programs
// change theirs meanwhile.
const readTries = 20

// errUnsettled says that a table was read to its end while some table changed,
// perhaps another.
var errUnsettled = fmt.Errorf("some table changed: %w", errInterrupted)

// Read returns our table as the kernel holds it, whole and of one moment. A
// table that does not exist is no error. Errors are those of this package.
//
// Where others change their tables hundreds of times a second no read is free of
// that. Then ours is what two reads agree on: it did not change between them.
func (k *Kernel) Read(ctx context.Context, family firewall.Family) (firewall.State, error) {
	var last *firewall.State
	return uninterrupted(ctx, "reading table "+firewall.TableName, func() (firewall.State, error) {
		s, err := k.readOnce(ctx, family)
		if !errors.Is(err, errUnsettled) {
			return s, err
		}
		if last != nil && alike(*last, s) {
			return s, nil
		}
		last = &s
		return s, err
	})
}

// alike compares all but what goes on without a change: counters count, and the
// time that elements have left goes by.
func alike(a, b firewall.State) bool {
	return a.Owner == b.Owner && reflect.DeepEqual(still(a.Table), still(b.Table))
}

func still(r *firewall.Ruleset) *firewall.Ruleset {
	if r == nil {
		return nil
	}
	s := *r
	s.Counters, s.Sets = slices.Clone(r.Counters), slices.Clone(r.Sets)
	for i := range s.Counters {
		s.Counters[i].Packets, s.Counters[i].Bytes = 0, 0
	}
	for i := range s.Sets {
		s.Sets[i].Elements = slices.Clone(s.Sets[i].Elements)
		for j, e := range s.Sets[i].Elements {
			if !e.Expires.IsZero() {
				s.Sets[i].Elements[j].Expires = time.Unix(0, 0)
			}
		}
	}
	return &s
}

// uninterrupted reads again where other programs changed what was read, and once
// where an answer got lost.
func uninterrupted[T any](ctx context.Context, doing string, read func() (T, error)) (T, error) {
	var none T
	var last error
	lost := 0
	for try := range readTries {
		got, err := read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			lost++
		} else if !errors.Is(err, errInterrupted) {
			return got, err
		}
		if last = err; lost > 1 {
			return none, err
		}
		select {
		case <-ctx.Done():
			return none, ctx.Err()
		case <-time.After(time.Duration(try) * time.Millisecond):
		}
	}
	return none, fmt.Errorf("%s %d times: %w: %w", doing, readTries, ErrBusy, last)
}

func (k *Kernel) readOnce(ctx context.Context, family firewall.Family) (firewall.State, error) {
	c, err := k.open(ctx)
	if err != nil {
		return firewall.State{}, err
	}
	defer c.Close()
	r := reader{conn: c, family: familyNumber(family)}
	before, err := r.generation()
	if err != nil {
		return firewall.State{}, err
	}
	table, owner, err := r.table(family)
	if err != nil {
		return firewall.State{}, err
	}
	after, err := r.generation()
	if err != nil {
		return firewall.State{}, err
	}
	if table != nil {
		table.Hold, table.Flags = k.holdOf(table.Flags, owner), table.Flags&^holdFlags
	}
	// With the generation from before, the kernel refuses a plan that misses a change.
	state := firewall.State{Table: table, Generation: before, Owner: owner, Best: k.best}
	if before != after || r.interrupted {
		return state, errUnsettled
	}
	return state, nil
}

// Generation returns the number that every change of any table raises.
func (k *Kernel) Generation(ctx context.Context) (uint32, error) {
	c, err := k.open(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return (&reader{conn: c}).generation()
}

// reader reads one table over one connection.
type reader struct {
	conn   conn
	family byte
	// interrupted says that some table changed during a dump.
	interrupted bool
	// constants holds the anonymous sets by name.
	constants map[string]anonymous
}

// anonymous is a set of constants that belongs to one rule.
type anonymous struct {
	of     firewall.ConstantType
	width  int
	values string
	plain  bool
}

// get sends a request and hands each answer to the function.
func (r *reader) get(kind int, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder), each func(fields)) error {
	doing := fmt.Sprintf("reading the ruleset (nf_tables message %d)", kind)
	sent, err := r.conn.Send(request(kind, flags, r.family, attributes(fill)))
	if err != nil {
		return classify(doing, err)
	}
	for m, err := range r.conn.ReceiveIter() {
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return errInterrupted
		case err != nil:
			return classify(doing, err)
		case m.Header.Sequence != sent.Header.Sequence:
			return errInterrupted
		}
		r.interrupted = r.interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
		each(messageFields(m))
	}
	return nil
}

// tableAttribute names the table in the messages of every kind of object
// (NFTA_CHAIN_TABLE, NFTA_SET_TABLE and so on).
const tableAttribute = unix.NFTA_CHAIN_TABLE

// dump gets all objects of a kind that belong to our table.
func (r *reader) dump(kind int, fill func(*netlink.AttributeEncoder), each func(fields)) error {
	return r.get(kind, netlink.Dump, func(e *netlink.AttributeEncoder) {
		e.String(tableAttribute, firewall.TableName)
		if fill != nil {
			fill(e)
		}
	}, func(f fields) {
		// Older kernels list the objects of every table.
		if f.text(tableAttribute) == firewall.TableName {
			each(f)
		}
	})
}

func (r *reader) generation() (id uint32, err error) {
	err = r.get(unix.NFT_MSG_GETGEN, 0, func(*netlink.AttributeEncoder) {}, func(f fields) { id = f.number(unix.NFTA_GEN_ID) })
	if err == nil && id == 0 {
		err = errInterrupted // no such number: a plan would take it for any state
	}
	return id, err
}

func (r *reader) table(family firewall.Family) (_ *firewall.Ruleset, owner uint32, _ error) {
	table := &firewall.Ruleset{Family: family}
	err := r.get(unix.NFT_MSG_GETTABLE, 0,
		func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, firewall.TableName) },
		func(f fields) {
			table.Flags, owner = f.number(unix.NFTA_TABLE_FLAGS), f.number(tableOwner)
			table.Comment = commentText(f.bytes(tableUserdata), userdata.TypeComment)
		})
	if errors.Is(err, unix.ENOENT) {
		return nil, 0, nil
	}
	for _, part := range []func(*firewall.Ruleset) error{r.sets, r.objects, r.chains, r.rules} {
		if err == nil {
			err = part(table)
		}
	}
	if errors.Is(err, unix.ENOENT) {
		err = errInterrupted // what was listed a moment ago is gone
	}
	return table, owner, err
}

// commentText finds a comment in user data: types, lengths and values. The
// library's reader trusts the lengths.
func commentText(data []byte, kind userdata.Type) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		value := data[2 : 2+int(data[1])]
		if data[0] == byte(kind) {
			return strings.TrimRight(string(value), "\x00")
		}
		data = data[2+len(value):]
	}
	return ""
}

func (r *reader) sets(table *firewall.Ruleset) error {
	r.constants = make(map[string]anonymous)
	var constant []fields
	err := r.dump(unix.NFT_MSG_GETSET, nil, func(f fields) { constant = append(constant, f) })
	for _, f := range constant {
		if err == nil {
			err = r.set(table, f)
		}
	}
	return err
}

func (r *reader) set(table *firewall.Ruleset, f fields) error {
	name, flags := f.text(unix.NFTA_SET_NAME), f.number(unix.NFTA_SET_FLAGS)
	keys, plain, err := r.elements(name, flags)
	if err != nil {
		return err
	}
	if flags&unix.NFT_SET_ANONYMOUS != 0 {
		plain = plain && flags == unix.NFT_SET_ANONYMOUS|unix.NFT_SET_CONSTANT
		r.constants[name] = constants(typeIn(constantKinds, &f), keys, plain)
		return nil
	}
	s := firewall.Set{
		Name: name, Timeouts: flags&unix.NFT_SET_TIMEOUT != 0,
		Type:    typeIn(setKinds, &f),
		Comment: commentText(f.bytes(unix.NFTA_SET_USERDATA), userdata.NFTNL_UDATA_SET_COMMENT),
	}
	understood := true
	switch s.Type {
	case firewall.TypeIPv4, firewall.TypeIPv6:
		s.Elements, understood = ranges(keys, s.Timeouts, time.Now())
	case firewall.TypeInterface:
		s.Elements, understood = names(keys)
	case firewall.TypeService4, firewall.TypeService6:
		plain = true // its entries are no part of the policy
	}
	if s.Type == "" || flags&^unix.NFT_SET_TIMEOUT != setFlags(s.Type) || !hasShape(&f, s.Type) || !plain || !understood {
		s.Foreign = fmt.Sprintf("flags %#x, elements understood: %t", flags, plain && understood)
	}
	table.Sets = append(table.Sets, s)
	return nil
}

// hasShape reports whether a set has the size and the time limit that a type of
// ours has, and no statements that run for each element.
func hasShape(f *fields, t firewall.SetType) bool {
	shape := parseFields(f.bytes(unix.NFTA_SET_DESC))
	var size uint32
	var limit uint64
	if t.RuleFilled() {
		size, limit = firewall.RememberedSize, uint64(firewall.RememberedFor.Milliseconds())
	}
	return shape.number(unix.NFTA_SET_DESC_SIZE) == size && f.number64(unix.NFTA_SET_TIMEOUT) == limit &&
		f.bytes(setExpression) == nil && f.bytes(setExpressions) == nil
}

// typeIn finds the type of a set's keys among those that we make; "" for others.
func typeIn[T ~string](kinds map[T]datatype, f *fields) T {
	listed := datatype{f.number(unix.NFTA_SET_KEY_TYPE), f.number(unix.NFTA_SET_KEY_LEN)}
	for t, kind := range kinds {
		if kind == listed {
			return t
		}
	}
	return ""
}

func constants(of firewall.ConstantType, keys []key, plain bool) anonymous {
	a := anonymous{of: of, plain: plain}
	slices.SortFunc(keys, func(x, y key) int { return bytes.Compare(x.value, y.value) })
	for _, k := range keys {
		if a.width == 0 {
			a.width = len(k.value)
		}
		a.plain = a.plain && len(k.value) == a.width && !k.end && k.timeout == 0
		a.values += string(k.value)
	}
	a.plain = a.plain && a.width > 0
	return a
}

// elements reads a set. The elements of maps and of sets with expressions are
// never ours.
func (r *reader) elements(set string, flags uint32) (keys []key, plain bool, err error) {
	if flags&(unix.NFT_SET_MAP|unix.NFT_SET_EVAL|unix.NFT_SET_OBJECT) != 0 {
		return nil, false, nil
	}
	plain = true
	err = r.dump(unix.NFT_MSG_GETSETELEM,
		func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_SET_ELEM_LIST_SET, set) },
		func(f fields) {
			var ok bool
			keys, ok = parseKeys(f.bytes(unix.NFTA_SET_ELEM_LIST_ELEMENTS), keys)
			plain = plain && ok
		})
	return keys, plain, err
}

// objects lists counters, and what there is besides.
func (r *reader) objects(table *firewall.Ruleset) error {
	return r.dump(unix.NFT_MSG_GETOBJ, nil, func(f fields) {
		name, kind := f.text(unix.NFTA_OBJ_NAME), f.number(unix.NFTA_OBJ_TYPE)
		if kind != unix.NFT_OBJECT_COUNTER {
			table.Objects = append(table.Objects, firewall.Object{Kind: kind, Name: name})
			return
		}
		data := parseFields(f.bytes(unix.NFTA_OBJ_DATA))
		table.Counters = append(table.Counters, firewall.Counter{
			Name:    name,
			Comment: commentText(f.bytes(objectUserdata), userdata.TypeComment),
			Packets: data.number64(unix.NFTA_COUNTER_PACKETS),
			Bytes:   data.number64(unix.NFTA_COUNTER_BYTES),
		})
	})
}

func (r *reader) chains(table *firewall.Ruleset) error {
	return r.dump(unix.NFT_MSG_GETCHAIN, nil, func(f fields) {
		table.Chains = append(table.Chains, firewall.Chain{
			Name:    f.text(unix.NFTA_CHAIN_NAME),
			Comment: commentText(f.bytes(chainUserdata), userdata.TypeComment),
			Hook:    hook(&f),
		})
	})
}

func hook(f *fields) firewall.Hook {
	data := f.bytes(unix.NFTA_CHAIN_HOOK)
	if data == nil {
		return firewall.Hook{}
	}
	h := parseFields(data)
	number, kind, policy := h.number(unix.NFTA_HOOK_HOOKNUM), f.text(unix.NFTA_CHAIN_TYPE), f.number(unix.NFTA_CHAIN_POLICY)
	hook := firewall.Hook{Point: fmt.Sprintf("hook %d", number), Priority: int32(h.number(unix.NFTA_HOOK_PRIORITY))}
	for name, n := range hookNumbers {
		if n == number {
			hook.Point = name
		}
	}
	if kind != chainType || policy != uint32(firewall.Accept) || !h.done() {
		hook.Foreign = fmt.Sprintf("type %s, policy %d", kind, policy)
	}
	return hook
}

func (r *reader) rules(table *firewall.Ruleset) error {
	return r.dump(unix.NFT_MSG_GETRULE, nil, func(f fields) {
		name := f.text(unix.NFTA_RULE_CHAIN)
		i := slices.IndexFunc(table.Chains, func(c firewall.Chain) bool { return c.Name == name })
		if i < 0 {
			return // the generation has changed, which is seen at the end
		}
		table.Chains[i].Rules = append(table.Chains[i].Rules, firewall.Rule{
			Handle:  f.number64(unix.NFTA_RULE_HANDLE),
			Comment: commentText(f.bytes(unix.NFTA_RULE_USERDATA), userdata.TypeComment),
			Code:    r.code(f.bytes(unix.NFTA_RULE_EXPRESSIONS)),
		})
	})
}

func (r *reader) code(list []byte) (code []firewall.Expr) {
	broken := false
	for _, b := range eachAttribute(list, &broken) {
		f := parseFields(b)
		name := f.text(unix.NFTA_EXPR_NAME)
		code = append(code, raise(name, f.bytes(unix.NFTA_EXPR_DATA), r.constants))
	}
	if broken {
		code = append(code, firewall.Unknown{Name: "broken"})
	}
	return code
}
