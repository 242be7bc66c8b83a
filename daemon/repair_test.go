package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
)

// watchedDaemon runs a daemon that hears of changes by others.
func watchedDaemon(t *testing.T) (*testDaemon, *fakeWatch) {
	t.Helper()
	watch := &fakeWatch{news: make(chan struct{}, 1)}
	return startDaemon(t, func(d *testDaemon) {
		d.engine.watchRules = func(context.Context) (rulesWatch, error) { return watch, nil }
	}), watch
}

// byNft is a change of our table by nft.
var byNft = kernel.Change{Port: 99, PID: 4121, Program: "nft"}

// meddle changes the table as another program would, and has the watch tell.
func (d *testDaemon) meddle(t *testing.T, w *fakeWatch, c kernel.Change, change func()) {
	t.Helper()
	d.in(t, func(context.Context) {
		change()
		d.table.generation++
		w.changes = append(w.changes, c)
	})
	w.news <- struct{}{}
	synctest.Wait()
}

func TestForeignChangeIsPutRightAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		time.Sleep(10 * time.Second)
		began := time.Now()
		d.meddle(t, watch, byNft, func() { d.table.table = nil })
		if d.admits(t, "198.51.100.7", 443) || time.Since(began) > 0 {
			t.Errorf("a stranger is admitted %v after the table was deleted", time.Since(began))
		}
		d.in(t, func(ctx context.Context) {
			s, err := d.engine.Status(ctx)
			if s.Since.Before(began) {
				t.Errorf("the table was gone at %v, and status says that it has been right since %v", began, s.Since)
			}
			if err != nil || s.Repairs.Count != 1 || s.Repairs.Last[0].By != "nft (pid 4121)" || !slices.Contains(s.Repairs.Last[0].Changes, "+ table cfwall") {
				t.Errorf("status says %+v (%v)", s.Repairs, err)
			}
		})
		if log := d.log.String(); !strings.Contains(log, `by="nft (pid 4121)"`) || !strings.Contains(log, "+ table cfwall") {
			t.Errorf("the log does not say who did what: %s", log)
		}
	})
}

// What we change ourselves is no reason to look.
func TestOwnChangesAreNoAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		reads := d.table.reads
		d.meddle(t, watch, kernel.Change{Port: d.table.Port(), Program: "cfwall"}, func() {})
		if d.table.reads != reads {
			t.Errorf("the table was read %d times", d.table.reads-reads)
		}
	})
}

// Where the kernel could not tell all, the table is looked at.
func TestLostEventsAreAnAlarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		d.in(t, func(context.Context) { d.table.table.Chains[0].Rules = nil; watch.lost = true })
		watch.news <- struct{}{}
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("the rules are still gone")
		}
		d.in(t, func(context.Context) {
			if last := d.engine.repairs.Last; len(last) != 1 || last[0].By != "unknown" {
				t.Errorf("put right: %+v", last)
			}
		})
	})
}

// A watch that ends is begun anew, and what happened in between is found.
func TestWatchThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		next := &fakeWatch{news: make(chan struct{}, 1)}
		d.in(t, func(context.Context) {
			d.engine.watchRules = func(context.Context) (rulesWatch, error) { return next, nil }
			d.table.table.Chains[0].Rules = nil
		})
		close(watch.news)
		time.Sleep(rewatch + time.Millisecond)
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("what happened meanwhile was not found")
		}
		d.meddle(t, next, byNft, func() { d.table.table = nil })
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("the new watch is not listened to")
		}
	})
}

// What the policy asks for is no change by others: entries that expire, lists,
// reloads, off and on.
func TestOwnBusinessIsNoRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := watchedDaemon(t)
		d.in(t, func(ctx context.Context) {
			if _, err := d.engine.Allow(ctx, netip.MustParsePrefix("198.51.100.7/32"), time.Minute); err != nil {
				t.Error(err)
			}
			d.passAt = time.Now()
		})
		// The kernel lets the entry go by itself, a moment sooner or later.
		time.Sleep(58 * time.Second)
		d.in(t, func(context.Context) { d.table.set("allowed4").Elements = nil })
		time.Sleep(time.Minute)
		d.in(t, func(ctx context.Context) {
			writeFile(t, d.engine.paths.Config, "[web]\ntcp = [8443]\n[allow]\nfrom = [\"192.0.2.0/24\"]\n")
			if _, err := d.apply(ctx, Order{}); err != nil {
				t.Error(err)
			}
			for range 2 {
				_, errOff := d.engine.Off(ctx, 0)
				_, errOn := d.engine.On(ctx)
				if errOff != nil || errOn != nil {
					t.Error(errOff, errOn)
				}
			}
			d.engine.book.Current.List = listWith("188.42.0.0/20")
			d.pass(ctx)
			if r := d.engine.repairs; r.Count != 0 {
				t.Errorf("taken for changes by others: %+v", r.Last)
			}
		})
	})
}

// An off or an allow that another process's table makes fail opens nothing later.
func TestOpeningBesideAForeignTable(t *testing.T) {
	e, table, _ := newTestEngine(t)
	table.table = &firewall.Ruleset{Family: firewall.FamilyINET, Hold: firewall.Foreign}
	if p, err := e.Plan(t.Context(), Order{}); err != nil || !strings.Contains(p.Refused, kernel.ErrForeign.Error()) {
		t.Errorf("plan does not say that apply would fail: %q (%v)", p.Refused, err)
	}
	if s, err := e.Status(t.Context()); err != nil || s.Verdict != VerdictUnprotected || strings.Contains(s.Problems[0].Cure, "apply mends") {
		t.Errorf("status: %+v (%v)", s.Problems, err)
	}
	if _, err := e.Off(t.Context(), 0); !errors.Is(err, kernel.ErrForeign) {
		t.Fatalf("off: %v", err)
	}
	if _, err := e.Allow(t.Context(), netip.MustParsePrefix("198.51.100.7/32"), time.Hour); !errors.Is(err, kernel.ErrForeign) {
		t.Fatalf("allow: %v", err)
	}
	table.table = nil
	e.LoadState()
	if _, err := e.Pass(t.Context()); err != nil || table.admits("198.51.100.7", 443) {
		t.Errorf("the other process has ended, and strangers are admitted (%v)", err)
	}
}

// A program that changes the table in a loop is not let win, nor keep this host
// busy, and status says what goes on.
func TestRepairStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		time.Sleep(time.Minute)
		const seconds = 30
		applied, open := d.table.applied, 0
		for range seconds * 100 {
			time.Sleep(10 * time.Millisecond)
			d.meddle(t, watch, byNft, func() { d.table.table.Chains[0].Rules = nil })
			if d.admits(t, "198.51.100.7", 443) {
				open++
			}
		}
		if n := d.table.applied - applied; n < seconds*repairRate || n > seconds*repairRate+2*repairBurst {
			t.Errorf("put right %d times in %d s", n, seconds)
		}
		problem := func() (found bool) {
			d.in(t, func(ctx context.Context) {
				s, err := d.engine.Status(ctx)
				found = slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Code == "table-contested" && strings.Contains(p.Text, "nft (pid 4121)") })
				if err != nil || found && s.Verdict == VerdictProtected {
					t.Errorf("%s, %v", s.Verdict, err)
				}
			})
			return found
		}
		if !problem() {
			t.Error("status does not speak of the storm")
		}
		d.in(t, func(context.Context) {
			if n := strings.Count(d.log.String(), "event=repair-storm"); n != 1 {
				t.Errorf("the log speaks of it %d times", n)
			}
		})
		time.Sleep(time.Second)
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("a second after the storm strangers are admitted")
		}
		time.Sleep(contestedFor)
		if problem() {
			t.Error("status speaks of the storm long after it")
		}
	})
}

// What changes between writing and reading back is found each time, and success is
// never reported on a table that differs.
func TestChangesBeforeReadingBack(t *testing.T) {
	e, table, _ := newTestEngine(t)
	table.afterApply = func(n int) {
		if n%2 == 1 {
			table.table.Chains[0].Rules = nil
		}
	}
	for range 100 {
		e.book.Current.List = listWith("188.42.0.0/20")
		if r, err := e.Pass(t.Context()); err != nil || len(r.drift) == 0 || !firewall.MakePlan(firewall.State{Table: table.table}, *e.verified).Empty() {
			t.Fatalf("%v, found %v", err, r.drift)
		}
		table.table.Sets = nil
		table.table.Chains = nil
	}
	table.afterApply = func(int) { table.table.Chains[0].Rules = nil }
	table.table = nil
	if _, err := e.Pass(t.Context()); err == nil {
		t.Error("success is reported on a table that differs")
	}
	if s, err := e.Status(t.Context()); err != nil || s.Verdict != VerdictUnprotected {
		t.Errorf("the verdict is %s (%v)", s.Verdict, err)
	}
}

// A reload in the moment in which a repair waits for the brake must not make
// the daemon deaf to the next change.
func TestReloadWhileARepairWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		time.Sleep(10 * time.Second)
		bend := func() { d.table.table.Chains[0].Rules = nil }
		for range repairBurst + 1 {
			d.meddle(t, watch, byNft, bend)
		}
		if !d.admits(t, "198.51.100.7", 443) {
			t.Fatal("the brake does not hold")
		}
		d.in(t, func(ctx context.Context) { _, _ = d.Daemon.reload(ctx, Order{}) })
		if d.admits(t, "198.51.100.7", 443) {
			t.Fatal("the reload did not put it right")
		}
		d.meddle(t, watch, byNft, bend)
		time.Sleep(3 * time.Second / repairRate)
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("a change after the reload is not put right")
		}
	})
}

// Passes for other reasons, such as interfaces that come and go, do not add up
// to a wait.
func TestBrakeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		time.Sleep(10 * time.Second)
		bend := func() { d.table.table.Chains[0].Rules = nil }
		for range 1000 {
			d.meddle(t, watch, byNft, bend)
			d.hostChanged <- struct{}{}
			time.Sleep(settle)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		d.meddle(t, watch, byNft, bend)
		time.Sleep(3 * time.Second / repairRate)
		synctest.Wait()
		if d.admits(t, "198.51.100.7", 443) {
			t.Error("a change is not put right for long")
		}
	})
}

// A host may get IPv6 while cfwall runs: its module may be loaded late. The
// table for hosts without it must not go on with the list of that day.
func TestIPv6ThatComesLater(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	e := newLabEngine(t, usual)
	ipv6 := false
	e.host = func() (firewall.Host, error) { return firewall.Host{IPv6: ipv6}, nil }
	for _, ipv6 = range []bool{false, true} {
		s.Web.Do(func() {
			if _, err := e.Pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	if got := s.Web.NftList(t, "tables"); got != "table inet cfwall\n" {
		t.Errorf("the tables are\n%s", got)
	}
}

// A read that lacks a part of the table, as the kernel may list it while it clears
// up after a transaction, changes nothing and frightens nobody.
func TestDifferenceIsSeenTwice(t *testing.T) {
	e, table, _ := newTestEngine(t)
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	partial := &partialTable{fakeTable: table}
	e.table = partial
	for range 10 {
		partial.next = true
		if _, err := e.Pass(t.Context()); err != nil || table.applied != 1 || e.repairs.Count != 0 {
			t.Fatalf("%v; written %d times, put right %d times", err, table.applied, e.repairs.Count)
		}
		partial.next = true
		if s, err := e.Status(t.Context()); err != nil || !s.Table.Matches {
			t.Fatalf("status: %+v, %v", s.Table, err)
		}
	}
}

// partialTable lists a part of a set, once.
type partialTable struct {
	*fakeTable
	next bool
}

func (p *partialTable) Read(ctx context.Context, f firewall.Family) (firewall.State, error) {
	s, err := p.fakeTable.Read(ctx, f)
	if p.next && s.Table != nil {
		s.Table.Sets = slices.Clone(s.Table.Sets)
		s.Table.Sets[0].Elements = s.Table.Sets[0].Elements[1:]
	}
	p.next = false
	return s, err
}
