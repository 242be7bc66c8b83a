package ipranges

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Book is everything that is remembered about the list. It is a value: its
// methods return the next Book and change nothing. It comes from Store.Load,
// so that Current is never empty. Its lists change by Offer, Accept and
// Rollback only; what is planned, by Start, Begin and Plan.
type Book struct {
	Current  Record   `json:"current,omitzero"`  // in force
	Previous Record   `json:"previous,omitzero"` // for Rollback; zero if there is none
	Held     *Held    `json:"held,omitempty"`    // waits for a human; nil if nothing does
	Pending  *Pending `json:"pending,omitempty"` // removals seen once; nil if there are none

	// CheckedAt is when a source last confirmed Current; zero if none has.
	CheckedAt   time.Time `json:"checked_at,omitzero"`
	NextAt      time.Time `json:"next_at,omitzero"` // when the next fetch is due
	NextIsRetry bool      `json:"next_is_retry,omitempty"`
	Retries     []int     `json:"retries,omitempty"` // that followed each of the latest regular fetches, the newest last
	Failures    int       `json:"failures"`          // fetches without a usable answer in a row
	LastOutcome Outcome   `json:"last_outcome"`
	Agreement   string    `json:"agreement,omitempty"` // of the last usable answer
}

// Held is an answer that is not believed without a human.
type Held struct {
	Record
	// Class says why: ClassHeld (too large a change), ClassDisagree,
	// ClassTextAlone or ClassRolledBack.
	Class  Class     `json:"class"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Pending holds networks that the last answers lacked.
type Pending struct {
	Removed List      `json:"removed"`
	Since   time.Time `json:"since"`
}

// Outcome says what came of one fetch or one command, in one line of Text.
type Outcome struct {
	Class   Class     `json:"class"`
	Text    string    `json:"text"`
	Added   List      `json:"added"`   // what came into force
	Removed List      `json:"removed"` // what went out of force
	At      time.Time `json:"at"`
}

// Returned by Accept and Rollback.
var (
	ErrNothingHeld = errors.New("no list is waiting to be accepted")
	ErrNoPrevious  = errors.New("there is no previous list to go back to")
)

// Ages at which Freshness changes its grade. Cloudflare changes its list once
// in years, and before it uses a new network, so age is a reason to look after
// the fetching, and never one to open or to close.
const (
	oldAfter   = 7 * 24 * time.Hour
	staleAfter = 30 * 24 * time.Hour
)

// Freshness is the time since the list in force was last confirmed, or, if it
// never was, since it was fetched or recorded; and a grade for it: "fresh",
// "old" (7 days or more) or "stale" (30 days or more). A clock that runs
// behind makes an age of zero.
func (b Book) Freshness(now time.Time) (age time.Duration, grade string) {
	confirmed := b.CheckedAt
	if confirmed.IsZero() {
		confirmed = b.Current.FetchedAt
	}
	age = max(0, now.Sub(confirmed))
	switch {
	case age >= staleAfter:
		return age, "stale"
	case age >= oldAfter:
		return age, "old"
	}
	return age, "fresh"
}

// Fail notes a fetch without a usable answer. The list in force stays, and so
// does everything that waits.
func (b Book) Fail(err error, now time.Time) (Book, Outcome) {
	b.Failures++
	return b.report(Outcome{Class: classOf(err), Text: err.Error(), At: now})
}

// Accept puts the held list in force: a human has judged it. Even so it must
// be plausible. Without a held list the error is ErrNothingHeld.
func (b Book) Accept(now time.Time) (Book, Outcome, error) {
	if b.Held == nil {
		return b, Outcome{}, ErrNothingHeld
	}
	if err := b.Held.check(); err != nil {
		return b, Outcome{}, fmt.Errorf("accepting the held list: %w", err)
	}
	outcome := b.outcome(ClassAccepted, b.Held.List, "the held list was accepted", now)
	if b.Held.FetchedAt.After(b.CheckedAt) {
		b.CheckedAt = b.Held.FetchedAt
	}
	b = b.enforce(b.Held.Record)
	b.Held, b.Pending = nil, nil
	b, outcome = b.report(outcome)
	return b, outcome, nil
}

// Rollback puts the previous list in force again. The list it replaces is
// held: without that, the next fetch would undo the rollback; and Accept
// undoes it on purpose. Without a previous list that differs from the current
// one the error is ErrNoPrevious.
func (b Book) Rollback(now time.Time) (Book, Outcome, error) {
	if b.Previous.List.Len() == 0 || b.Previous.List.Equal(b.Current.List) {
		return b, Outcome{}, ErrNoPrevious
	}
	undone := b.Current
	outcome := b.outcome(ClassRolledBack, b.Previous.List, "went back to the previous list", now)
	b = b.enforce(b.Previous)
	b.CheckedAt, b.Pending = time.Time{}, nil
	b.Held = &Held{Record: undone, Class: ClassRolledBack, Reason: "it was rolled back", Since: now}
	b, outcome = b.report(outcome)
	return b, outcome, nil
}

// enforce makes a record the current one. One with the same list only renews
// what is known about it.
func (b Book) enforce(r Record) Book {
	if !r.List.Equal(b.Current.List) {
		b.Previous = b.Current
	}
	b.Current = r
	return b
}

func (b Book) outcome(class Class, next List, text string, now time.Time) Outcome {
	added, removed := next.Minus(b.Current.List), b.Current.List.Minus(next)
	if changed := difference(added, removed); changed != "" {
		text = joined("now in force: "+changed, text)
	}
	return Outcome{Class: class, Text: text, Added: added, Removed: removed, At: now}
}

func joined(text, more string) string {
	if text == "" || more == "" {
		return text + more
	}
	return text + "; " + more
}

func (b Book) report(o Outcome) (Book, Outcome) {
	b.LastOutcome = o
	return b, o
}

// difference prints "+104.24.0.0/14 -104.16.0.0/12", a few of each.
func difference(added, removed List) string {
	return strings.Join(append(signed("+", added), signed("-", removed)...), " ")
}

func signed(sign string, l List) []string {
	const most = 5
	var texts []string
	for i, n := range l.Networks() {
		if i == most {
			return append(texts, fmt.Sprintf("(and %d more)", l.Len()-most))
		}
		texts = append(texts, sign+n.String())
	}
	return texts
}
