package ipranges

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

const (
	// shortestInterval is as often as a schedule may fetch; the list changes
	// once in years.
	shortestInterval = time.Minute
	// firstRetry is the wait after the first failure. It doubles with each.
	firstRetry = time.Minute
	// spread is how much of the interval a fetch may be late: hosts that were
	// booted together, or share a schedule, must not ask together.
	spread = 0.1
)

// Schedule says when to fetch.
type Schedule struct {
	ticks cron.Schedule
}

// ParseSchedule reads a cron expression of five fields ("17 */6 * * *"), or
// "@every 6h", "@daily" and the like. A schedule that would never fetch, or
// more than once a minute, is an error.
func ParseSchedule(expr string) (Schedule, error) {
	expr = strings.TrimSpace(expr)
	if strings.Contains(expr, "TZ=") && !strings.Contains(expr, " ") {
		return Schedule{}, fmt.Errorf("reading the schedule %q: there is only a time zone", expr) // the parser would panic
	}
	ticks, err := cron.ParseStandard(expr)
	if err != nil {
		return Schedule{}, fmt.Errorf("reading the schedule %q: %w", expr, err)
	}
	first := ticks.Next(time.Unix(0, 0))
	if first.IsZero() {
		return Schedule{}, fmt.Errorf("reading the schedule %q: there is no such day", expr)
	}
	if ticks.Next(first).Sub(first) < shortestInterval {
		return Schedule{}, fmt.Errorf("reading the schedule %q: it fetches more than once a minute", expr)
	}
	return Schedule{ticks}, nil
}

// Next is when to fetch again, after a fetch that ended now and failures
// without a usable answer in a row. Random returns numbers in [0, 1).
//
// Without failures that is the schedule's next tick, or later by up to a tenth
// of the interval that follows it. It is never earlier: a fetch before a clock
// time would meet the same clock time again, and with "@every 6h" no day sees
// more than four regular fetches. After failures it is 1 to 2 minutes, 2 to 4,
// 4 to 8 and so on, but never later than without failures.
func (s Schedule) Next(now time.Time, failures int, random func() float64) time.Time {
	tick := s.ticks.Next(now)
	interval := s.ticks.Next(tick).Sub(tick)
	regular := tick.Add(time.Duration(random() * spread * float64(interval)))
	if failures <= 0 {
		return regular
	}
	const enough = 16 // doublings: 45 days
	wait := firstRetry << min(failures-1, enough)
	retry := now.Add(wait + time.Duration(random()*float64(wait)))
	if retry.Before(regular) {
		return retry
	}
	return regular
}
