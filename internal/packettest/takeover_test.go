package packettest

import (
	"slices"
	"testing"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// A plain table is made anew, owned, without a packet leaked or lost; and in the
// same shape given back, so that it can be taken over again.
func TestTakeOverUnderFlood(t *testing.T) {
	s := floodedSite(t)
	w := withFriends()
	enforce(t, s.Web, w)
	k := kernel.New()
	s.Web.Do(func() {
		if err := k.Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { k.Close() })
	var want firewall.Ruleset
	read := func() (have firewall.State) {
		s.Web.Do(func() {
			host, err := kernel.ReadHost()
			if err == nil {
				want, err = firewall.Build(w.policy, w.lists, host)
			}
			if err == nil {
				have, err = k.Read(t.Context(), want.Family)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		return have
	}
	turns := amount(40, 400)
	seen := s.underFlood(t, func() {
		for i := range turns {
			have := read()
			if have.Table.Hold != firewall.Plain {
				t.Fatalf("before turn %d the table is %s", i+1, have.Table.Hold)
			}
			plan := firewall.MakePlan(have, want)
			for _, steps := range [][]firewall.Step{plan.Steps, givenBack(plan.Steps)} {
				var err error
				s.Web.Do(func() { err = k.Apply(t.Context(), firewall.Plan{Family: plan.Family, Steps: steps}) })
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	t.Logf("%d turns: %v", turns, seen)
	seen.check(t, false)
}

// givenBack makes the table plain in the transactions that make it owned.
func givenBack(steps []firewall.Step) []firewall.Step {
	first := slices.Clone(steps[0])
	comment := first[0].(firewall.TakeOver).Comment
	first = slices.Replace(first, 0, 1, firewall.Op(firewall.DeleteTable{}), firewall.Op(firewall.AddTable{Comment: comment}))
	return slices.Concat([]firewall.Step{first}, steps[1:])
}
