package ipranges

import (
	"slices"
	"time"

	"github.com/robfig/cron/v3"
)

// How often is fetched. A fetch is regular, or the retry of one that failed.
// Retries are bounded by what is regular, not by a clock, which may be set: with
// "@every 6h" four regular fetches take a day, so that no 24 hours see more than
// eight fetches, and a schedule that asks for more gets twice what it asks for.
const (
	window      = 4 // regular fetches that are looked back at
	mostRetries = 4 // of these, together
	planned     = 2 // so many of the retries by the clock; the rest is for when the network changes
	firstRetry  = time.Minute
	retryGrowth = 16 // the second retry waits so many times longer
	// bootSpread is how long after the start of many hosts the last of them fetches.
	bootSpread = 30 * time.Minute
)

// whileFailing is the schedule of those that have a rarer one and no answer.
var whileFailing = Schedule{cron.Every(6 * time.Hour)}

// Plan says when to fetch next, after a fetch that ended now: by the schedule,
// or, if it failed, 1 to 2 minutes later, and 16 to 32 after a second failure.
func (b Book) Plan(s Schedule, now time.Time, random func() float64) Book {
	b.NextAt, b.NextIsRetry = s.Next(now, random), false
	if b.Failures == 0 {
		return b
	}
	b.NextAt = earlier(b.NextAt, whileFailing.Next(now, random))
	if b.Failures > planned || b.retries() >= planned {
		return b
	}
	wait := firstRetry
	if b.Failures == planned {
		wait *= retryGrowth
	}
	retry := now.Add(wait + time.Duration(random()*float64(wait)))
	if retry.Before(b.NextAt) {
		b.NextAt, b.NextIsRetry = retry, true
	}
	return b
}

// Begin counts the fetch that begins now, and plans the next as if this one
// failed, in case that nobody lives to say how it went.
func (b Book) Begin(s Schedule, now time.Time, random func() float64) Book {
	retries := slices.Clone(b.Retries)
	if !b.NextIsRetry || len(retries) == 0 {
		retries = append(retries, 0)
	}
	if b.NextIsRetry {
		retries[len(retries)-1]++
	}
	b.Retries = retries[max(0, len(retries)-window):]
	failed := b
	failed.Failures++
	failed = failed.Plan(s, now, random)
	b.NextAt, b.NextIsRetry = failed.NextAt, failed.NextIsRetry
	return b
}

// Start is for a daemon that starts, or has a new schedule: a fetch that is
// overdue, or was never planned, is due now. If the host is booting it is due at
// some time in the next half an hour: other hosts may be booting with it. A plan
// that another schedule made, or a wrong clock, does not stand.
func (b Book) Start(s Schedule, now time.Time, booting bool, random func() float64) Book {
	latest := s.Next(now, func() float64 { return 1 })
	switch {
	case b.NextAt.After(latest):
		b.NextAt, b.NextIsRetry = s.Next(now, random), false
	case b.NextAt.After(now):
	case booting:
		b.NextAt = now.Add(time.Duration(random() * float64(bootSpread)))
	default:
		b.NextAt = now
	}
	return b
}

// MayRetry reports whether what failed may be tried again before its time.
func (b Book) MayRetry() bool { return b.retries() < mostRetries }

func (b Book) retries() (n int) {
	for _, followed := range b.Retries {
		n += followed
	}
	return n
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
