package firewall

import (
	"cmp"
	"fmt"
	"strings"
)

// An Op is one command of a transaction; String prints it as nft would take it.
type Op interface{ String() string }

// AddTable makes our table and holds it as said. One that is there it adopts, and
// wakes if somebody has made it dormant.
type AddTable struct {
	Comment string
	Hold    Hold // "" is Plain
}

// TakeOver deletes our table and makes it anew, owned.
type TakeOver struct{ Comment string }

// AddSet makes a set without elements.
type AddSet struct{ Set Set }

// AddCounter makes a named counter.
type AddCounter struct{ Counter Counter }

// AddChain makes a chain without rules.
type AddChain struct{ Chain Chain }

// AddElements adds elements to a set; those that overlap what it holds are refused.
type AddElements struct {
	Set      Set
	Elements []Element
}

// DeleteElements takes elements out of a set.
type DeleteElements struct {
	Set      Set
	Elements []Element
}

// SetRules empties a chain and fills it again.
type SetRules struct{ Chain Chain }

// DeleteChain deletes a chain with its rules.
type DeleteChain struct{ Name string }

// DeleteSet deletes a set with its elements.
type DeleteSet struct{ Name string }

// DeleteCounter deletes a named counter.
type DeleteCounter struct{ Name string }

// DeleteObject deletes a named object of another kind.
type DeleteObject struct{ Object Object }

// DeleteTable deletes our table with all that is in it: `cfwall off`.
type DeleteTable struct{}

func (o AddTable) String() string {
	var shape string
	if o.Comment != "" {
		shape += fmt.Sprintf(" comment %q;", o.Comment)
	}
	if flags := o.Hold.flags(); flags != "" {
		shape += fmt.Sprintf(" flags %s;", flags)
	}
	if shape == "" {
		return "add table"
	}
	return fmt.Sprintf("add table {%s }", shape)
}

func (h Hold) flags() string {
	switch h {
	case Owned:
		return "owner,persist"
	case Orphan:
		return "persist"
	default:
		return ""
	}
}

func (o TakeOver) String() string {
	return DeleteTable{}.String() + "\n" + AddTable{o.Comment, Owned}.String()
}

func (o AddSet) String() string {
	var shape string
	if o.Set.Type.RuleFilled() {
		shape = fmt.Sprintf(" size %d; timeout %s;", RememberedSize, rememberedText)
	}
	if flags := o.Set.flags(); flags != "" {
		shape += fmt.Sprintf(" flags %s;", flags)
	}
	return fmt.Sprintf("add set %s { type %s;%s comment %q; }", o.Set.Name, o.Set.Type, shape, o.Set.Comment)
}

func (o AddCounter) String() string {
	return fmt.Sprintf("add counter %s { comment %q; }", o.Counter.Name, o.Counter.Comment)
}

func (o AddChain) String() string {
	if o.Chain.Hook == (Hook{}) {
		return fmt.Sprintf("add chain %s { comment %q; }", o.Chain.Name, o.Chain.Comment)
	}
	return fmt.Sprintf("add chain %s { %s comment %q; }", o.Chain.Name, o.Chain.Hook, o.Chain.Comment)
}

func (o AddElements) String() string {
	return fmt.Sprintf("add element %s { %s }", o.Set.Name, joinElements(o.Elements, ", "))
}

func (o DeleteElements) String() string {
	permanent := make([]Element, len(o.Elements))
	for i, e := range o.Elements {
		permanent[i] = e.permanent()
	}
	return fmt.Sprintf("delete element %s { %s }", o.Set.Name, joinElements(permanent, ", "))
}

func (o SetRules) String() string {
	lines := []string{"flush chain " + o.Chain.Name}
	for _, r := range o.Chain.Rules {
		lines = append(lines, fmt.Sprintf("add rule %s %s", o.Chain.Name, r))
	}
	return strings.Join(lines, "\n")
}

// objectKinds are nft's words for the kernel's numbers (NFT_OBJECT_QUOTA and so on).
var objectKinds = map[uint32]string{2: "quota", 3: "ct helper", 4: "limit", 6: "tunnel", 7: "ct timeout", 8: "secmark", 9: "ct expectation", 10: "synproxy"}

func (o DeleteObject) String() string {
	return fmt.Sprintf("delete %s %s", cmp.Or(objectKinds[o.Object.Kind], "object"), o.Object.Name)
}

func (o DeleteTable) String() string   { return "delete table" }
func (o DeleteChain) String() string   { return "delete chain " + o.Name }
func (o DeleteSet) String() string     { return "delete set " + o.Name }
func (o DeleteCounter) String() string { return "delete counter " + o.Name }

// String prints the plan as nft commands, a blank line between transactions.
func (p Plan) String() string {
	table := fmt.Sprintf("%s %s", p.Family, TableName)
	var b strings.Builder
	for i, step := range p.Steps {
		if i > 0 {
			b.WriteString("\n")
		}
		for _, op := range step {
			for line := range strings.Lines(op.String()) {
				b.WriteString(qualify(strings.TrimSuffix(line, "\n"), table) + "\n")
			}
		}
	}
	return b.String()
}

// qualify puts the table where nft wants it: behind the verb and the kind.
func qualify(command, table string) string {
	words := strings.SplitN(command, " ", 3)
	if len(words) < 3 || words[1] == "table" {
		return strings.TrimSpace(strings.Join(append([]string{words[0], words[1], table}, words[2:]...), " "))
	}
	return strings.Join([]string{words[0], words[1], table, words[2]}, " ")
}
