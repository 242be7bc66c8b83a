package daemon

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/ipranges"
)

// hostClocks are those of a host that sleeps and whose clock is set. The clock of
// the test stands for the one that its timers go by, which stands still in sleep.
type hostClocks struct {
	begun       time.Time
	slept, step atomic.Int64
}

func (c *hostClocks) sinceBoot() time.Duration {
	return time.Since(c.begun) + time.Duration(c.slept.Load())
}

func (c *hostClocks) wall() time.Time {
	return c.begun.Add(c.sinceBoot() + time.Duration(c.step.Load())).Round(0)
}

// answer is the list as it is.
func (c *hostClocks) answer() (ipranges.Answer, error) {
	return ipranges.Answer{List: ipranges.Embedded().List, From: ipranges.FromAPI, At: c.wall(), Agreement: ipranges.Agree}, nil
}

// givenClocks makes a host with a table that costs little, and clocks.
func givenClocks(t *testing.T, d *testDaemon, c *hostClocks) {
	t.Helper()
	d.engine.host = func() (firewall.Host, error) { return firewall.Host{}, nil }
	writeFile(t, d.engine.paths.Config, "mode = \"tunnel\"\n")
	c.begun = time.Now()
	d.engine.sinceBoot, d.engine.wallClock, d.fetcher.answer = c.sinceBoot, c.wall, c.answer
}

// 365 days of a host of which half the fetches fail, whose network comes and
// goes, which is put to sleep, whose clock is set, and whose config is reloaded.
// A fetch is one of the list: of the API and of the pages that check it.
func TestAYearOfFetches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var y fetchYear
		d := startDaemon(t, func(d *testDaemon) {
			givenClocks(t, d, &y.hostClocks)
			d.engine.log = slog.New(slog.DiscardHandler)
			d.opts.Log = d.engine.log
			d.engine.fetcher = &y
		})
		random := rand.New(rand.NewPCG(9, 2026))
		for time.Since(y.begun) < 365*24*time.Hour {
			time.Sleep(time.Duration(random.ExpFloat64() * float64(4*time.Hour)))
			switch random.IntN(12) {
			case 0:
				y.sleep(time.Duration(random.ExpFloat64() * float64(12*time.Hour)))
			case 1, 2:
				y.set(clockSteps[random.IntN(len(clockSteps))])
			case 3:
				d.reload <- syscall.SIGHUP
			default:
				d.hostChanged <- struct{}{}
			}
		}
		synctest.Wait()
		d.in(t, func(context.Context) { y.check(t) })
	})
}

var clockSteps = []time.Duration{
	10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour, 12 * time.Hour, -12 * time.Hour, time.Hour, -time.Hour, 90 * time.Second, -90 * time.Second, 0,
}

// fetchYear notes when a host fetches, by a clock that is always right.
type fetchYear struct {
	hostClocks
	wakes []time.Duration // when the host woke up
	tries []fetchTry
}

type fetchTry struct {
	at    time.Duration
	ended time.Duration
	ok    bool
}

func (y *fetchYear) set(step time.Duration) { y.step.Store(int64(step)) }

func (y *fetchYear) sleep(lasting time.Duration) {
	y.slept.Add(int64(lasting))
	y.wakes = append(y.wakes, y.sinceBoot())
}

func (y *fetchYear) Fetch(context.Context, ipranges.Source) (ipranges.Answer, error) {
	try := fetchTry{at: y.sinceBoot(), ok: rand.IntN(2) == 0}
	time.Sleep(rand.N(30 * time.Second))
	try.ended = y.sinceBoot()
	y.tries = append(y.tries, try)
	if !try.ok {
		return ipranges.Answer{}, errDown
	}
	return y.answer()
}

func (y *fetchYear) check(t *testing.T) {
	most, failed := 0, 0
	for i, try := range y.tries {
		in24 := 0
		for j := i; j < len(y.tries) && y.tries[j].at < try.at+24*time.Hour; j++ {
			in24++
		}
		most = max(most, in24)
		if !try.ok {
			failed++
		}
		// The host may have slept in the middle of the fetch before.
		if i > 0 && try.at-y.tries[i-1].ended > 7*time.Hour && !y.wokeBefore(try.at) {
			t.Errorf("nothing was fetched for %v until %v", try.at-y.tries[i-1].ended, try.at)
		}
	}
	if most > 8 {
		t.Errorf("%d fetches in 24 hours", most)
	}
	t.Logf("%d fetches, of which %d failed, at most %d in 24 hours; %d times asleep", len(y.tries), failed, most, len(y.wakes))
	middle := len(y.tries) / 2
	meanInterval(t, "the first half", y.tries[:middle])
	meanInterval(t, "the second half", y.tries[middle:])
}

// wokeBefore holds for a fetch that was overdue when the host woke up.
func (y *fetchYear) wokeBefore(at time.Duration) bool {
	for _, wake := range y.wakes {
		if wake <= at && at-wake <= sweepInterval+time.Second {
			return true
		}
	}
	return false
}

// meanInterval checks that after a good fetch the next comes 6 hours and 0 to 36
// minutes later, 18 in the mean.
func meanInterval(t *testing.T, when string, tries []fetchTry) {
	sum, n := time.Duration(0), time.Duration(0)
	for i := 1; i < len(tries); i++ {
		interval := tries[i].at - tries[i-1].ended
		if !tries[i-1].ok {
			continue
		}
		if interval < 6*time.Hour {
			t.Errorf("%s: a fetch %v after a good one", when, interval)
		}
		if interval <= 7*time.Hour { // else the host was asleep
			sum, n = sum+interval, n+1
		}
	}
	if mean := sum / n; (mean - 6*time.Hour - 18*time.Minute).Abs() > 4*time.Minute {
		t.Errorf("%s: the mean interval is %v, want 6h18m", when, mean)
	} else {
		t.Logf("%s: mean interval %v of %d", when, mean.Round(time.Second), n)
	}
}

// After a step of the clock, and after sleep, the next fetch is in time.
func TestFetchAfterTheClockIsSet(t *testing.T) {
	for _, step := range clockSteps {
		synctest.Test(t, func(t *testing.T) {
			var c hostClocks
			d := startDaemon(t, func(d *testDaemon) { givenClocks(t, d, &c) })
			time.Sleep(5 * time.Hour)
			c.step.Store(int64(step))
			d.reload <- syscall.SIGHUP // a new config takes over when the next is due
			// The first came within half an hour of the host's start, the second within
			// 6 h 36 min of that.
			time.Sleep(2*time.Hour + 10*time.Minute)
			synctest.Wait()
			if n := len(d.fetcher.times); n != 2 {
				t.Errorf("the clock is set by %v: %d fetches in 7 hours and 10 minutes, want 2", step, n)
			}
		})
	}
}

func TestOverdueFetchAfterSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c hostClocks
		d := startDaemon(t, func(d *testDaemon) { givenClocks(t, d, &c) })
		time.Sleep(time.Hour)
		c.slept.Store(int64(8 * time.Hour))
		time.Sleep(sweepInterval + time.Second)
		synctest.Wait()
		if n := len(d.fetcher.times); n != 2 {
			t.Errorf("%d fetches, want a second after a night asleep", n)
		}
	})
}

// A daemon that starts with the host may have company: 10,000 of them fetch in
// the next half an hour, at most 5 % of them in a minute. One that is started
// later fetches at once if it never did, or should have.
func TestFirstFetchAtBoot(t *testing.T) {
	e, _, _ := newTestEngine(t)
	now := time.Now()
	e.wallClock = func() time.Time { return now }
	for name, book := range map[string]ipranges.Book{"new": {}, "overdue": {NextAt: now.Add(-time.Hour), LastOutcome: ipranges.Outcome{At: now.Add(-7 * time.Hour)}}} {
		minutes := map[time.Duration]int{}
		for range 10000 {
			e.sinceBoot = func() time.Duration { return 20 * time.Second }
			e.book = book
			d := &Daemon{engine: e}
			d.startFetching()
			minutes[d.fetchIn()/time.Minute]++
		}
		for minute, n := range minutes {
			if n > 500 || minute > 30 {
				t.Errorf("%s: %d of 10000 hosts fetch in minute %d", name, n, minute)
			}
		}
		e.sinceBoot = func() time.Duration { return 2 * time.Minute }
		e.book = book
		d := &Daemon{engine: e}
		if d.startFetching(); d.fetchIn() > 0 {
			t.Errorf("%s: long after the start of the host, the first fetch is in %v", name, d.fetchIn())
		}
	}
}

// Messages about the network, each of which may mean that it is back, do not
// add up to a storm while it is not.
func TestNetworkThatFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, nil)
		for range 24 * 60 * 6 {
			time.Sleep(10 * time.Second)
			d.hostChanged <- struct{}{}
		}
		synctest.Wait()
		if n := len(d.fetcher.times); n < 6 || n > 8 {
			t.Errorf("%d fetches in a day", n)
		}
		for i := 1; i < len(d.fetcher.times); i++ {
			if gap := d.fetcher.times[i].Sub(d.fetcher.times[i-1]); gap < restAfterTry {
				t.Errorf("tried again after %v", gap)
			}
		}
	})
}

// A daemon that dies whenever it fetches, and is started again each minute, does
// not fetch more often than one that lives.
func TestDaemonThatDiesOfFetching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, fetcher := newTestEngine(t)
		fetcher.answer = nil // it is killed while it waits
		for range 2 * 24 * 60 {
			again := *e
			again.LoadState()
			d := &Daemon{engine: &again, tasks: make(chan func(context.Context)), opts: Options{Log: e.log, Level: &slog.LevelVar{}}}
			ctx, kill := context.WithTimeout(t.Context(), time.Minute-time.Second)
			if err := d.start(ctx); err != nil {
				t.Fatal(err)
			}
			d.loop(ctx, nil, nil)
			kill()
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if n := len(fetcher.times); n < 8 || n > 14 {
			t.Errorf("%d fetches in two days", n)
		}
		for i := 8; i < len(fetcher.times); i++ {
			if in := fetcher.times[i].Sub(fetcher.times[i-8]); in < 24*time.Hour {
				t.Errorf("9 fetches in %v", in)
			}
		}
	})
}

// What a command by hand fetches is neither held up by the budget nor part of it.
func TestFetchByHandIsNotCounted(t *testing.T) {
	e, _, fetcher := newTestEngine(t)
	for range 20 {
		if _, err := e.FetchRanges(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(fetcher.times) != 20 || len(e.book.Retries) > 0 || e.book.NextAt.IsZero() {
		t.Errorf("%d fetches; retries %v, next at %v", len(fetcher.times), e.book.Retries, e.book.NextAt)
	}
}
