package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/sshd"
)

// A rehearsal is a host in virtual time, whose daemon can be restarted, and on
// which one config guards port 443 and another, to be tried, port 8443.
type rehearsal struct {
	*testDaemon
	t     *testing.T
	clock *fakeClock
	old   firewall.Ruleset // the table before the trial
}

const (
	oldText = "[web]\ntcp = [443]\n"
	newText = "[web]\ntcp = [8443]\n"
)

// What is in force, by what a stranger reaches.
const (
	isOld  = "the old config"
	isNew  = "the config on trial"
	isOpen = "nothing"
)

func rehearse(t *testing.T, f func(t *testing.T, r *rehearsal)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rehearsal{t: t, clock: &fakeClock{}}
		r.testDaemon = startDaemon(t, func(d *testDaemon) {
			r.clock.giveTo(d.engine)
			writeFile(t, d.engine.paths.Config, oldText)
		})
		r.in(t, func(context.Context) {
			var err error
			if r.old, _, err = r.engine.Want(time.Now()); err != nil {
				t.Error(err)
			}
		})
		writeFile(t, r.engine.paths.Config, newText)
		f(t, r)
	})
}

// restart is a kill and a start: nothing but the files and the table is left.
func (r *rehearsal) restart(meanwhile func()) {
	r.t.Helper()
	r.stop()
	if meanwhile != nil {
		meanwhile()
	}
	was := r.testDaemon
	r.testDaemon = startDaemon(r.t, func(d *testDaemon) {
		d.table, d.engine.table, d.engine.surroundings = was.table, was.table, was.engine.surroundings
		d.engine.paths, d.engine.store = was.engine.paths, was.engine.store
		r.clock.giveTo(d.engine)
	})
}

func (r *rehearsal) try(o Order) (report Report, err error) {
	r.t.Helper()
	r.in(r.t, func(ctx context.Context) { report, err = r.apply(ctx, o) })
	return report, err
}

func (r *rehearsal) mustTry(lasting time.Duration) {
	r.t.Helper()
	report, err := r.try(Order{Confirm: lasting})
	if err != nil || report.Confirm == nil || report.Confirm.Deadline.Sub(report.Confirm.Since) != lasting {
		r.t.Fatalf("the trial begins with %+v, %v", report.Confirm, err)
	}
	r.expect("at its begin", isNew)
}

func (r *rehearsal) confirm(own sshd.Session) (err error) {
	r.t.Helper()
	r.in(r.t, func(ctx context.Context) { _, err = r.Daemon.engine.Confirm(ctx, own) })
	return err
}

func (r *rehearsal) expect(when, want string) {
	r.t.Helper()
	synctest.Wait()
	is := map[[2]bool]string{{false, true}: isOld, {true, false}: isNew, {true, true}: isOpen}[[2]bool{r.admits(r.t, "198.51.100.7", 443), r.admits(r.t, "198.51.100.7", 8443)}]
	if is != want {
		r.t.Errorf("%s: in force is %s, want %s", when, is, want)
	}
	r.in(r.t, func(context.Context) {
		if want == isOld && (r.table.table == nil || !firewall.MakePlan(firewall.State{Table: r.table.table}, r.old).Empty()) {
			r.t.Errorf("%s: the table is not the old one", when)
		}
	})
}

func (r *rehearsal) status() (s Status) {
	r.t.Helper()
	r.in(r.t, func(ctx context.Context) {
		var err error
		if s, err = r.engine.Status(ctx); err != nil {
			r.t.Error(err)
		}
	})
	return s
}

func (r *rehearsal) hasProblem(code string) bool {
	r.t.Helper()
	return slices.ContainsFunc(r.status().Problems, func(p Problem) bool { return p.Code == code && p.Severity == Degraded && p.Cure != "" })
}

func (r *rehearsal) lastConfig() string {
	b, _ := os.ReadFile(r.engine.paths.lastConfig())
	return string(b)
}

func refusedWith(err error, exit int, says string) bool {
	var refusal *Refusal
	return errors.As(err, &refusal) && refusal.Exit == exit && refusal.Hint != "" && strings.Contains(refusal.Error()+"; "+refusal.Hint, says)
}

// Nobody confirms: at the deadline, by no clock that could be set, the table is
// what it was.
func TestTrialGoesBack(t *testing.T) {
	for name, jump := range map[string]func(*fakeClock){
		"the clock is right":        func(*fakeClock) {},
		"ten years ahead":           func(c *fakeClock) { c.stepped = tenYears },
		"ten years back":            func(c *fakeClock) { c.stepped = -tenYears },
		"suspended for 20 s":        func(c *fakeClock) { c.suspended = 20 * time.Second },
		"suspended, and a new time": func(c *fakeClock) { c.suspended, c.stepped = 20*time.Second, -tenYears },
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.mustTry(time.Minute)
				time.Sleep(10 * time.Second)
				r.clock.set(jump)
				time.Sleep(49*time.Second - r.clock.suspended)
				r.expect("a second before the deadline", isNew)
				time.Sleep(1500 * time.Millisecond)
				r.expect("after it", isOld)
				if !r.hasProblem("reverted") || r.hasProblem("unconfirmed") || !strings.Contains(r.log.String(), "was not confirmed") {
					t.Errorf("it is not said: %+v", r.status().Problems)
				}
				if err := r.confirm(sshd.Session{}); !refusedWith(err, ExitReverted, "too late") {
					t.Errorf("confirmed afterwards: %v", err)
				}
			})
		})
	}
}

// A host that sleeps through the deadline goes back as soon as it is awake.
func TestTrialGoesBackOnAwakening(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.mustTry(time.Hour)
		r.clock.set(func(c *fakeClock) { c.suspended = 2 * time.Hour })
		time.Sleep(time.Second)
		r.expect("awake for a second", isOld)
	})
}

// What was not confirmed does not come into force by a restart, until somebody
// changes it or asks for it.
func TestRejectedConfigStaysOut(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(r *rehearsal)
		want      string
	}{
		"the same file":         {func(*rehearsal) {}, isOld},
		"after another boot":    {func(r *rehearsal) { r.clock.boots++ }, isOld},
		"the file is gone":      {func(r *rehearsal) { os.Remove(r.engine.paths.Config) }, isOld},
		"the file was changed":  {func(r *rehearsal) { writeFile(r.t, r.engine.paths.Config, newText+"# mended\n") }, isNew},
		"the last one is gone":  {func(r *rehearsal) { os.Remove(r.engine.paths.lastConfig()) }, isOld},
		"the file has mistakes": {func(r *rehearsal) { writeFile(r.t, r.engine.paths.Config, "[") }, isOld},
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.mustTry(time.Second)
				time.Sleep(2 * time.Second)
				r.restart(func() { c.meanwhile(r) })
				r.expect("after a restart", c.want)
				if r.hasProblem("reverted") != (c.want == isOld) {
					t.Errorf("problems %+v", r.status().Problems)
				}
				r.restart(nil)
				r.expect("after another", c.want)
			})
		})
	}
}

// The file was mended during the trial, which says nothing about what was tried.
func TestRejectedIsTheFileThatWasLeft(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.mustTry(10 * time.Second)
		time.Sleep(5 * time.Second)
		writeFile(t, r.engine.paths.Config, newText+"# not tried\n")
		time.Sleep(6 * time.Second)
		r.expect("after the deadline", isOld)
		r.restart(nil)
		r.expect("after a restart", isOld)
	})
}

func TestRejectedConfigComesByApply(t *testing.T) {
	for name, give := range map[string]func(r *rehearsal){
		"apply":  func(r *rehearsal) { _, _ = r.try(Order{}) },
		"SIGHUP": func(r *rehearsal) { r.testDaemon.reload <- syscall.SIGHUP },
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.mustTry(time.Second)
				time.Sleep(2 * time.Second)
				r.expect("after the trial", isOld)
				give(r)
				r.expect("asked for", isNew)
				if r.hasProblem("reverted") || r.lastConfig() != newText {
					t.Errorf("problems %+v, last config %q", r.status().Problems, r.lastConfig())
				}
				r.restart(nil)
				r.expect("after a restart", isNew)
			})
		})
	}
}

func TestTrialIsConfirmed(t *testing.T) {
	for name, meanwhile := range map[string]func(r *rehearsal){
		"by the same daemon": func(*rehearsal) {},
		"after a restart":    func(r *rehearsal) { r.restart(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.mustTry(time.Minute)
				if s := r.status(); !r.hasProblem("unconfirmed") || s.Confirm == nil || s.Verdict != VerdictDegraded || !strings.Contains(metricsText(s, nil, r.engine.tally), "\ncfwall_unconfirmed 1\n") {
					t.Errorf("status %+v", s)
				}
				r.in(t, func(context.Context) {
					if _, line, _ := r.line(); !strings.Contains(line, "on trial") {
						t.Errorf("systemd is told %q", line)
					}
				})
				time.Sleep(30 * time.Second)
				meanwhile(r)
				if r.lastConfig() != oldText {
					t.Error("a config on trial counts as one that works")
				}
				time.Sleep(29 * time.Second)
				if err := r.confirm(sshd.Session{}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				r.expect("an hour later", isNew)
				if s := r.status(); r.hasProblem("unconfirmed") || s.Confirm != nil || !strings.Contains(metricsText(s, nil, r.engine.tally), "\ncfwall_unconfirmed 0\n") || r.lastConfig() != newText {
					t.Errorf("status %+v, last config %q", s, r.lastConfig())
				}
				if err := r.confirm(sshd.Session{}); !refusedWith(err, ExitError, "nothing to confirm") {
					t.Errorf("once more: %v", err)
				}
				r.restart(func() { r.clock.boots++ })
				r.expect("after another boot", isNew)
			})
		})
	}
}

// A session that was open before shows nothing about the way in.
func TestWhoMayConfirm(t *testing.T) {
	session := func(remote string) sshd.Session {
		return sshd.Session{Local: netip.MustParseAddrPort("192.0.2.2:22"), Remote: netip.MustParseAddrPort(remote), Own: true}
	}
	own, other, tunnelled := session("203.0.113.7:50000"), session("203.0.113.8:50000"), session("127.0.0.1:50000")
	for name, c := range map[string]struct {
		by    sshd.Session
		began time.Duration // after the change; 0: not known
		kept  bool
	}{
		"the session that gave the order":  {own, 0, false},
		"another that was open":            {other, 0, false},
		"one that a tunnel brings":         {tunnelled, 0, false},
		"a new one":                        {session("203.0.113.7:50001"), time.Second, true},
		"a new one of unknown age":         {session("203.0.113.7:50001"), 0, true},
		"the console":                      {sshd.Session{}, 0, true},
		"what tmux has kept of an old one": {session("203.0.113.7:40000"), -time.Second, false},
		"a new one by an old connection":   {other, time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.in(t, func(context.Context) {
					r.engine.ssh = func(p firewall.Policy, own sshd.Session) (sshd.Host, error) {
						h, err := sshOn(22)(p, own)
						h.Sessions = []sshd.Session{{Local: other.Local, Remote: other.Remote}}
						return h, err
					}
					r.engine.connections = func() ([]kernel.Connection, error) {
						return []kernel.Connection{{Local: tunnelled.Local, Remote: tunnelled.Remote}}, nil
					}
				})
				if _, err := r.try(Order{Confirm: time.Minute, Session: own}); err != nil {
					t.Fatal(err)
				}
				if c.began != 0 {
					r.in(t, func(context.Context) { c.by.Began = r.engine.sinceBoot() + c.began })
				}
				r.restart(nil) // it is on disk who was logged in
				err := r.confirm(c.by)
				if c.kept != (err == nil) || !c.kept && !refusedWith(err, ExitError, "log in anew") {
					t.Errorf("got %v", err)
				}
				time.Sleep(time.Minute + time.Second)
				r.expect("after the deadline", map[bool]string{true: isNew, false: isOld}[c.kept])
			})
		})
	}
}

// A daemon that starts in the middle goes on with the trial, and whatever has
// become of the file; one that starts late, or after another boot, goes back
// before anything else.
func TestTrialAfterARestart(t *testing.T) {
	edit := func(text string) func(r *rehearsal) {
		return func(r *rehearsal) { writeFile(r.t, r.engine.paths.Config, text) }
	}
	for name, c := range map[string]struct {
		meanwhile func(r *rehearsal)
		want      string
	}{
		"in the middle":        {func(*rehearsal) {}, isNew},
		"the file was changed": {edit("[web]\ntcp = [25]\n"), isNew},
		"the file is broken":   {edit("["), isNew},
		"the file is gone":     {func(r *rehearsal) { os.Remove(r.engine.paths.Config) }, isNew},
		"another time":         {func(r *rehearsal) { r.clock.stepped = tenYears }, isNew},
		"too late":             {func(*rehearsal) { time.Sleep(time.Minute) }, isOld},
		"too late, and edited": {func(r *rehearsal) { edit("[web]\ntcp = [25]\n")(r); time.Sleep(time.Minute) }, isOld},
		"another boot":         {func(r *rehearsal) { r.clock.boots++ }, isOld},
		"another boot, another time": {func(r *rehearsal) {
			r.clock.boots++
			r.clock.stepped = -tenYears
			r.table.table = nil
		}, isOld},
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.mustTry(time.Minute)
				time.Sleep(20 * time.Second)
				r.restart(func() { c.meanwhile(r) })
				r.expect("after the restart", c.want)
				time.Sleep(39 * time.Second)
				r.expect("before the deadline", c.want)
				time.Sleep(1500 * time.Millisecond)
				r.expect("after it", isOld)
				if !r.hasProblem("reverted") {
					t.Errorf("problems %+v", r.status().Problems)
				}
				r.restart(nil)
				r.expect("after another restart", isOld)
			})
		})
	}
}

// What cannot be read counts as not confirmed.
func TestTrialWithABrokenRecord(t *testing.T) {
	for _, text := range []string{"", "{", "null", "{}", `{"since":"2026-11-28T10:00:00Z"}`, "\x00\x00\x00", "a directory"} {
		t.Run(text, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.mustTry(time.Minute)
				record := r.engine.paths.trial()
				r.restart(func() {
					err := os.Remove(record)
					if text == "a directory" {
						err = errors.Join(err, os.Mkdir(record, 0o755))
					} else {
						err = errors.Join(err, os.WriteFile(record, []byte(text), 0o600))
					}
					if err != nil {
						t.Fatal(err)
					}
				})
				r.expect("after a restart", isOld)
				i := slices.IndexFunc(r.status().Problems, func(p Problem) bool { return p.Code == "confirm-unreadable" })
				if i < 0 || !strings.Contains(r.status().Problems[i].Text, record) {
					t.Errorf("problems %+v", r.status().Problems)
				}
				if err := r.confirm(sshd.Session{}); !refusedWith(err, ExitError, "nothing to confirm") {
					t.Errorf("confirmed: %v", err)
				}
				r.in(t, func(ctx context.Context) { // who waits must not take it for confirmed
					if trial, err := r.engine.Trial(ctx); !refusedWith(err, ExitDegraded, record) {
						t.Errorf("the trial is %+v, %v", trial, err)
					}
				})
				if _, err := r.try(Order{}); err != nil {
					t.Error(err)
				}
				r.expect("applied", isNew)
				if r.hasProblem("confirm-unreadable") {
					t.Errorf("problems %+v", r.status().Problems)
				}
				r.restart(nil)
				r.expect("after another restart", isNew)
			})
		})
	}
}

// block puts something into the way of a record that cannot be removed.
func (r *rehearsal) block(t *testing.T) {
	t.Helper()
	record := r.engine.paths.trial()
	if err := os.RemoveAll(record); err != nil {
		t.Fatal(err)
	}
	writeFile(t, record+"/in-the-way", "x")
}

func TestTrialOnADiskThatCannotBeWritten(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.block(t)
		_, err := r.try(Order{Confirm: time.Minute})
		if !refusedWith(err, ExitError, "nothing was changed") || !strings.Contains(err.Error(), r.engine.paths.trial()) {
			t.Errorf("got %v", err)
		}
		r.expect("after the refusal", isOld)
	})
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.mustTry(time.Minute)
		r.block(t)
		if err := r.confirm(sshd.Session{}); !refusedWith(err, ExitError, "it is not confirmed") {
			t.Errorf("got %v", err)
		}
		if !r.hasProblem("unconfirmed") {
			t.Errorf("problems %+v", r.status().Problems)
		}
		time.Sleep(time.Minute + time.Second)
		r.expect("after the deadline", isOld)
	})
}
