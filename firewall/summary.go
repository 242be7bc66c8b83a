package firewall

import (
	"fmt"
)

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
		if op.Comment == "" {
			return "~ table: wake it, somebody made it dormant"
		}
		return "+ table " + TableName
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
	case DeleteCounter:
		return "- counter " + op.Name
	default:
		return "" // empty sets and counters, which change nothing yet
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
