package firewall

import (
	"fmt"
	"strings"
	"time"

	"go4.org/netipx"
)

// String prints the ruleset as a file that `nft -f` loads into a host which
// has no table of ours.
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s %s {\n", r.Family, TableName)
	if r.Comment != "" {
		fmt.Fprintf(&b, "\tcomment %q\n", r.Comment)
	}
	for _, s := range r.Sets {
		b.WriteString("\n" + indent(s.String()))
	}
	for _, c := range r.Counters {
		b.WriteString("\n" + indent(c.String()))
	}
	for _, c := range r.Chains {
		b.WriteString("\n" + indent(c.String()))
	}
	b.WriteString("}\n")
	return b.String()
}

// String prints the set with its elements as nft does.
func (s Set) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %s {\n\ttype %s\n", s.Name, s.Type)
	if s.Type.RuleFilled() {
		fmt.Fprintf(&b, "\tsize %d\n\ttimeout %s\n", RememberedSize, rememberedText)
	}
	if flags := s.flags(); flags != "" {
		fmt.Fprintf(&b, "\tflags %s\n", flags)
	}
	if s.Comment != "" {
		fmt.Fprintf(&b, "\tcomment %q\n", s.Comment)
	}
	if len(s.Elements) > 0 {
		fmt.Fprintf(&b, "\telements = { %s }\n", joinElements(s.Elements, ",\n\t\t     "))
	}
	b.WriteString("}\n")
	return b.String()
}

// rememberedText is RememberedFor in nft's words.
const rememberedText = "1h"

func (s Set) flags() string {
	var flags []string
	if s.intervals() {
		flags = append(flags, "interval")
	}
	if s.Type.RuleFilled() {
		flags = append(flags, "dynamic")
	}
	if s.Timeouts {
		flags = append(flags, "timeout")
	}
	return strings.Join(flags, ",")
}

func (s Set) intervals() bool { return s.Type == TypeIPv4 || s.Type == TypeIPv6 }

func joinElements(elements []Element, separator string) string {
	words := make([]string, len(elements))
	for i, e := range elements {
		words[i] = e.String()
	}
	return strings.Join(words, separator)
}

// String prints "192.0.2.0/24", "192.0.2.1 timeout 59m", or a quoted name. The
// timeout is what is left now.
func (e Element) String() string {
	switch {
	case e.Name != "":
		return fmt.Sprintf("%q", e.Name)
	case e.Expires.IsZero():
		return RangeString(e.Range)
	default:
		return fmt.Sprintf("%s timeout %s", RangeString(e.Range), e.Left(time.Now()))
	}
}

// Left is how long an element that expires still lasts, in whole seconds and
// at least one: the kernel reads 0 as "for ever".
func (e Element) Left(now time.Time) time.Duration {
	return max(e.Expires.Sub(now).Round(time.Second), time.Second)
}

// RangeString prints a range as an address, a network or "first-last".
func RangeString(r netipx.IPRange) string {
	if p, ok := r.Prefix(); ok && !p.IsSingleIP() {
		return p.String()
	}
	if r.From() == r.To() {
		return r.From().String()
	}
	return r.String()
}

// String prints the counter's declaration.
func (c Counter) String() string {
	return fmt.Sprintf("counter %s {\n\tcomment %q\n}\n", c.Name, c.Comment)
}

// String prints the chain with its rules.
func (c Chain) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "chain %s {\n", c.Name)
	if c.Comment != "" {
		fmt.Fprintf(&b, "\tcomment %q\n", c.Comment)
	}
	if c.Hook != (Hook{}) {
		fmt.Fprintf(&b, "\t%s\n", c.Hook)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(&b, "\t%s\n", r)
	}
	b.WriteString("}\n")
	return b.String()
}

// String prints the hook as nft writes it.
func (h Hook) String() string {
	return fmt.Sprintf("type filter hook %s priority %d; policy accept;", h.Point, h.Priority)
}

// String prints the rule as nft writes it; a rule read from the kernel has
// only its number and its comment.
func (r Rule) String() string {
	text := r.Text
	if text == "" {
		text = fmt.Sprintf("# rule handle %d", r.Handle)
	}
	if r.Comment != "" {
		text += fmt.Sprintf(" comment %q", r.Comment)
	}
	return text
}

func indent(s string) string {
	lines := strings.SplitAfter(s, "\n")
	for i, l := range lines {
		if l != "" {
			lines[i] = "\t" + l
		}
	}
	return strings.Join(lines, "")
}
