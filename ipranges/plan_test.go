package ipranges

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// fetchAt is a fetch at a time, which takes half a minute; ok says how it goes.
func fetchAt(b Book, s Schedule, now time.Time, ok bool, random func() float64) Book {
	b = b.Begin(s, now, random)
	now = now.Add(30 * time.Second)
	if ok {
		b.Failures = 0
	} else {
		b, _ = b.Fail(errors.New("no answer"), now)
	}
	return b.Plan(s, now, random)
}

func TestPlanAfterFailures(t *testing.T) {
	every := schedule(t, "@every 6h")
	for _, tt := range []struct {
		expr             string
		failures         int
		retries          []int
		retry            bool
		earliest, latest time.Duration
	}{
		{"@every 6h", 1, nil, true, time.Minute, 2 * time.Minute},
		{"@every 6h", 2, []int{1}, true, 16 * time.Minute, 32 * time.Minute},
		{"@every 6h", 3, []int{2}, false, 6 * time.Hour, 396 * time.Minute},
		{"@every 6h", 1, []int{1, 0, 1, 0}, false, 6 * time.Hour, 396 * time.Minute}, // the budget is spent
		{"@every 6h", 1 << 40, nil, false, 6 * time.Hour, 396 * time.Minute},
		{"@weekly", 1, nil, true, time.Minute, 2 * time.Minute},
		{"@weekly", 9, nil, false, 6 * time.Hour, 396 * time.Minute}, // a week is too long without an answer
		{"@weekly", 0, nil, false, 24 * time.Hour, 9 * 24 * time.Hour},
		{"@every 1m", 1, nil, false, time.Minute, 66 * time.Second}, // by the schedule anyhow
	} {
		for _, r := range []float64{0, 0.5, 0.999999} {
			b := Book{Failures: tt.failures, Retries: tt.retries}.Plan(schedule(t, tt.expr), start, func() float64 { return r })
			if wait := b.NextAt.Sub(start); wait < tt.earliest || wait > tt.latest || b.NextIsRetry != (tt.retry && wait < 6*time.Hour) {
				t.Errorf("%s, %d failures, retries %v: in %v, a retry: %v", tt.expr, tt.failures, tt.retries, wait, b.NextIsRetry)
			}
		}
	}
	if b := (Book{Failures: 3}).Plan(every, start, rand.Float64); !b.MayRetry() {
		t.Error("there is no retry left for when the network is back")
	}
}

func TestStart(t *testing.T) {
	half := func() float64 { return 0.5 }
	for name, tt := range map[string]struct {
		planned       time.Duration // 0: never
		booting       bool
		earliest, end time.Duration
	}{
		"new":                          {0, false, 0, 0},
		"new, the host boots":          {0, true, 15 * time.Minute, 15 * time.Minute},
		"overdue":                      {-time.Hour, false, 0, 0},
		"overdue, the host boots":      {-time.Hour, true, 15 * time.Minute, 15 * time.Minute},
		"overdue by years":             {-10 * 365 * 24 * time.Hour, false, 0, 0},
		"to come":                      {time.Hour, false, time.Hour, time.Hour},
		"to come, the host boots":      {time.Minute, true, time.Minute, time.Minute},
		"in years":                     {10 * 365 * 24 * time.Hour, false, 6 * time.Hour, 7 * time.Hour},
		"another schedule's":           {20 * time.Hour, true, 6 * time.Hour, 7 * time.Hour},
		"as late as this one's can be": {396 * time.Minute, false, 396 * time.Minute, 396 * time.Minute},
	} {
		var b Book
		if tt.planned != 0 {
			b.NextAt = start.Add(tt.planned)
		}
		if wait := b.Start(schedule(t, "@every 6h"), start, tt.booting, half).NextAt.Sub(start); wait < tt.earliest || wait > tt.end {
			t.Errorf("%s: in %v, want %v to %v", name, wait, tt.earliest, tt.end)
		}
	}
}

// year fetches for 365 days and returns when, and how each fetch went.
func year(t *testing.T, expr string, fails func(n int, now time.Time) bool) (times []time.Time, failed []bool) {
	s := schedule(t, expr)
	r := rand.New(rand.NewPCG(3, 4))
	b := Book{NextAt: start}
	for n := 0; b.NextAt.Before(start.AddDate(0, 0, 365)); n++ {
		now, bad := b.NextAt, fails(n, b.NextAt)
		times, failed = append(times, now), append(failed, bad)
		b = fetchAt(b, s, now, !bad, r.Float64)
	}
	return times, failed
}

// most is the largest number of fetches in any 24 hours.
func most(times []time.Time) int {
	n, first := 0, 0
	for i := range times {
		for times[i].Sub(times[first]) >= 24*time.Hour {
			first++
		}
		n = max(n, i-first+1)
	}
	return n
}

// 365 days of which half the fetches fail. A fetch here is one of the list: of
// the API and of the two pages that it is checked against.
func TestPlanForAYear(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	half := func(int, time.Time) bool { return r.IntN(2) == 0 }
	hour := time.Hour
	tests := []struct {
		name, expr string
		fails      func(n int, now time.Time) bool
		mostADay   int // in any 24 hours
		gap        time.Duration
	}{
		{"none fails", "@every 6h", func(int, time.Time) bool { return false }, 4, 7 * hour},
		{"every second fails", "@every 6h", func(n int, _ time.Time) bool { return n%2 == 0 }, 8, 7 * hour},
		{"half of them fail at random", "@every 6h", half, 8, 7 * hour},
		{"every second day is lost", "@every 6h", func(_ int, now time.Time) bool { return now.YearDay()%2 == 0 }, 8, 7 * hour},
		{"all fail", "@every 6h", func(int, time.Time) bool { return true }, 8, 7 * hour},
		{"half of them, with a clock time", "0 5 * * *", half, 8, 29 * hour},
		{"all, once a week", "@weekly", func(int, time.Time) bool { return true }, 8, 7 * hour},
		{"half of them, every hour", "@every 1h", half, 48, 70 * time.Minute},
		{"half of them, every five minutes", "@every 5m", half, 2 * 288, 7 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			times, failed := year(t, tt.expr, tt.fails)
			t.Logf("%.2f fetches a day, at most %d in 24 hours", float64(len(times))/365, most(times))
			if most(times) > tt.mostADay {
				t.Errorf("want at most %d", tt.mostADay)
			}
			for i := 1; i < len(times); i++ {
				gap := times[i].Sub(times[i-1])
				if gap > tt.gap || gap < time.Minute || tt.expr == "@every 6h" && !failed[i-1] && gap < 6*hour {
					t.Fatalf("gap of %v after %v (failed: %v)", gap, times[i-1], failed[i-1])
				}
			}
		})
	}
}

// fleet fetches on many hosts that boot together, and counts by the minute.
func fleet(hosts, days int, s Schedule, before Book, failing float64) (minutes []int) {
	r := rand.New(rand.NewPCG(5, 6))
	minutes = make([]int, days*24*60)
	end := start.AddDate(0, 0, days)
	for range hosts {
		b := before.Start(s, start, true, r.Float64)
		for b.NextAt.Before(end) {
			minutes[b.NextAt.Sub(start)/time.Minute]++
			b = fetchAt(b, s, b.NextAt, r.Float64() >= failing, r.Float64)
		}
	}
	return minutes
}

// 10,000 hosts boot together, for the first time or after a night. No minute of
// the days that follow sees more than 5 % of the fetches, each host's regular one
// and the retries of those that fail; nor does a minute of a year, with fewer hosts.
func TestHostsThatBootTogether(t *testing.T) {
	overdue := Book{NextAt: start.Add(-time.Hour), Retries: []int{0, 1, 0, 0}}
	for _, tt := range []struct {
		name        string
		expr        string
		hosts, days int
		before      Book
		failing     float64
	}{
		{"new", "@every 6h", 10000, 3, Book{}, 0},
		{"overdue", "@every 6h", 10000, 3, overdue, 0},
		{"a wrong clock's plan", "@every 6h", 10000, 3, Book{NextAt: start.AddDate(10, 0, 0)}, 0},
		{"half of the fetches fail", "@every 6h", 10000, 3, overdue, 0.5},
		{"all fetches fail", "@every 6h", 10000, 3, Book{}, 1},
		{"at clock times", "0 */6 * * *", 10000, 1, overdue, 0.5},
		{"a year", "@every 6h", 2000, 365, Book{}, 0.1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			busiest, when := 0, 0
			for minute, n := range fleet(tt.hosts, tt.days, schedule(t, tt.expr), tt.before, tt.failing) {
				if n > busiest {
					busiest, when = n, minute
				}
			}
			share := float64(busiest) / (float64(tt.hosts) * (1 + tt.failing))
			t.Logf("the busiest minute is %d: %d fetches of %d hosts, %.1f %%", when, busiest, tt.hosts, 100*share)
			if share > 0.05 {
				t.Error("want at most 5 %")
			}
		})
	}
}
