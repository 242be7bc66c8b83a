package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
)

// testDaemon runs the loop of a daemon without its sockets, in virtual time.
type testDaemon struct {
	*Daemon
	table       *fakeTable
	fetcher     *fakeFetcher
	hostChanged chan struct{}
	reload      chan os.Signal
	log         *bytes.Buffer
	stop        func()
}

func startDaemon(t *testing.T, prepare func(*testDaemon)) *testDaemon {
	t.Helper()
	engine, table, fetcher := newTestEngine(t)
	engine.self.Running = true
	d := &testDaemon{table: table, fetcher: fetcher, hostChanged: make(chan struct{}, 1), reload: make(chan os.Signal, 1), log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(d.log, nil))
	engine.log = log
	d.Daemon = newDaemon(engine, Options{Log: log, Level: &slog.LevelVar{}, Reload: d.reload})
	if prepare != nil {
		prepare(d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := d.start(ctx); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); d.loop(ctx, d.hostChanged, nil) }()
	d.stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(d.stop)
	return d
}

// admits asks the table from within the loop.
func (d *testDaemon) admits(t *testing.T, source string, port uint16) (admitted bool) {
	t.Helper()
	d.in(t, func(context.Context) { admitted = d.table.admits(source, port) })
	return admitted
}

// in looks at the daemon from within its loop.
func (d *testDaemon) in(t *testing.T, look func(ctx context.Context)) {
	t.Helper()
	if err := d.do(t.Context(), look); err != nil {
		t.Fatal(err)
	}
}

func TestEnforcedBeforeTheNetworkIsTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) { d.fetcher.answer = nil }) // the endpoint never answers
		if d.admits(t, "198.51.100.7", 443) || !d.admits(t, "104.16.0.1", 443) {
			t.Error("the embedded list is not in force at the start")
		}
		time.Sleep(longestFetch - time.Second)
		d.in(t, func(ctx context.Context) {
			if _, err := d.engine.Allow(ctx, netip.MustParsePrefix("198.51.100.0/24"), time.Hour); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		if len(d.fetcher.times) != 1 {
			t.Errorf("%d fetches were begun while one hangs, want 1", len(d.fetcher.times))
		}
		if !d.admits(t, "198.51.100.7", 443) {
			t.Error("a hanging fetch keeps a change from being enforced")
		}
	})
}

func TestFetchedListComesIntoForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) {
			d.fetcher.answer = func() (ipranges.Answer, error) {
				return ipranges.Answer{List: listWith("188.42.0.0/20"), From: ipranges.FromAPI, At: time.Now(), Agreement: ipranges.Agree}, nil
			}
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if !d.admits(t, "188.42.0.1", 443) {
			t.Error("a network that Cloudflare added is not admitted")
		}
		time.Sleep(48 * time.Hour)
		synctest.Wait()
		if n := len(d.fetcher.times); n < 8 || n > 10 {
			t.Errorf("%d fetches in 2 days, want one every 6 hours", n)
		}
		if d.table.applied != 2 {
			t.Errorf("%d changes of the table, want 2: the start, and the list", d.table.applied)
		}
	})
}

// A plan that a wrong clock has made does not keep the list from being fetched.
func TestFetchPlannedByAWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) {
			d.engine.book.NextAt = time.Now().AddDate(9, 0, 0)
			d.engine.save()
		})
		time.Sleep(7 * time.Hour)
		synctest.Wait()
		if len(d.fetcher.times) == 0 {
			t.Error("nothing was fetched")
		}
	})
}

// An answer that is held leaves the built-in list in force, and is no reason to
// ask again at once.
func TestHeldAnswerIsNotAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) {
			d.fetcher.answer = func() (ipranges.Answer, error) {
				return ipranges.Answer{List: listWith("188.42.0.0/20"), From: ipranges.FromAPI, At: time.Now(), Agreement: ipranges.Disagree, Doubt: "the text pages differ"}, nil
			}
		})
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := len(d.fetcher.times); n < 4 || n > 6 {
			t.Errorf("%d fetches in a day", n)
		}
	})
}

func TestFailingFetchBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, nil)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := len(d.fetcher.times); n < 5 || n > 8 {
			t.Errorf("%d fetches in a day without network", n)
		}
		if d.admits(t, "198.51.100.7", 443) || !d.admits(t, "104.16.0.1", 443) {
			t.Error("the last good list is not in force any more")
		}
		// A link comes up: the next try does not wait for its turn.
		for quiet := false; !quiet; { // the last is a while ago, and the next is far
			time.Sleep(2 * time.Minute)
			d.in(t, func(context.Context) {
				quiet = d.fetchIn() > time.Hour && time.Since(d.engine.book.LastOutcome.At) > 90*time.Second
			})
		}
		before := len(d.fetcher.times)
		d.hostChanged <- struct{}{}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(d.fetcher.times) != before+1 {
			t.Error("a link that came up did not bring a fetch forward")
		}
	})
}

func TestBridgesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bridges []string
		d := startDaemon(t, func(d *testDaemon) {
			d.engine.host = func() (firewall.Host, error) { return firewall.Host{IPv6: true, Bridges: bridges}, nil }
		})
		fromBridge := firewall.Packet{Source: netip.MustParseAddr("172.17.0.2"), Protocol: "tcp", Port: 443, Interface: "docker0", Opening: true}
		for _, present := range [][]string{{"docker0"}, nil, {"docker0"}} {
			d.in(t, func(context.Context) { bridges = present })
			d.hostChanged <- struct{}{}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := d.table.table.Decide(fromBridge).Verdict == firewall.Accept; got != (present != nil) {
				t.Errorf("bridges %v: container admitted: %v", present, got)
			}
		}
	})
}

// What somebody else has done to the table is put right within a minute.
func TestForeignChangeIsPutRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, nil)
		for what, change := range map[string]func(){
			"the table is gone":  func() { d.table.table = nil },
			"the rules are gone": func() { d.table.table.Chains[0].Rules = nil },
			"it is dormant":      func() { d.table.table.Flags = 1 },
		} {
			d.in(t, func(context.Context) { change(); d.table.generation++ })
			time.Sleep(sweepInterval + time.Second)
			synctest.Wait()
			d.in(t, func(ctx context.Context) {
				if s, err := d.engine.Status(ctx); err != nil || !s.Table.Matches {
					t.Errorf("%s, and still is a minute later: %+v, %v", what, s.Table, err)
				}
			})
		}
	})
}

func TestFailedPassIsRetriedWithoutAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := true
		d := startDaemon(t, func(d *testDaemon) {
			d.table.fail = func(int) (error, bool) {
				if broken {
					return kernel.ErrRefused, false
				}
				return nil, true
			}
		})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if d.table.applied > 40 { // each pass tries twice
			t.Errorf("%d tries in 10 minutes", d.table.applied)
		}
		d.in(t, func(ctx context.Context) {
			if s, err := d.engine.Status(ctx); err != nil || s.Verdict != VerdictUnprotected {
				t.Errorf("verdict %q (%v) while the kernel refuses", s.Verdict, err)
			}
			broken = false
		})
		time.Sleep(longestRetry + time.Second)
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("the policy is not enforced though the kernel takes it again")
		}
	})
}

func TestOffForATimeEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, nil)
		d.in(t, func(ctx context.Context) {
			if _, err := d.engine.Off(ctx, 15*time.Minute); err != nil {
				t.Error(err)
			}
			d.passAt = time.Now()
		})
		synctest.Wait()
		if !d.admits(t, "198.51.100.7", 443) {
			t.Fatal("off does not open")
		}
		time.Sleep(14 * time.Minute)
		synctest.Wait()
		if !d.admits(t, "198.51.100.7", 443) {
			t.Error("closed again too early")
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("still open after the time that was named")
		}
	})
}

func TestAllowEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, nil)
		d.in(t, func(ctx context.Context) {
			if _, err := d.engine.Allow(ctx, netip.MustParsePrefix("198.51.100.7/32"), time.Hour); err != nil {
				t.Error(err)
			}
			d.passAt = time.Now()
		})
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		set, _ := d.table.table.Set("allowed4")
		if len(set.Elements) != 0 {
			t.Errorf("the entry is still there: %v", set.Elements)
		}
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, nil)
		write := func(text string) {
			if err := os.WriteFile(d.engine.paths.Config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			d.reload <- syscall.SIGHUP
			synctest.Wait()
		}
		write("[web]\ntcp = [8443]\n")
		if d.admits(t, "198.51.100.7", 8443) || !d.admits(t, "198.51.100.7", 443) {
			t.Error("the new config is not in force")
		}
		write("[web]\ntpc = [443]\n")
		if d.admits(t, "198.51.100.7", 8443) {
			t.Error("a broken config changed the policy")
		}
		d.in(t, func(ctx context.Context) {
			if s, err := d.engine.Status(ctx); err != nil || !slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "config-refused" }) {
				t.Errorf("status does not say that the config is refused: %v, %v", s.Problems, err)
			}
		})
		if !strings.Contains(d.log.String(), "tpc") {
			t.Errorf("the log does not name what is wrong: %s", d.log)
		}
	})
}

func TestOnlyHopelessErrorsEndTheStart(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		ends bool
	}{
		"no permission":  {kernel.ErrPermission, true},
		"no nf_tables":   {kernel.ErrUnsupported, true},
		"busy":           {kernel.ErrBusy, false},
		"something else": {errDown, false},
	} {
		engine, table, _ := newTestEngine(t)
		table.readErr = test.err
		d := newDaemon(engine, Options{Log: engine.log, Level: &slog.LevelVar{}})
		err := d.start(t.Context())
		if test.ends != (err != nil) {
			t.Errorf("%s: start ended with %v", name, err)
		}
		var refusal *Refusal
		if err != nil && (!errors.As(err, &refusal) || refusal.Hint == "") {
			t.Errorf("%s: no hint in %v", name, err)
		}
	}
}
