package daemon

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Work that does not come back is waited for once; nothing more is begun until
// it does, and what was said before holds.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int32
		answers := make(chan string)
		l := newLastKnown(func(string) (string, error) { begun.Add(1); return <-answers, nil })
		l.patience = loopPatience
		go func() { answers <- "first" }()
		if got, err := l.get("a"); err != nil || got != "first" {
			t.Fatalf("%v, %v", got, err)
		}
		for i, longest := range []time.Duration{loopPatience, 0, 0} {
			start := time.Now()
			if got, err := l.get("a"); err != nil || got != "first" || time.Since(start) > longest {
				t.Errorf("%d: %v, %v after %v", i, got, err, time.Since(start))
			}
			if _, err := l.get("never read"); !isNoAnswer(err) {
				t.Errorf("%d: %v", i, err)
			}
		}
		if begun := begun.Load(); begun != 2 {
			t.Errorf("%d readings were begun, want 2", begun)
		}
		answers <- "late"
		synctest.Wait()
		go func() { answers <- "second" }()
		if got, err := l.get("a"); err != nil || got != "second" {
			t.Errorf("%v, %v", got, err)
		}
	})
}

// Two who ask at once take turns.
func TestPatienceTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatient("the disk", time.Second)
		start, results := time.Now(), make(chan error)
		for range 2 {
			go func() {
				_, err := patiently(p, "a", func(context.Context) (int, error) { time.Sleep(700 * time.Millisecond); return 0, nil })
				results <- err
			}()
		}
		for range 2 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took != 1400*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

// However many ask at once, nobody waits for all of them.
func TestPatienceForTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLastKnown(func(string) (int, error) { time.Sleep(loopPatience - 10*time.Millisecond); return 1, nil })
		l.patience = loopPatience
		if _, err := l.get("a"); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			go func() { _, _ = l.get("a") }()
		}
		time.Sleep(time.Millisecond)
		start := time.Now()
		if got, err := l.get("a"); err != nil || got != 1 || time.Since(start) > 2*loopPatience {
			t.Errorf("%v, %v after %v", got, err, time.Since(start))
		}
		time.Sleep(12 * loopPatience) // until nobody waits any more
	})
}

// Whoever may ask `cfwall why --user` can make up any amount of numbers.
func TestNumbersOfUsersAreNotRemembered(t *testing.T) {
	users := newLastKnown(lookupUser)
	for _, number := range []string{"0", "00", "000"} {
		if id, err := userNumber(users, number); err != nil || id != 0 {
			t.Errorf("%s: %d, %v", number, id, err)
		}
	}
	if id, err := userNumber(users, "root"); err != nil || id != 0 || len(users.said) != 1 {
		t.Errorf("%d, %v; remembered are %v", id, err, users.said)
	}
}
