package ipranges

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func schedule(t testing.TB, expr string) Schedule {
	t.Helper()
	s, err := ParseSchedule(expr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseScheduleRefuses(t *testing.T) {
	for _, expr := range []string{
		"", " ", "6h", "every 6h", "@every", "@every 6", "@every x", "@every 0s", "@every -6h", "@every 59s", "@never", "* * * *", "* * * * * *",
		"60 * * * *", "0 0 31 2 *", "0 0 30 2 *", "TZ=UTC", "TZ=", "CRON_TZ=", "CRON_TZ=UTC ", " TZ=UTC", "TZ=Nowhere/At_All 0 * * * *", "TZ= 0 * * * *x", "*/0 * * * *", "5-1 * * * *",
	} {
		if s, err := ParseSchedule(expr); err == nil {
			t.Errorf("%q was taken: %+v", expr, s)
		}
	}
}

// The reason must be the right one: these look alike from inside.
func TestParseScheduleSaysWhy(t *testing.T) {
	for expr, want := range map[string]string{
		"0 0 31 2 *": "there is no such day", "@every 30s": "more than once a minute", "TZ=UTC": "only a time zone",
	} {
		if _, err := ParseSchedule(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", expr, err, want)
		}
	}
}

func TestNextWithoutFailures(t *testing.T) {
	now := time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)
	tests := []struct {
		expr     string
		from, to time.Duration // since now
	}{
		{"@every 6h", 6 * time.Hour, 6*time.Hour + 36*time.Minute},
		{"@every 1m", time.Minute, 66 * time.Second},
		{"@hourly", time.Hour, 66 * time.Minute},
		{"@daily", 16 * time.Hour, 18*time.Hour + 24*time.Minute},
		{"30 */6 * * *", 4*time.Hour + 30*time.Minute, 5*time.Hour + 6*time.Minute},
		{"0 9,10 * * *", time.Hour, time.Hour + 6*time.Minute},                    // an hour until the next
		{"0 10,9 * * 1-5", time.Hour, time.Hour + 6*time.Minute},                  // the order does not matter
		{"TZ=Asia/Tokyo 0 18 * * *", time.Hour, 204 * time.Minute},                // 18:00 in Tokyo is 09:00 UTC
		{" 0 9 * * * ", time.Hour, 3*time.Hour + 24*time.Minute},                  // blanks around
		{"0 0 29 2 *", 483 * 24 * time.Hour, 483*24*time.Hour + 147*24*time.Hour}, // 2028
		{"0 9 2 11 *", time.Hour, time.Hour + 8760*6*time.Minute},                 // once a year
		{"@every 6h0m0.5s", 6 * time.Hour, 6*time.Hour + 36*time.Minute},          // whole seconds
	}
	for _, tt := range tests {
		t.Run(tt.expr, func(t *testing.T) {
			s := schedule(t, tt.expr)
			for _, r := range []float64{0, 0.3, 0.999999} {
				if got := s.Next(now, 0, func() float64 { return r }).Sub(now); got < tt.from || got > tt.to {
					t.Errorf("in %v, want %v to %v", got, tt.from, tt.to)
				}
			}
		})
	}
}

// A fetch at a clock time, however late, is followed by one at the next.
func TestNextMeetsEveryClockTimeOnce(t *testing.T) {
	s := schedule(t, "0 9,10,21 * * *")
	now := start
	fetches := 0
	for now.Before(start.AddDate(0, 0, 100)) {
		now = s.Next(now, 0, rand.Float64)
		fetches++
	}
	if fetches < 299 || fetches > 301 {
		t.Errorf("%d fetches in 100 days", fetches)
	}
}

func TestNextAfterFailures(t *testing.T) {
	s := schedule(t, "@every 6h")
	for failures := 1; failures <= 100; failures++ {
		least := min(time.Minute<<min(failures-1, 20), 6*time.Hour)
		for _, r := range []float64{0, 0.5, 0.999999} {
			got := s.Next(start, failures, func() float64 { return r }).Sub(start)
			if got < least || got > min(2*least, 6*time.Hour+36*time.Minute) {
				t.Errorf("%d failures: in %v, at least %v", failures, got, least)
			}
		}
	}
	if got := schedule(t, "@every 2m").Next(start, 5, func() float64 { return 0 }).Sub(start); got != 2*time.Minute {
		t.Errorf("a short interval is the cap: %v", got)
	}
	if got := schedule(t, "@daily").Next(start, 1, func() float64 { return 0 }).Sub(start); got != time.Minute {
		t.Errorf("a clock time is not waited for: %v", got)
	}
}

// year fetches for 365 days and returns when, and how each fetch went.
func year(t *testing.T, fails func(n int, now time.Time) bool) (times []time.Time, failed []bool) {
	s := schedule(t, "@every 6h")
	r := rand.New(rand.NewPCG(3, 4))
	failures := 0
	for n, now := 0, start; now.Before(start.AddDate(0, 0, 365)); n++ {
		bad := fails(n, now)
		times, failed = append(times, now), append(failed, bad)
		if failures++; !bad {
			failures = 0
		}
		now = s.Next(now, failures, r.Float64)
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

// 365 days of which half the fetches fail.
func TestScheduleForAYear(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	tests := []struct {
		name     string
		fails    func(n int, now time.Time) bool
		mostADay int     // in any 24 hours
		average  float64 // a day
	}{
		{"none fails", func(int, time.Time) bool { return false }, 4, 4},
		{"every second fails", func(n int, _ time.Time) bool { return n%2 == 0 }, 8, 8},
		{"half of them fail at random", func(int, time.Time) bool { return r.IntN(2) == 0 }, 24, 8},
		{"every second day is lost", func(_ int, now time.Time) bool { return now.YearDay()%2 == 0 }, 16, 8},
		{"all fail", func(int, time.Time) bool { return true }, 16, 4.2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			times, failed := year(t, tt.fails)
			average := float64(len(times)) / 365
			t.Logf("%.2f fetches a day, at most %d in 24 hours", average, most(times))
			if average > tt.average || most(times) > tt.mostADay {
				t.Errorf("want at most %v and %d", tt.average, tt.mostADay)
			}
			for i := 1; i < len(times); i++ {
				gap := times[i].Sub(times[i-1])
				if gap > 7*time.Hour || gap < time.Minute || !failed[i-1] && gap < 6*time.Hour-time.Second {
					t.Fatalf("gap of %v after %v (failed: %v)", gap, times[i-1], failed[i-1])
				}
			}
		})
	}
}

// 10,000 hosts that start together do not ask together, hours later.
func TestScheduleSpreadsHosts(t *testing.T) {
	tests := []struct {
		expr     string
		failures int
	}{{"@every 6h", 0}, {"0 */6 * * *", 0}, {"@every 6h", 6}, {"@every 6h", 50}}
	for _, tt := range tests {
		s := schedule(t, tt.expr)
		r := rand.New(rand.NewPCG(5, 6))
		minutes := map[int]int{}
		for range 10000 {
			minutes[int(s.Next(start, tt.failures, r.Float64).Sub(start)/time.Minute)]++
		}
		for minute, n := range minutes {
			if n > 500 {
				t.Errorf("%s, %d failures: %d of 10000 hosts in minute %d", tt.expr, tt.failures, n, minute)
			}
		}
	}
}
