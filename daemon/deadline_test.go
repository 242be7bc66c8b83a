package daemon

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

const tenYears = 10 * 365 * 24 * time.Hour

func TestDeadline(t *testing.T) {
	set := moment{time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC), "a boot", 5 * time.Hour}
	d := set.in(time.Hour)
	b, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(b, &d) // as from disk
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		passed, stepped time.Duration
		boot            string
		left            time.Duration
	}{
		"at once":                           {left: time.Hour},
		"half an hour later":                {passed: 30 * time.Minute, left: 30 * time.Minute},
		"and the clock is set to the past":  {passed: 30 * time.Minute, stepped: -tenYears, left: 30 * time.Minute},
		"and to the future":                 {passed: 30 * time.Minute, stepped: tenYears, left: 30 * time.Minute},
		"afterwards":                        {passed: 2 * time.Hour, stepped: -tenYears, left: -time.Hour},
		"after a reboot":                    {passed: 20 * time.Minute, boot: "another", left: 40 * time.Minute},
		"a reboot without a battery":        {stepped: -tenYears, boot: "another", left: time.Hour},
		"a reboot into the future":          {stepped: tenYears, boot: "another", left: time.Hour - tenYears},
		"a reboot that took until the time": {passed: time.Hour, boot: "another", left: 0},
	} {
		now := moment{set.wall.Add(c.passed + c.stepped), set.boot, set.up + c.passed}
		if c.boot != "" {
			now.boot, now.up = c.boot, time.Minute
		}
		if left := d.left(now); left != c.left {
			t.Errorf("%s: %v are left, want %v", name, left, c.left)
		}
		if at, want := d.at(now), now.wall.Add(c.left); !at.Equal(want) {
			t.Errorf("%s: it is told as %v, want %v", name, at, want)
		}
		later := moment{now.wall.Add(-tenYears), now.boot, now.up + time.Minute}
		if left := d.here(now).left(later); left != c.left-time.Minute {
			t.Errorf("%s, a minute later: %v are left, want %v", name, left, c.left-time.Minute)
		}
	}
}

// A deadline is told in the same words each time: the two clocks are not read at
// the same instant.
func TestDeadlineIsToldInTheSameWords(t *testing.T) {
	now := moment{time.Date(2026, 11, 28, 10, 0, 0, 500, time.UTC), "a boot", time.Hour}
	d := now.in(time.Minute)
	for _, jitter := range []time.Duration{0, -time.Microsecond, time.Microsecond} {
		later := moment{now.wall.Add(30*time.Second + jitter), now.boot, now.up + 30*time.Second}
		if want := time.Date(2026, 11, 28, 10, 1, 0, 500, time.UTC); !d.at(later).Equal(want) {
			t.Errorf("told as %v, want %v", d.at(later), want)
		}
	}
}

// What versions before have written is read.
func TestOlderStateFiles(t *testing.T) {
	e, _, _ := newTestEngine(t)
	now := e.clock()
	expires := now.wall.Add(time.Hour).Round(0).Truncate(time.Second)
	writeFile(t, e.paths.allow(), `[{"network":"198.51.100.7/32","expires":"`+expires.Format(time.RFC3339)+`"}]`)
	writeFile(t, e.paths.off(), `{"since":"2026-11-28T10:00:00Z","until":"`+expires.Format(time.RFC3339Nano)+`"}`)
	e.LoadState()
	entries := e.state.current(now)
	if len(entries) != 1 || entries[0].Expires.Sub(expires).Abs() > time.Second {
		t.Errorf("the entries are %v, want one until %v", entries, expires)
	}
	if off := e.state.off.at(now); !e.state.isOff(now) || off.Until.Sub(expires).Abs() > time.Second {
		t.Errorf("off is %+v, want until %v", off, expires)
	}
	writeFile(t, e.paths.off(), `{"since":"2026-11-28T10:00:00Z","until":"9999-01-01T00:00:00Z"}`)
	writeFile(t, e.paths.allow(), `[{"network":"198.51.100.7/32","expires":"9999-01-01T00:00:00Z"}]`)
	e.LoadState()
	entries = e.state.current(now)
	if !e.state.isOff(now) || len(entries) != 1 || entries[0].Expires.Sub(now.wall) > longestAllow+2*time.Second {
		t.Errorf("far ahead: off %v, entries %v", e.state.isOff(now), entries)
	}
}

// A clock that is set, and a host that sleeps, do not move what was to end.
func TestTemporaryWhileTheClockJumps(t *testing.T) {
	for name, jump := range map[string]func(*fakeClock){
		"the clock is right":    func(*fakeClock) {},
		"ten years ahead":       func(c *fakeClock) { c.stepped = tenYears },
		"ten years back":        func(c *fakeClock) { c.stepped = -tenYears },
		"suspended for an hour": func(c *fakeClock) { c.suspended = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := &fakeClock{}
				d := startDaemon(t, func(d *testDaemon) { clock.giveTo(d.engine) })
				d.in(t, func(ctx context.Context) {
					_, err := d.engine.Allow(ctx, netip.MustParsePrefix("198.51.100.7/32"), 3*time.Hour)
					if err == nil {
						_, err = d.engine.Off(ctx, 2*time.Hour)
					}
					if err != nil {
						t.Error(err)
					}
					d.passAt = time.Now()
				})
				time.Sleep(30 * time.Minute)
				clock.set(jump)
				expect := func(when string, off, allowed bool) {
					t.Helper()
					synctest.Wait()
					if d.admits(t, "203.0.113.9", 443) != off {
						t.Errorf("%s: off is %v, want %v", when, !off, off)
					}
					if d.admits(t, "198.51.100.7", 443) != (off || allowed) {
						t.Errorf("%s: the entry holds: %v, want %v", when, !allowed, allowed)
					}
				}
				left := 90*time.Minute - clock.suspended
				time.Sleep(left - time.Second)
				expect("a second before", true, true)
				time.Sleep(2 * time.Second)
				expect("a second after", false, true)
				time.Sleep(time.Hour - 2*time.Second)
				expect("before the entry ends", false, true)
				time.Sleep(2 * time.Second)
				expect("after the entry has ended", false, false)
			})
		})
	}
}

// After a reboot the wall clock says what is left, and from then on nothing
// that is done to it.
func TestTemporaryAfterAReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := newTestEngine(t)
		clock := &fakeClock{}
		e.self.Running = true
		clock.giveTo(e)
		network := netip.MustParsePrefix("198.51.100.7/32")
		if _, err := e.Allow(t.Context(), network, 2*time.Hour); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Off(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		clock.boots++
		clock.giveTo(e)
		e.LoadState()
		clock.stepped = tenYears
		time.Sleep(39 * time.Minute)
		if m := e.clock(); !e.state.isOff(m) || len(e.state.current(m)) != 1 {
			t.Errorf("an hour is not over yet: %+v", e.state)
		}
		time.Sleep(2 * time.Minute)
		if m := e.clock(); e.state.isOff(m) || len(e.state.current(m)) != 1 {
			t.Errorf("an hour is over, and two are not: %+v", e.state)
		}
		time.Sleep(time.Hour)
		if m := e.clock(); len(e.state.current(m)) != 0 {
			t.Errorf("two hours are over: %+v", e.state)
		}
	})
}

func TestBootID(t *testing.T) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || bootID() == "" || bootID()+"\n" != string(id) {
		t.Errorf("got %q; the kernel says %q, %v", bootID(), id, err)
	}
}

// The wall clock is asked once after a reboot: a wrong one must not give the whole
// time again at each start of the daemon.
func TestTemporaryAfterARebootAndRestarts(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.in(t, func(ctx context.Context) {
			_, err := r.engine.Allow(ctx, netip.MustParsePrefix("198.51.100.7/32"), 25*time.Minute)
			if _, errOff := r.engine.Off(ctx, 15*time.Minute); err != nil || errOff != nil {
				t.Error(err, errOff)
			}
		})
		r.restart(func() { r.clock.boots++; r.clock.stepped = -tenYears })
		for _, open := range []string{"off", "the entry", "neither"} {
			time.Sleep(10 * time.Minute)
			r.restart(nil)
			off, allowed := r.admits(t, "203.0.113.9", 8443), r.admits(t, "198.51.100.7", 8443)
			if off != (open == "off") || allowed != (open != "neither") {
				t.Errorf("off %v, allowed %v, want %s to hold", off, allowed, open)
			}
		}
	})
}
