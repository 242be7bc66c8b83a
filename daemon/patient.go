package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A patient waits only so long for work that may never end, such as that of a
// disk that has died. Until the work has come back it takes no more of it, so
// that nothing piles up.
type patient struct {
	who      string // who may not answer, for people: "the disk"
	patience time.Duration
	inLoop   time.Duration // the patience once the daemon has started
	turn     chan struct{} // held by who waits
	late     atomic.Pointer[lateWork]
}

// lateWork was waited for in vain.
type lateWork struct {
	what  string
	since time.Time
	back  chan struct{} // closed when it comes back after all
}

const (
	// loopPatience is how long the daemon's loop waits for one disk. A reload may
	// wait for several of them, and is to be in force within a second.
	loopPatience = 300 * time.Millisecond
	// sshPatience is how long it waits to hear where SSH listens: a host may have
	// tens of thousands of processes to look through.
	sshPatience = 2 * time.Second
	// startPatience is for the start, where a slow disk is better waited for than
	// done without, and for commands that work without a daemon.
	startPatience = 5 * time.Second
)

func newPatient(who string, patience time.Duration) *patient {
	return &patient{who: who, patience: patience, inLoop: loopPatience, turn: make(chan struct{}, 1)}
}

// patiently does work, and gives up waiting for it, or for its turn, after the
// patience. The work's context ends when it is given up.
func patiently[T any](p *patient, what string, work func(context.Context) (T, error)) (T, error) {
	var value, none T
	if !p.takesTurn() {
		return none, noAnswer{p.who, what}
	}
	defer func() { <-p.turn }()
	if late := p.hangs(); late != nil {
		return none, noAnswer{p.who, late.what}
	}
	ctx, giveUp := context.WithCancel(context.Background())
	defer giveUp()
	var err error
	back := make(chan struct{})
	go func() {
		defer close(back)
		value, err = work(ctx)
	}()
	if p.comesBack(back) {
		return value, err
	}
	p.late.Store(&lateWork{what, time.Now(), back})
	return none, noAnswer{p.who, what}
}

// takesTurn waits for the turn no longer than for work: many who ask at once, and a
// disk that is slow, must not add up for the loop.
func (p *patient) takesTurn() bool {
	timer := time.NewTimer(p.patience)
	defer timer.Stop()
	select {
	case p.turn <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

func (p *patient) comesBack(back <-chan struct{}) bool {
	timer := time.NewTimer(p.patience)
	defer timer.Stop()
	select {
	case <-back:
		return true
	case <-timer.C:
		return isClosed(back) // an answer that has come is better than patience that is over
	}
}

// hangs returns the work that has not come back, nil if there is none.
func (p *patient) hangs() *lateWork {
	late := p.late.Load()
	if late == nil || isClosed(late.back) {
		return nil
	}
	return late
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// noAnswer is the error of work that has not come back in time.
type noAnswer struct{ who, what string }

func (e noAnswer) Error() string { return fmt.Sprintf("%s does not answer: %s", e.who, e.what) }

func isNoAnswer(err error) bool {
	_, is := errors.AsType[noAnswer](err)
	return is
}

// lastKnown reads what may lie on a disk that does not answer, and then goes on
// with what it said before.
type lastKnown[V any] struct {
	*patient
	read func(name string) (V, error)
	mu   sync.Mutex
	said map[string]V
}

func newLastKnown[V any](read func(string) (V, error)) *lastKnown[V] {
	return &lastKnown[V]{patient: newPatient("the disk", startPatience), read: read, said: make(map[string]V)}
}

func (l *lastKnown[V]) get(name string) (V, error) {
	v, err := patiently(l.patient, name, func(context.Context) (V, error) { return l.read(name) })
	l.mu.Lock()
	defer l.mu.Unlock()
	before, known := l.said[name]
	switch {
	case err == nil:
		l.said[name] = v
	case isNoAnswer(err) && known:
		return before, nil
	}
	return v, err
}
