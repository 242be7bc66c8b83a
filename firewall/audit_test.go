package firewall_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
)

// Audit mode drops nothing, and counts and names the very packets that the same
// policy drops without it.
func TestAuditDropsNothing(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		s := cases.Situations(now).Draw(t, "situation")
		s.Policy.Audit = false
		earnest := build(t, s)
		s.Policy.Audit = true
		audit := build(t, s)
		if earnest.Audit() || !audit.Audit() {
			t.Fatalf("the tables say of themselves: %t, %t", earnest.Audit(), audit.Audit())
		}
		for _, p := range cases.Packets(s.Host.IPv6) {
			want, got := earnest.Decide(p), audit.Decide(p)
			dropped := want.Verdict == firewall.Drop
			if got.Verdict != firewall.Accept || got.WouldDrop != dropped || want.WouldDrop || got.Chain != want.Chain || !got.Certain {
				t.Fatalf("%+v\nin audit mode:  %+v\nin earnest:     %+v", p, got, want)
			}
		}
	})
}

// Nothing in the table of audit mode ends a packet, whatever the packet is; and
// no counter or set is called what it is not.
func TestAuditHasNoRuleThatDrops(t *testing.T) {
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		s := cases.Situations(now).Draw(t, "situation")
		s.Policy.Audit = true
		r := build(t, s)
		for _, c := range r.Chains {
			for _, rule := range c.Rules {
				if slices.ContainsFunc(rule.Code, ends) {
					t.Fatalf("chain %s: %s", c.Name, rule)
				}
			}
		}
		for _, c := range r.Counters {
			if strings.HasPrefix(c.Name, "dropped") || strings.HasPrefix(c.Name, "rejected") {
				t.Fatalf("there is a counter %s", c.Name)
			}
		}
	})
}

func ends(e firewall.Expr) bool {
	_, rejects := e.(firewall.Reject)
	v, isVerdict := e.(firewall.Verdict)
	return rejects || isVerdict && v.Kind == firewall.Drop
}

func TestAuditMeaning(t *testing.T) {
	s := ordinary()
	earnest := s.Build(t)
	s.Policy.Audit = true
	audit := s.Build(t)
	s.Policy.Mode = firewall.ModeTunnel
	tunnel := s.Build(t)
	const begins, goesOn, ends = "audit begins: NOTHING IS DROPPED", "audit goes on: NOTHING IS DROPPED", "audit ends: "
	tests := map[string]struct {
		before *firewall.Ruleset
		after  firewall.Ruleset
		want   []string // how each line begins
	}{
		"it begins":             {&earnest, audit, []string{begins}},
		"it begins at once":     {nil, audit, []string{begins, "mode cloudflare"}},
		"it ends":               {&audit, earnest, []string{ends}},
		"it ends with a change": {&tunnel, earnest, []string{ends, "mode tunnel -> cloudflare"}},
		"it goes on":            {&audit, audit, nil},
		"another mode in it":    {&audit, tunnel, []string{goesOn, "mode cloudflare -> tunnel"}},
		"no audit":              {&earnest, earnest, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := firewall.Meaning(tt.before, tt.after)
			begin := func(line, want string) bool { return strings.HasPrefix(line, want) }
			if !slices.EqualFunc(got, tt.want, begin) {
				t.Errorf("-want +got:\n%s", cmp.Diff(tt.want, got))
			}
		})
	}
}
