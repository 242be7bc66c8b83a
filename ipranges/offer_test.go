package ipranges

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const maxChange = 0.2

// step is one answer offered to a Book, and what comes of it.
type step struct {
	after time.Duration // since the step before
	offer Answer
	class Class
	// What the step changes in the list in force, separated by blanks.
	added, removed string
	held, pending  bool
}

func api(list List) Answer { return Answer{List: list, From: FromAPI, ETag: "e", Agreement: Agree} }

func alone(list List) Answer { return Answer{List: list, From: FromText, Agreement: Unknown} }

func disputed(list List) Answer {
	return Answer{List: list, From: FromAPI, ETag: "e", Agreement: Disagree, Doubt: "the text pages differ"}
}

func TestOffer(t *testing.T) {
	full := published(t)
	old := before2021(t)
	small, gone := networks("1.1.1.0/24"), networks("131.0.72.0/22")
	grown, shrunk, both := full.Union(small), full.Minus(gone), full.Union(small).Minus(gone)
	half := NewList(append(full.V4()[:7], full.V6()[:3]...)...)
	unsure := api(shrunk)
	unsure.Agreement = Unknown
	const gone2021 = "104.28.0.0/14"
	tests := []struct {
		name  string
		start List
		steps []step
	}{
		{"nothing new", full, []step{{0, api(full), ClassUnchanged, "", "", false, false}, {time.Hour, alone(full), ClassUnchanged, "", "", false, false}}},
		{"an addition comes at once", full, []step{{0, api(grown), ClassAdded, "1.1.1.0/24", "", false, false}}},
		{"an addition by the text pages alone comes too", full, []step{{0, alone(grown), ClassAdded, "1.1.1.0/24", "", false, false}}},
		{"a removal takes two answers", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true},
			{59*time.Minute + 59*time.Second, api(shrunk), ClassRemovalPending, "", "", false, true},
			{time.Second, api(shrunk), ClassRemoved, "", "131.0.72.0/22", false, false},
		}},
		{"a removal without the text pages takes two answers too", full, []step{
			{0, unsure, ClassRemovalPending, "", "", false, true}, {6 * time.Hour, unsure, ClassRemoved, "", "131.0.72.0/22", false, false},
		}},
		{"a removal that is taken back", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, api(full), ClassUnchanged, "", "", false, false},
			{6 * time.Hour, api(shrunk), ClassRemovalPending, "", "", false, true},
		}},
		{"a removal that the text pages do not know yet", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, disputed(shrunk), ClassDisagree, "", "", true, false},
			{6 * time.Hour, api(shrunk), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, api(shrunk), ClassRemoved, "", "131.0.72.0/22", false, false},
		}},
		{"another removal starts anew", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, api(shrunk.Minus(networks("2405:8100::/32"))), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, api(shrunk.Minus(networks("2405:8100::/32"))), ClassRemoved, "", "131.0.72.0/22 2405:8100::/32", false, false},
		}},
		{"addition and removal", full, []step{
			{0, api(both), ClassAdded, "1.1.1.0/24", "", false, true}, {6 * time.Hour, api(both), ClassRemoved, "", "131.0.72.0/22", false, false},
		}},
		{"removal with a late addition", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true}, {6 * time.Hour, api(both), ClassRemoved, "1.1.1.0/24", "131.0.72.0/22", false, false},
		}},
		{"the text pages alone never remove", full, []step{
			{0, alone(shrunk), ClassTextAlone, "", "", true, false},
			{6 * time.Hour, alone(shrunk), ClassTextAlone, "", "", true, false},
			{600 * time.Hour, alone(both), ClassAdded, "1.1.1.0/24", "", true, false},
			{6 * time.Hour, alone(grown), ClassUnchanged, "", "", false, false},
		}},
		{"the text pages alone do not confirm a removal", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, alone(shrunk), ClassTextAlone, "", "", true, true},
			{6 * time.Hour, api(shrunk), ClassRemoved, "", "131.0.72.0/22", false, false},
		}},
		{"the text pages alone end a pending removal", full, []step{
			{0, api(shrunk), ClassRemovalPending, "", "", false, true},
			{6 * time.Hour, alone(full), ClassUnchanged, "", "", false, false},
		}},
		{"disagreement about a change", full, []step{
			{0, disputed(grown), ClassDisagree, "", "", true, false},
			{6 * time.Hour, disputed(grown), ClassDisagree, "", "", true, false},
			{6 * time.Hour, api(grown), ClassAdded, "1.1.1.0/24", "", false, false},
		}},
		{"disagreement where the API confirms", full, []step{{0, disputed(full), ClassDisagree, "", "", false, false}}},
		{"half a list is held", full, []step{
			{0, api(half), ClassHeld, "", "", true, false},
			{6 * time.Hour, api(half), ClassHeld, "", "", true, false},
			{6 * time.Hour, api(full), ClassUnchanged, "", "", false, false},
		}},
		{"half a list of the text pages is held", full, []step{{0, alone(half), ClassHeld, "", "", true, false}}},
		{"twice the list is held", full, []step{{0, api(full.Union(networks("8.0.0.0/11"))), ClassHeld, "", "", true, false}}},
		{"another list of the same size is held", full, []step{{0, api(networks("8.0.0.0/11 2600::/29")), ClassHeld, "", "", true, false}}},
		{"one family gone mad is held", full, []step{{0, api(full.Union(networks("2600::/29"))), ClassHeld, "", "", true, false}}},
		{"what is not plausible is refused", full, []step{
			{0, api(full.Union(networks("10.0.0.0/24"))), ClassNotRoutable, "", "", false, false},
			{0, api(NewList(full.V4()...)), ClassOneFamilyMissing, "", "", false, false},
			{0, api(List{}), ClassEmpty, "", "", false, false},
		}},
		{"April 2021", old, []step{
			{0, api(full), ClassRemovalPending, "", "", false, true}, {6 * time.Hour, api(full), ClassRemoved, "", gone2021, false, false},
		}},
		{"April 2021, alternating for hours", old, []step{
			{0, api(full), ClassRemovalPending, "", "", false, true},
			{30 * time.Minute, api(old), ClassUnchanged, "", "", false, false},
			{30 * time.Minute, api(full), ClassRemovalPending, "", "", false, true},
			{30 * time.Minute, disputed(old), ClassDisagree, "", "", false, false},
			{30 * time.Minute, api(full), ClassRemovalPending, "", "", false, true},
			{30 * time.Minute, disputed(full), ClassDisagree, "", "", true, false},
			{30 * time.Minute, api(full), ClassRemovalPending, "", "", false, true},
			{30 * time.Minute, api(full), ClassRemovalPending, "", "", false, true},
			{30 * time.Minute, api(full), ClassRemoved, "", gone2021, false, false},
			{30 * time.Minute, api(full), ClassUnchanged, "", "", false, false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, now := Book{Current: Record{List: tt.start, From: FromAPI, ETag: "e"}}, start
			for i, s := range tt.steps {
				now = now.Add(s.after)
				b = take(t, fmt.Sprintf("step %d", i+1), b, s, now)
			}
		})
	}
}

// take offers an answer and checks everything that must hold after it.
func take(t *testing.T, name string, b Book, s step, now time.Time) Book {
	t.Helper()
	s.offer.At = now
	before := encode(t, b)
	next, outcome := b.Offer(s.offer, maxChange, now)
	if encode(t, b) != before {
		t.Fatalf("%s: Offer changed the Book that it was asked", name)
	}
	want := Outcome{Class: s.class, Added: networks(s.added), Removed: networks(s.removed), At: now, Text: outcome.Text}
	if diff := cmp.Diff(want, outcome); diff != "" {
		t.Fatalf("%s: outcome (-want +got):\n%s", name, diff)
	}
	if outcome.Text == "" || !cmp.Equal(next.LastOutcome, outcome) {
		t.Fatalf("%s: text %q, last outcome %+v", name, outcome.Text, next.LastOutcome)
	}
	if got := b.Current.List.Union(want.Added).Minus(want.Removed); !next.Current.List.Equal(got) {
		t.Fatalf("%s: in force %v, want %v", name, next.Current.List, got)
	}
	if changed := s.added+s.removed != ""; changed != next.Previous.List.Equal(b.Current.List) {
		t.Fatalf("%s: previous %v", name, next.Previous.List)
	}
	if (next.Held != nil) != s.held || (next.Pending != nil) != s.pending {
		t.Fatalf("%s: held %+v, pending %+v", name, next.Held, next.Pending)
	}
	return next
}

func encode(t *testing.T, b Book) string {
	t.Helper()
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every change that Cloudflare is known to have made, as it would fare today.
// Those that are held are additions to a list much smaller than today's.
func TestHistory(t *testing.T) {
	changes := []struct {
		date, added, removed string
		want                 Class
	}{
		{"2012-05", "204.93.240.0/24 204.93.177.0/24 199.27.128.0/21 173.245.48.0/20 103.22.200.0/22 141.101.64.0/18 108.162.192.0/18 " +
			"2400:cb00::/32 2606:4700::/32 2803:f800::/32 2405:b500::/32 2405:8100::/32", "", ""},
		{"2013-06", "103.21.244.0/22 103.31.4.0/22 190.93.240.0/20 188.114.96.0/20 197.234.240.0/22 198.41.128.0/17 162.158.0.0/15", "", ClassHeld},
		{"2014-04", "104.16.0.0/12", "", ClassHeld},
		{"2015-03", "172.64.0.0/13", "204.93.240.0/24 204.93.177.0/24", ClassHeld},
		{"2016-02", "131.0.72.0/22", "", ClassAdded},
		{"2016-08", "2c0f:f248::/32 2a06:98c0::/29", "", ClassHeld},
		{"2017-06", "", "199.27.128.0/21", ClassRemovalPending},
		{"2021-04", "", "104.28.0.0/14", ClassRemovalPending},
	}
	var b Book
	for _, c := range changes {
		next := b.Current.List.Union(networks(c.added)).Minus(networks(c.removed))
		if c.want != "" {
			_, outcome := b.Offer(api(next), maxChange, start)
			if outcome.Class != c.want {
				t.Errorf("%s: %s %s", c.date, outcome.Class, outcome.Text)
			}
		}
		b.Current.List = next
	}
	if !b.Current.List.Equal(published(t)) {
		t.Errorf("history ends with %v", b.Current.List)
	}
}

// 14.67 % of the IPv4 space: the threshold must leave it room.
func TestShareOfApril2021(t *testing.T) {
	b := Book{Current: Record{List: before2021(t)}}
	if share := b.share(published(t)); share < 0.1467 || share > 0.1468 {
		t.Errorf("share %v", share)
	}
}

// A clock that was ahead must not keep a removal pending until it is reached.
func TestPendingFromTheFuture(t *testing.T) {
	full := published(t)
	shrunk := api(full.Minus(networks("131.0.72.0/22")))
	b := Book{Current: Record{List: full}}
	b, _ = b.Offer(shrunk, maxChange, start.AddDate(10, 0, 0))
	b, _ = b.Offer(shrunk, maxChange, start)
	b, outcome := b.Offer(shrunk, maxChange, start.Add(time.Hour))
	if outcome.Class != ClassRemoved || b.Pending != nil {
		t.Errorf("outcome %+v", outcome)
	}
}

// With what is in force already, an answer can be too much.
func TestOfferThatOverflows(t *testing.T) {
	b := Book{Current: Record{List: networks("104.0.0.0/10 2606:4700::/32")}}
	next, outcome := b.Offer(api(networks("104.0.0.0/11 104.32.0.0/12 104.48.0.0/13 104.56.0.0/14 105.0.0.0/16 2606:4700::/32")), maxChange, start)
	if outcome.Class != ClassHeld || !next.Current.List.Equal(b.Current.List) || next.Held == nil {
		t.Errorf("outcome %+v", outcome)
	}
}

func TestConfirmRenewsTheRecord(t *testing.T) {
	tests := []struct {
		name     string
		before   Record
		answer   Answer
		wantFrom string
		renewed  bool
	}{
		{"embedded, by the API", Embedded(), api(Embedded().List), FromAPI, true},
		{"embedded, by the text pages", Embedded(), alone(Embedded().List), FromText, true},
		{"text, by the API", Record{List: Embedded().List, From: FromText}, api(Embedded().List), FromAPI, true},
		{"API, by the text pages", Record{List: Embedded().List, From: FromAPI, ETag: "e"}, alone(Embedded().List), FromAPI, false},
		{"API, by the API", Record{List: Embedded().List, From: FromAPI, ETag: "e"}, api(Embedded().List), FromAPI, false},
		{"API, another etag", Record{List: Embedded().List, From: FromAPI, ETag: "f"}, api(Embedded().List), FromAPI, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.answer.At = start
			b, _ := Book{Current: tt.before, Failures: 3}.Offer(tt.answer, maxChange, start)
			if b.Current.From != tt.wantFrom || b.Current.FetchedAt.Equal(start) != tt.renewed || b.Previous.List.Len() > 0 {
				t.Errorf("now %+v, previous %+v", b.Current, b.Previous)
			}
			if b.Failures != 0 || !b.CheckedAt.Equal(start) || b.Agreement != tt.answer.Agreement {
				t.Errorf("book %+v", b)
			}
		})
	}
}

// Only an answer that is believed in full counts as a check.
func TestCheckedAt(t *testing.T) {
	full := published(t)
	shrunk := full.Minus(networks("131.0.72.0/22"))
	tests := map[Class]struct {
		answer Answer
		counts bool
	}{
		ClassUnchanged:      {api(full), true},
		ClassAdded:          {api(full.Union(networks("1.1.1.0/24"))), true},
		ClassRemovalPending: {api(shrunk), true},
		ClassTextAlone:      {alone(shrunk), false},
		ClassDisagree:       {disputed(shrunk), false},
		ClassHeld:           {api(networks("8.0.0.0/11 2600::/29")), false},
	}
	for class, tt := range tests {
		b, outcome := Book{Current: Record{List: full, From: FromAPI}}.Offer(tt.answer, maxChange, start)
		if outcome.Class != class || b.CheckedAt.Equal(start) != tt.counts {
			t.Errorf("%s: %s, checked at %v", class, outcome.Class, b.CheckedAt)
		}
	}
}

func TestHoldKeepsItsDate(t *testing.T) {
	full := published(t)
	b := Book{Current: Record{List: full}}
	b, _ = b.Offer(disputed(full.Union(networks("1.1.1.0/24"))), maxChange, start)
	b, _ = b.Offer(disputed(full.Union(networks("1.1.1.0/24"))), maxChange, start.Add(time.Hour))
	if !b.Held.Since.Equal(start) {
		t.Errorf("held since %v", b.Held.Since)
	}
	b, _ = b.Offer(disputed(full.Union(networks("1.0.0.0/24"))), maxChange, start.Add(time.Hour))
	if !b.Held.Since.Equal(start.Add(time.Hour)) {
		t.Errorf("another list is held since %v", b.Held.Since)
	}
}

// Where the sources differ, in one network or in all, neither their union nor
// their intersection comes into force: the list stays as it is.
func TestDisagreement(t *testing.T) {
	full := published(t)
	cases := map[string]List{}
	for _, n := range full.Networks() {
		low, high := halves(n)
		cases["without "+n.String()] = full.Minus(NewList(n))
		cases["lower half of "+n.String()] = full.Minus(NewList(high))
		cases["upper half of "+n.String()] = full.Minus(NewList(low))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		extra := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + r.IntN(80)), byte(r.IntN(256)), byte(r.IntN(256)), 0}), 24)
		cases["with "+extra.String()] = full.Union(NewList(extra))
	}
	tried := 0
	for name, other := range cases {
		for _, c := range []struct{ api, text, current List }{
			{full, other, full}, {other, full, full}, {full, other, other}, {other, full, other},
		} {
			tried++
			a, err := settle(apiLists{all: c.api, own: c.api}, nil, c.text, nil)
			if err != nil || a.Agreement != Disagree || !a.List.Equal(c.api) || a.Doubt == "" {
				t.Fatalf("%s: answer %+v, %v", name, a, err)
			}
			b, outcome := Book{Current: Record{List: c.current, From: FromAPI}}.Offer(a, maxChange, start)
			if outcome.Class != ClassDisagree || !b.Current.List.Equal(c.current) || b.Agreement != Disagree {
				t.Fatalf("%s: outcome %+v", name, outcome)
			}
			if waits := b.Held != nil; waits == c.api.Equal(c.current) {
				t.Fatalf("%s: held %+v", name, b.Held)
			}
		}
	}
	if tried < 200 {
		t.Errorf("only %d cases", tried)
	}
}

func halves(n netip.Prefix) (low, high netip.Prefix) {
	low = netip.PrefixFrom(n.Addr(), n.Bits()+1)
	all := NewList(n).Minus(NewList(low)).Networks()
	return low, all[0]
}

func TestAccept(t *testing.T) {
	full := published(t)
	doubled := full.Union(networks("8.0.0.0/12"))
	b := Book{Current: Record{List: full, From: FromAPI}, CheckedAt: start}
	_, _, err := b.Accept(start)
	if !errors.Is(err, ErrNothingHeld) {
		t.Fatal(err)
	}
	answer := api(doubled)
	answer.At = start.Add(time.Hour)
	b, _ = b.Offer(answer, maxChange, answer.At)
	b, outcome, err := b.Accept(start.Add(2 * time.Hour))
	if err != nil || outcome.Class != ClassAccepted || !outcome.Added.Equal(networks("8.0.0.0/12")) || outcome.Removed.Len() > 0 {
		t.Fatalf("outcome %+v, %v", outcome, err)
	}
	if !b.Current.List.Equal(doubled) || !b.Previous.List.Equal(full) || b.Held != nil || !b.CheckedAt.Equal(answer.At) {
		t.Errorf("book %+v", b)
	}
	_, outcome = b.Offer(api(doubled), maxChange, start.Add(3*time.Hour))
	if outcome.Class != ClassUnchanged {
		t.Errorf("then %+v", outcome)
	}
	b.Held = &Held{Record: Record{List: networks("10.0.0.0/8 2606:4700::/32"), From: FromAPI}}
	_, _, err = b.Accept(start)
	wantClass(t, err, ClassNotRoutable)
	b.Held = &Held{Record: Record{List: full}} // could not be read back from disk
	if _, _, err = b.Accept(start); err == nil {
		t.Error("accepted a list from nowhere")
	}
}

func TestRollback(t *testing.T) {
	full := published(t)
	bad := full.Union(networks("1.1.1.0/24"))
	b := Book{Current: Record{List: full, From: FromAPI}}
	_, _, err := b.Rollback(start)
	if !errors.Is(err, ErrNoPrevious) {
		t.Fatal(err)
	}
	b, _ = b.Offer(api(bad), maxChange, start)
	b, outcome, err := b.Rollback(start.Add(time.Hour))
	if err != nil || outcome.Class != ClassRolledBack || !outcome.Removed.Equal(networks("1.1.1.0/24")) {
		t.Fatalf("outcome %+v, %v", outcome, err)
	}
	if !b.Current.List.Equal(full) || !b.Previous.List.Equal(bad) || b.Held == nil || !b.CheckedAt.IsZero() {
		t.Fatalf("book %+v", b)
	}
	// What was rolled back does not come back by itself, whoever says it.
	for _, a := range []Answer{api(bad), alone(bad), disputed(bad), api(full), alone(full), alone(full.Minus(networks("131.0.72.0/22"))), disputed(full), api(bad.Union(networks("1.0.0.0/24"))), api(bad.Minus(networks("131.0.72.0/22")))} {
		b, outcome = b.Offer(a, maxChange, start.Add(2*time.Hour))
		if !b.Current.List.Equal(full) || b.Held == nil || b.Held.Class != ClassRolledBack || b.Pending != nil {
			t.Fatalf("after %+v: outcome %+v", a, outcome)
		}
	}
	// Another change ends the hold.
	other, outcome := b.Offer(api(full.Union(networks("1.0.0.0/24"))), maxChange, start.Add(3*time.Hour))
	if outcome.Class != ClassAdded || other.Held != nil {
		t.Errorf("outcome %+v, held %+v", outcome, other.Held)
	}
	// So does a change of mind.
	b.Held.List = bad
	b, _, err = b.Accept(start.Add(3 * time.Hour))
	if err != nil || !b.Current.List.Equal(bad) || b.Held != nil {
		t.Errorf("book %+v, %v", b, err)
	}
}

// A rolled back removal stays undone as well.
func TestRollbackOfARemoval(t *testing.T) {
	full := published(t)
	shrunk := api(full.Minus(networks("131.0.72.0/22")))
	b := Book{Current: Record{List: full}}
	b, _ = b.Offer(shrunk, maxChange, start)
	b, _ = b.Offer(shrunk, maxChange, start.Add(time.Hour))
	b, _, err := b.Rollback(start.Add(2 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for hours := range 5 {
		var outcome Outcome
		b, outcome = b.Offer(shrunk, maxChange, start.Add(time.Duration(3+6*hours)*time.Hour))
		if outcome.Class != ClassRolledBack || !b.Current.List.Equal(full) {
			t.Fatalf("outcome %+v", outcome)
		}
	}
}

func TestFreshness(t *testing.T) {
	const day = 24 * time.Hour
	tests := []struct {
		name    string
		checked time.Time
		now     time.Time
		age     time.Duration
		grade   string
	}{
		{"just checked", start, start, 0, "fresh"},
		{"almost a week", start, start.Add(7*day - 1), 7*day - 1, "fresh"},
		{"a week", start, start.Add(7 * day), 7 * day, "old"},
		{"30 days", start, start.Add(30 * day), 30 * day, "stale"},
		{"clock behind", start, start.Add(-400 * day), 0, "fresh"},
		{"never checked", time.Time{}, Embedded().FetchedAt.Add(41 * day), 41 * day, "stale"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			age, grade := Book{Current: Embedded(), CheckedAt: tt.checked}.Freshness(tt.now)
			if age != tt.age || grade != tt.grade {
				t.Errorf("got %v %s, want %v %s", age, grade, tt.age, tt.grade)
			}
		})
	}
}

func TestFailNamesTheClass(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Class
	}{
		{refuse(ClassHTML, "a page"), ClassHTML},
		{fmt.Errorf("fetching: %w", refuse(ClassTLS, "no")), ClassTLS},
		{errors.New("odd"), ClassOther},
	} {
		b, outcome := Book{Current: Embedded(), CheckedAt: start, Agreement: Agree}.Fail(tt.err, start.Add(time.Hour))
		if outcome.Class != tt.want || outcome.Text != tt.err.Error() || b.Failures != 1 || !b.CheckedAt.Equal(start) || b.Agreement != Agree {
			t.Errorf("%v: %+v", tt.err, b)
		}
	}
}

// Whatever is offered in whatever order: the list in force is plausible, it
// gains only what the last answer held, and it loses a network only if the
// API has lacked it an hour before, and lacks it now.
func TestOfferHoldsItsPromises(t *testing.T) {
	full := published(t)
	pieces := slices.Concat(full.Networks(), networks("104.28.0.0/14 1.1.1.0/24 8.0.0.0/11 10.0.0.0/24 2600::/29").Networks())
	rapid.Check(t, func(t *rapid.T) {
		b, now := Book{Current: Embedded()}, start
		var lacked []Answer // what the API said, with its time
		for range rapid.IntRange(1, 20).Draw(t, "answers") {
			now = now.Add(time.Duration(rapid.IntRange(0, 150).Draw(t, "minutes")) * time.Minute)
			list := full
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				piece := NewList(pieces[rapid.IntRange(0, len(pieces)-1).Draw(t, "piece")])
				if contains(list, piece) {
					list = list.Minus(piece)
				} else {
					list = list.Union(piece)
				}
			}
			a := rapid.SampledFrom([]func(List) Answer{api, alone, disputed}).Draw(t, "kind")(list)
			a.At = now
			next, outcome := b.Offer(a, maxChange, now)
			if err := Plausible(next.Current.List); err != nil {
				t.Fatal(err)
			}
			if !contains(a.List.Union(b.Current.List), next.Current.List) {
				t.Fatalf("gained what nobody said: %+v", outcome)
			}
			lost := b.Current.List.Minus(next.Current.List)
			if !lost.Equal(outcome.Removed) || !next.Current.List.Minus(b.Current.List).Equal(outcome.Added) {
				t.Fatalf("outcome %+v", outcome)
			}
			if lost.Len() > 0 && (a.From != FromAPI || a.Agreement == Disagree || overlap(a.List, lost) || !said(lacked, lost, now)) {
				t.Fatalf("lost %v by %+v", lost, a)
			}
			if a.From == FromAPI {
				lacked = append(lacked, a)
			}
			b = next
		}
	})
}

func said(answers []Answer, lost List, now time.Time) bool {
	return slices.ContainsFunc(answers, func(a Answer) bool {
		return !overlap(a.List, lost) && now.Sub(a.At) >= confirmAfter
	})
}
