package ipranges

import (
	"fmt"
	"time"
)

// confirmAfter is how far apart two answers must be that lack the same
// networks before these are removed: long enough for a bad copy in a cache or
// a bad deployment to pass.
const confirmAfter = time.Hour

// Offer decides about an answer. Of a plausible answer that changes no more
// than maxChange (0.2 is 20 %) of the address space of either family, what it
// adds comes into force at once, since Cloudflare uses new networks soon; what
// it lacks goes when the next answer, at least an hour later, lacks exactly
// the same. An answer in between that still has it starts that anew: in April
// 2021 the old and the new list alternated for hours.
//
// These are held instead, for a human to Accept: a larger change; a change
// about which the two sources disagree; and a change that repeats what a
// Rollback has undone. The list in force stays whole meanwhile, and a later
// answer that can be believed ends the hold.
//
// Text pages alone add but never remove, however often they repeat
// themselves: a page that lost its last lines on the way, or in a cache, is a
// correct shorter page. What they lack is held, and the API's word or a human
// settles it.
func (b Book) Offer(a Answer, maxChange float64, now time.Time) (Book, Outcome) {
	if err := a.record().check(); err != nil {
		return b.Fail(fmt.Errorf("checking the answer: %w", err), now)
	}
	b.Failures, b.Agreement = 0, a.Agreement
	switch class, reason := b.doubt(a, maxChange); {
	case a.List.Equal(b.Current.List):
		return b.confirm(a, now)
	case class != "":
		b.Pending = nil
		b = b.hold(a, class, reason, now)
		return b.report(b.outcome(class, b.Current.List, "held: "+reason, now))
	}
	return b.change(a, now)
}

// doubt says why a change must wait for a human.
func (b Book) doubt(a Answer, maxChange float64) (Class, string) {
	switch share := b.share(a.List); {
	case b.undoesRollback(a.List):
		return ClassRolledBack, "it repeats the change that was rolled back"
	case a.Agreement == Disagree:
		return ClassDisagree, a.Doubt
	case share > maxChange:
		return ClassHeld, fmt.Sprintf("it changes %.1f %% of the address space of one family, more than %.1f %%", 100*share, 100*maxChange)
	}
	if err := Plausible(b.Current.List.Union(a.List)); err != nil {
		return ClassHeld, "with what is in force already: " + err.Error()
	}
	return "", ""
}

// share is how much of a family a list changes, for the family that it changes
// most: addresses that come and addresses that go, divided by those in force.
func (b Book) share(next List) float64 {
	added, removed := next.Minus(b.Current.List), b.Current.List.Minus(next)
	v4 := (space(added.v4) + space(removed.v4)) / space(b.Current.List.v4)
	v6 := (space(added.v6) + space(removed.v6)) / space(b.Current.List.v6)
	return max(v4, v6)
}

// undoesRollback reports whether a list repeats any part of a change that was
// rolled back.
func (b Book) undoesRollback(next List) bool {
	if !b.rolledBack() {
		return false
	}
	back, gone := b.Held.List.Minus(b.Current.List), b.Current.List.Minus(b.Held.List)
	return overlap(next, back) || overlap(gone, b.Current.List.Minus(next))
}

func (b Book) rolledBack() bool { return b.Held != nil && b.Held.Class == ClassRolledBack }

func overlap(l, m List) bool { return !l.Minus(m).Equal(l) }

// confirm takes the answer that is the list in force. The API alone can
// confirm it while the text pages differ, which is worth a warning still.
func (b Book) confirm(a Answer, now time.Time) (Book, Outcome) {
	b.CheckedAt, b.Pending = now, nil
	if !b.rolledBack() {
		b.Held = nil
	}
	news := a.From == FromAPI && (b.Current.From != FromAPI || b.Current.ETag != a.ETag)
	if news || b.Current.From == FromEmbedded {
		b = b.enforce(a.record())
	}
	if a.Agreement == Disagree {
		return b.report(b.outcome(ClassDisagree, b.Current.List, a.Doubt, now))
	}
	return b.report(b.outcome(ClassUnchanged, b.Current.List, a.remark("the list is unchanged"), now))
}

// change takes an answer that may come into force, or a part of it.
func (b Book) change(a Answer, now time.Time) (Book, Outcome) {
	missing := b.Current.List.Minus(a.List)
	more := b.Current.List.Union(a.List)
	switch lacks := difference(List{}, missing); {
	case a.From == FromText && missing.Len() > 0:
		reason := "only the text pages say " + lacks
		return b.hold(a, ClassTextAlone, reason, now).adopt(a, more, ClassTextAlone, "held: "+reason, now)
	case missing.Len() > 0 && !b.Pending.confirmed(missing, now):
		b.CheckedAt, b.Held, b.Pending = now, nil, b.Pending.note(missing, now)
		return b.adopt(a, more, ClassRemovalPending, "waits for a second answer, an hour after the first: "+lacks, now)
	case missing.Len() > 0:
		b.CheckedAt, b.Held, b.Pending = now, nil, nil
		return b.adopt(a, a.List, ClassRemoved, "", now)
	}
	b.CheckedAt, b.Held, b.Pending = now, nil, nil
	return b.adopt(a, a.List, ClassAdded, "", now)
}

// adopt puts what can be believed of an answer in force. Text says what cannot.
func (b Book) adopt(a Answer, list List, class Class, text string, now time.Time) (Book, Outcome) {
	outcome := b.outcome(class, list, a.remark(text), now)
	if outcome.Added.Len() > 0 && outcome.Removed.Len() == 0 {
		outcome.Class = ClassAdded
	}
	if !list.Equal(b.Current.List) {
		next := a.record()
		next.List = list
		b = b.enforce(next)
	}
	return b.report(outcome)
}

// confirmed reports whether the same networks were missing long enough ago.
func (p *Pending) confirmed(missing List, now time.Time) bool {
	return p != nil && p.Removed.Equal(missing) && now.Sub(p.Since) >= confirmAfter
}

// note remembers missing networks, from now or, if they are the same as
// before, from then. A time that is still to come was noted by a wrong clock.
func (p *Pending) note(missing List, now time.Time) *Pending {
	if p != nil && p.Removed.Equal(missing) && !p.Since.After(now) {
		return p
	}
	return &Pending{Removed: missing, Since: now}
}

// hold keeps an answer for a human, and since when it has waited. A page that
// was cut must not end the hold of a list that was rolled back.
func (b Book) hold(a Answer, class Class, reason string, now time.Time) Book {
	if class == ClassTextAlone && b.rolledBack() {
		return b
	}
	if b.Held == nil || b.Held.Class != class || !b.Held.List.Equal(a.List) {
		b.Held = &Held{Record: a.record(), Class: class, Reason: reason, Since: now}
	}
	return b
}

func (a Answer) record() Record {
	return Record{List: a.List, From: a.From, ETag: a.ETag, FetchedAt: a.At}
}

// remark adds what was wrong with the other source.
func (a Answer) remark(text string) string {
	return joined(text, a.Doubt)
}
