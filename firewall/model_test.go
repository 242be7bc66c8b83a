package firewall_test

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/cfwall/cfwall/firewall"
)

// model does to a table what the kernel does, as far as plans go: it refuses
// what the kernel refuses, and what loses packets (docs/design.md has the
// figures): a set of addresses that rules use in the transaction that makes it.
type model struct {
	table *firewall.Ruleset
	fresh map[string]bool // the sets made in this transaction
	woken bool            // by this transaction
}

// step carries out a transaction, or nothing of it.
func (m *model) step(step firewall.Step) error {
	tried := model{table: clone(m.table), fresh: map[string]bool{}}
	for _, op := range step {
		if err := tried.op(op); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	*m = tried
	return nil
}

// clone makes slices that a transaction can change.
func clone(table *firewall.Ruleset) *firewall.Ruleset {
	if table == nil {
		return nil
	}
	c := *table
	c.Sets, c.Counters, c.Chains = slices.Clone(c.Sets), slices.Clone(c.Counters), slices.Clone(c.Chains)
	return &c
}

func (m *model) op(op firewall.Op) error {
	if add, ok := op.(firewall.AddTable); ok {
		return m.addTable(add)
	}
	if m.table == nil {
		return fmt.Errorf("there is no table")
	}
	switch op := op.(type) {
	case firewall.TakeOver:
		m.table = &firewall.Ruleset{Comment: op.Comment, Hold: firewall.Owned}
		return nil
	case firewall.AddSet:
		m.fresh[op.Set.Name] = true
		op.Set.Elements = nil
		return add(&m.table.Sets, op.Set, setNamed(op.Set.Name))
	case firewall.AddCounter:
		return add(&m.table.Counters, op.Counter, counterNamed(op.Counter.Name))
	case firewall.AddChain:
		if m.woken {
			return fmt.Errorf("the table is just being woken")
		}
		op.Chain.Rules = nil
		return add(&m.table.Chains, op.Chain, chainNamed(op.Chain.Name))
	case firewall.AddElements:
		return m.change(op.Set, func(s *firewall.Set) error { return addElements(s, op.Elements) })
	case firewall.DeleteElements:
		return m.change(op.Set, func(s *firewall.Set) error { return deleteElements(s, op.Elements) })
	case firewall.SetRules:
		return m.setRules(op.Chain)
	case firewall.DeleteChain:
		return m.deleteChain(op.Name)
	case firewall.DeleteSet:
		return m.deleteUnused(op, firewall.InSet{Name: op.Name}, remove(&m.table.Sets, setNamed(op.Name)))
	case firewall.DeleteCounter:
		return m.deleteUnused(op, firewall.Count{Name: op.Name}, remove(&m.table.Counters, counterNamed(op.Name)))
	default:
		return fmt.Errorf("not a part of any plan")
	}
}

// addTable refuses to hold a table that is there as Linux does: only an orphan
// can be adopted, and a plain one stays plain.
func (m *model) addTable(add firewall.AddTable) error {
	if m.table == nil {
		m.table = &firewall.Ruleset{Comment: add.Comment, Hold: cmp.Or(add.Hold, firewall.Plain)}
	}
	if hold := cmp.Or(add.Hold, firewall.Plain); hold != m.table.Hold && (m.table.Hold != firewall.Orphan || hold != firewall.Owned) {
		return fmt.Errorf("it is %s and cannot be %s", m.table.Hold, hold)
	}
	m.woken = m.table.Flags != 0
	m.table.Flags, m.table.Hold = 0, cmp.Or(add.Hold, firewall.Plain)
	return nil
}

func setNamed(name string) func(firewall.Set) bool {
	return func(s firewall.Set) bool { return s.Name == name }
}

func counterNamed(name string) func(firewall.Counter) bool {
	return func(c firewall.Counter) bool { return c.Name == name }
}

func chainNamed(name string) func(firewall.Chain) bool {
	return func(c firewall.Chain) bool { return c.Name == name }
}

func add[T any](to *[]T, object T, same func(T) bool) error {
	if slices.ContainsFunc(*to, same) {
		return fmt.Errorf("exists")
	}
	*to = append(*to, object)
	return nil
}

func remove[T any](from *[]T, which func(T) bool) error {
	i := slices.IndexFunc(*from, which)
	if i < 0 {
		return fmt.Errorf("does not exist")
	}
	*from = slices.Delete(*from, i, i+1)
	return nil
}

func (m *model) change(which firewall.Set, change func(*firewall.Set) error) error {
	i := slices.IndexFunc(m.table.Sets, setNamed(which.Name))
	if i < 0 {
		return fmt.Errorf("there is no such set")
	}
	s := &m.table.Sets[i]
	if s.Type != which.Type || s.Timeouts != which.Timeouts || s.Foreign != "" {
		return fmt.Errorf("the set has another shape")
	}
	s.Elements = slices.Clone(s.Elements)
	return change(s)
}

func addElements(s *firewall.Set, elements []firewall.Element) error {
	for _, e := range elements {
		if !e.Expires.IsZero() && !s.Timeouts {
			return fmt.Errorf("%s: elements of this set do not expire", e)
		}
		for _, other := range s.Elements {
			if e.Name != "" && e.Name == other.Name || e.Range.Overlaps(other.Range) {
				return fmt.Errorf("%s overlaps %s", e, other)
			}
		}
		s.Elements = append(s.Elements, e)
	}
	return nil
}

func deleteElements(s *firewall.Set, elements []firewall.Element) error {
	for _, e := range elements {
		same := func(other firewall.Element) bool { return other.Name == e.Name && other.Range == e.Range }
		if err := remove(&s.Elements, same); err != nil {
			return fmt.Errorf("%s: %w", e, err)
		}
	}
	return nil
}

func (m *model) setRules(want firewall.Chain) error {
	i := slices.IndexFunc(m.table.Chains, chainNamed(want.Name))
	if i < 0 {
		return fmt.Errorf("there is no such chain")
	}
	for _, r := range want.Rules {
		for _, e := range r.Code {
			if err := m.refer(e); err != nil {
				return fmt.Errorf("rule %q: %w", r, err)
			}
		}
	}
	m.table.Chains[i].Rules = want.Rules
	return nil
}

// refer looks for what an instruction refers to.
func (m *model) refer(e firewall.Expr) error {
	switch e := e.(type) {
	case firewall.InSet:
		i := slices.IndexFunc(m.table.Sets, setNamed(e.Name))
		if i < 0 {
			return fmt.Errorf("there is no set %s", e.Name)
		}
		if m.fresh[e.Name] && m.table.Sets[i].Type != firewall.TypeInterface {
			return fmt.Errorf("set %s is empty for the first packets", e.Name)
		}
	case firewall.Count:
		if !slices.ContainsFunc(m.table.Counters, counterNamed(e.Name)) {
			return fmt.Errorf("there is no counter %s", e.Name)
		}
	case firewall.Verdict:
		i := slices.IndexFunc(m.table.Chains, chainNamed(e.Goto))
		if e.Kind == firewall.Goto && (i < 0 || m.table.Chains[i].Hook != firewall.Hook{}) {
			return fmt.Errorf("there is no chain %s to go to", e.Goto)
		}
	}
	return nil
}

// deleteChain deletes a chain with its rules: they count no more as users.
func (m *model) deleteChain(name string) error {
	if err := remove(&m.table.Chains, chainNamed(name)); err != nil {
		return err
	}
	return m.deleteUnused(firewall.DeleteChain{Name: name}, firewall.Verdict{Kind: firewall.Goto, Goto: name}, nil)
}

func (m *model) deleteUnused(op firewall.Op, use firewall.Expr, err error) error {
	for _, c := range m.table.Chains {
		for _, r := range c.Rules {
			if slices.Contains(r.Code, use) {
				return fmt.Errorf("%s: rule %q of chain %s uses it", op, r, c.Name)
			}
		}
	}
	return err
}
