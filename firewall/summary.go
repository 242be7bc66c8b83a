package firewall

import (
	"fmt"
	"strings"
)

// Meaning says what a change of tables means for those who reach this host and
// for what it reaches; nothing where only lists change. Before is nil where
// there is no table.
func Meaning(before *Ruleset, after Ruleset) []string {
	var lines []string
	if before == nil || before.Mode() != after.Mode() {
		lines = append(lines, modeMeaning(before, after))
	}
	for _, c := range []struct{ chain, begins, ends string }{
		{"inbound", "inbound: whatever else comes in is dropped, but for [inbound] open, answers and what every host needs",
			"inbound: ports that are not guarded are left to other firewalls again"},
		{"egress", "outbound: what this host sends is rejected, but for the tunnel and what it needs, answers and [outbound] allow",
			"outbound: this host may send what it likes again"},
	} {
		was, is := before.hasChain(c.chain), after.hasChain(c.chain)
		switch {
		case is && !was:
			lines = append(lines, c.begins)
		case was && !is:
			lines = append(lines, c.ends)
		}
	}
	return append(auditMeaning(before, after, len(lines) > 0), lines...)
}

// auditMeaning says when audit mode begins and ends, and that it goes on where
// others of the lines would read as if something were dropped.
func auditMeaning(before *Ruleset, after Ruleset, others bool) []string {
	const lasting = ": NOTHING IS DROPPED; what the policy would drop is counted, and cfwall status lists it"
	was, is := before != nil && before.Audit(), after.Audit()
	switch {
	case is && !was:
		return []string{"audit begins" + lasting}
	case was && !is:
		return []string{"audit ends: what the policy drops is dropped from now on"}
	case is && others:
		return []string{"audit goes on" + lasting}
	default:
		return nil
	}
}

func modeMeaning(before *Ruleset, after Ruleset) string {
	from := "mode "
	if before != nil {
		from += string(before.Mode()) + " -> "
	}
	if after.Mode() == ModeTunnel {
		return from + "tunnel: the web ports are closed to everyone outside, Cloudflare too, but for [allow]"
	}
	return from + "cloudflare: the web ports are open to Cloudflare's networks and [allow], and closed to everyone else"
}

func (r *Ruleset) hasChain(name string) bool {
	if r == nil {
		return false
	}
	_, ok := r.Chain(name)
	return ok
}

// summaryLimit bounds how many elements a line of a summary names.
const summaryLimit = 4

// Summary says in words what a plan changes, one line each; "+" adds, "-"
// removes, "~" changes.
func (p Plan) Summary() []string {
	var lines []string
	for _, step := range p.Steps {
		for _, op := range step {
			if line := summarize(op); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

func summarize(op Op) string {
	switch op := op.(type) {
	case AddTable:
		return addedTable(op)
	case TakeOver:
		return "~ table: make it anew, so that other programs cannot change it"
	case AddElements:
		return fmt.Sprintf("+ %s: %s", op.Set.Name, someElements(op.Elements))
	case DeleteElements:
		return fmt.Sprintf("- %s: %s", op.Set.Name, someElements(op.Elements))
	case SetRules:
		return fmt.Sprintf("~ chain %s: %s", op.Chain.Name, plural(len(op.Chain.Rules), "rule"))
	case AddChain:
		if op.Chain.Hook != (Hook{}) {
			return fmt.Sprintf("+ chain %s at %s, priority %d", op.Chain.Name, op.Chain.Hook.Point, op.Chain.Hook.Priority)
		}
		return "+ chain " + op.Chain.Name
	case DeleteTable:
		return "- table " + TableName + ": every port is open"
	case DeleteChain:
		return "- chain " + op.Name
	case DeleteSet:
		return "- set " + op.Name
	case DeleteObject:
		return "- " + strings.TrimPrefix(op.String(), "delete ")
	case DeleteCounter:
		return "- counter " + op.Name
	default:
		return "" // empty sets and counters, which change nothing yet
	}
}

func addedTable(o AddTable) string {
	switch {
	case o.Comment != "":
		return "+ table " + TableName
	case o.Hold == Owned:
		return "~ table: adopt it, so that other programs cannot change it"
	default:
		return "~ table: wake it, somebody made it dormant"
	}
}

func someElements(elements []Element) string {
	named := elements
	if len(named) > summaryLimit {
		named = named[:summaryLimit]
	}
	words := joinElements(named, ", ")
	if more := len(elements) - len(named); more > 0 {
		words += fmt.Sprintf(" and %d more", more)
	}
	return words
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
