package firewall

import (
	"slices"
	"strings"
)

// WouldBe begins the names of counters and sets that hold what passed only
// because of Policy.Audit: nobody is to take it for dropped.
const WouldBe = "would_be_"

// The sets that rules fill in audit mode, without the suffix of the family:
// whose packets would be dropped, and where this host's would be rejected.
const (
	WouldBeDropped  = WouldBe + "dropped"
	WouldBeRejected = WouldBe + "rejected"
)

// Audit reports whether a table of ours counts, and drops nothing.
func (r Ruleset) Audit() bool {
	return slices.ContainsFunc(r.Chains, func(c Chain) bool {
		return slices.ContainsFunc(c.Rules, func(rule Rule) bool { return slices.ContainsFunc(rule.Code, countsAudit) })
	})
}

func countsAudit(e Expr) bool {
	c, ok := e.(Count)
	return ok && strings.HasPrefix(c.Name, WouldBe)
}

// named names a counter or a set of packets that the policy refuses.
func (b builder) named(refused string) string {
	if b.policy.Audit {
		return WouldBe + refused
	}
	return refused
}

// refused says in a comment what becomes of packets that the policy refuses.
func (b builder) refused(comment string) string {
	if b.policy.Audit {
		return "but for audit: " + comment
	}
	return comment
}

// drop ends the rules that drop. In audit mode it ends no more than its own
// base chain: those that follow have their say, and count.
func (b builder) drop() match {
	if b.policy.Audit {
		return accept()
	}
	return drop()
}

// rememberDropped notes in audit mode who would be dropped.
func (b builder) rememberDropped() []Rule {
	if !b.policy.Audit {
		return nil
	}
	var rules []Rule
	for _, f := range b.families() {
		rules = append(rules, rule("remembered for cfwall status", b.rememberSource(f, WouldBeDropped+f.suffix)))
	}
	return rules
}

func (b builder) auditSets(f addressFamily) []Set {
	if !b.policy.Audit {
		return nil
	}
	return []Set{{Name: WouldBeDropped + f.suffix, Type: f.serviceType, Timeouts: true, Comment: "but for audit: who was dropped, and at which port"}}
}
