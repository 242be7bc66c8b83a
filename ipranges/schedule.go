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

// Next is when to fetch again after a fetch that ended now: the schedule's next
// tick, or later by up to a tenth of the interval that follows it. It is never
// earlier: a fetch before a clock time would meet the same clock time again, and
// with "@every 6h" no 24 hours see more than four regular fetches. Random returns
// numbers in [0, 1).
func (s Schedule) Next(now time.Time, random func() float64) time.Time {
	tick := s.after(now)
	interval := s.after(tick).Sub(tick)
	return tick.Add(time.Duration(random() * spread * float64(interval)))
}

// after is the first tick after a time. The parser's "@every" rounds down to a
// whole second, so that four intervals of 6 hours would be less than a day.
func (s Schedule) after(t time.Time) time.Time {
	if every, ok := s.ticks.(cron.ConstantDelaySchedule); ok {
		return t.Add(every.Delay)
	}
	return s.ticks.Next(t)
}
