package daemon

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cfwall/cfwall/ipranges"
)

// withTheHost is how long after the host's start a daemon counts as one that
// started with it, as others did on the hosts beside it.
const withTheHost = time.Minute

// startFetching says when a daemon that starts fetches first.
func (d *Daemon) startFetching() {
	e := d.engine
	booting := e.sinceBoot() < withTheHost
	e.book = e.book.Start(e.config.Ranges.Schedule, e.wallClock(), booting, rand.Float64)
	d.scheduleFetch()
}

// scheduleFetch takes the plan over from the wall clock, by which it is stored,
// to the one that counts from the host's start: a step of the wall clock does not
// move the fetch, and time that the host sleeps counts.
func (d *Daemon) scheduleFetch() {
	d.fetchAt = d.engine.sinceBoot() + d.engine.book.NextAt.Sub(d.engine.wallClock())
}

// fetchIn is how long it is until the next fetch.
func (d *Daemon) fetchIn() time.Duration { return d.fetchAt - d.engine.sinceBoot() }

// replanFetch has the next fetch be no later than a new schedule wants it.
func (d *Daemon) replanFetch() {
	e := d.engine
	now := e.wallClock()
	e.book.NextAt = now.Add(d.fetchIn()) // the wall clock may have been set since
	e.book = e.book.Start(e.config.Ranges.Schedule, now, false, rand.Float64)
	d.scheduleFetch()
}

// beginFetch does the fetch that is due. That it was begun is written down
// first: a daemon that dies of it must not begin it again at once, for ever.
func (d *Daemon) beginFetch(ctx context.Context) {
	e := d.engine
	e.book = e.book.Begin(e.config.Ranges.Schedule, e.wallClock(), rand.Float64)
	e.save()
	d.fetching = true
	go d.fetch(ctx, e.config.Ranges.Source, func(ipranges.Outcome, error) { d.fetching = false })
}

const (
	// retryOnLink is how soon a fetch that failed is tried again when something
	// about the network has changed,
	retryOnLink = 5 * time.Second
	// restAfterTry unless the last try is not over for longer than this: one
	// change is many messages.
	restAfterTry = time.Minute
)

// hurryFetch tries again what failed: the network may be back.
func (d *Daemon) hurryFetch() {
	book := &d.engine.book
	rested := d.engine.sinceBoot()-d.triedAt > restAfterTry
	if book.Failures > 0 && rested && book.MayRetry() && d.fetchIn() > retryOnLink {
		book.NextIsRetry = true
		d.fetchAt = d.engine.sinceBoot() + retryOnLink
	}
}

// fetch gets the list outside of the loop, which a slow server must not hold
// up, and lets the loop decide about it. Done is called in the loop, unless
// that has ended, or whoever asked is gone.
func (d *Daemon) fetch(ctx context.Context, s ipranges.Source, done func(ipranges.Outcome, error)) {
	answer, failed := d.engine.fetch(ctx, s)
	if ctx.Err() != nil {
		return // whoever asked has gone: that says nothing about the list
	}
	_ = d.do(ctx, func(ctx context.Context) {
		outcome, err := d.engine.Offer(ctx, answer, failed)
		if err != nil {
			d.passed(Report{}, err)
		}
		d.scheduleFetch()
		d.triedAt = d.engine.sinceBoot()
		done(outcome, err)
	})
}
