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

func TestNext(t *testing.T) {
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
				if got := s.Next(now, func() float64 { return r }).Sub(now); got < tt.from || got > tt.to {
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
		now = s.Next(now, rand.Float64)
		fetches++
	}
	if fetches < 299 || fetches > 301 {
		t.Errorf("%d fetches in 100 days", fetches)
	}
}

// The mean interval is that of the schedule and half of the jitter, for years:
// no rounding, and no fraction of a second, makes it creep.
func TestNextDoesNotDrift(t *testing.T) {
	for _, expr := range []string{"@every 6h", "0 */6 * * *"} {
		s := schedule(t, expr)
		r := rand.New(rand.NewPCG(7, 8))
		const fetches = 10 * 365 * 4
		now, late := start.Add(123456789), time.Duration(0)
		for range fetches {
			next := s.Next(now, r.Float64)
			if expr == "@every 6h" && next.Sub(now) < 6*time.Hour {
				t.Fatalf("%s: %v is less than the interval", expr, next.Sub(now))
			}
			late += next.Sub(s.after(now))
			now = next
		}
		if mean := late / fetches; (mean - 18*time.Minute).Abs() > 20*time.Second {
			t.Errorf("%s: late by %v in the mean, want 18 minutes", expr, mean)
		}
	}
}

// Clocks that go on and back by an hour neither make fetches many nor rare.
func TestNextAcrossSummerTime(t *testing.T) {
	s := schedule(t, "TZ=Europe/Berlin 0 */6 * * *")
	now, end := s.after(start), start.AddDate(1, 0, 0)
	for now.Before(end) {
		next := s.Next(now, rand.Float64)
		if gap := next.Sub(now); gap < 4*time.Hour || gap > 8*time.Hour {
			t.Errorf("%v after %v", gap, now)
		}
		now = next
	}
}
