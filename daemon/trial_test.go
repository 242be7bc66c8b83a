package daemon

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/sshd"
)

// A config that the kernel does not take is given up at once.
func TestTrialThatFails(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.in(t, func(context.Context) {
			first := r.table.applied + 1
			r.table.fail = func(n int) (error, bool) {
				if n > first+1 {
					return nil, true
				}
				r.table.table = nil // it leaves a part undone, and undoes more
				return kernel.ErrRefused, false
			}
		})
		if _, err := r.try(Order{Confirm: time.Minute}); !refusedWith(err, ExitReverted, "the one before is in force again") {
			t.Errorf("got %v", err)
		}
		r.expect("after the failure", isOld)
	})
}

// What is not in force is not kept.
func TestTrialThatFailsLater(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.mustTry(time.Minute)
		r.in(t, func(context.Context) { r.table.readErr = kernel.ErrBusy })
		if err := r.confirm(sshd.Session{}); !refusedWith(err, ExitUnprotected, "it is not in force") {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute + time.Second) // now it cannot go back either
		r.in(t, func(context.Context) { r.table.readErr = nil })
		time.Sleep(longestRetry)
		r.expect("as soon as it can", isOld)
	})
}

// A second trial is about the same old config, and has a deadline of its own.
func TestTrialAfterTrial(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.mustTry(time.Minute)
		for name, err := range map[string]error{
			"apply": func() error { _, err := r.try(Order{}); return err }(),
			"reload": func() (err error) {
				r.in(t, func(ctx context.Context) { _, err = r.Daemon.reload(ctx, Order{}) })
				return err
			}(),
		} {
			if !refusedWith(err, ExitReverted, "on trial") || !refusedWith(err, ExitReverted, "cfwall confirm") {
				t.Errorf("%s: %v", name, err)
			}
		}
		time.Sleep(40 * time.Second)
		writeFile(t, r.engine.paths.Config, newText+"[allow]\nfrom = [\"203.0.113.0/24\"]\n")
		r.mustTry(time.Minute)
		time.Sleep(50 * time.Second)
		r.expect("after the first deadline", isNew)
		writeFile(t, r.engine.paths.Config, "[")
		if _, err := r.try(Order{Confirm: time.Minute}); err == nil {
			t.Error("a broken config is tried")
		}
		r.expect("after a config that is refused", isNew)
		time.Sleep(11 * time.Second)
		r.expect("after the second deadline", isOld)
	})
}

// The switch is another matter: what is open stays so, and nobody can confirm
// what is not in force.
func TestTrialAndOff(t *testing.T) {
	off := func(r *rehearsal) {
		r.in(r.t, func(ctx context.Context) {
			if _, err := r.engine.Off(ctx, 0); err != nil {
				r.t.Error(err)
			}
		})
	}
	on := func(r *rehearsal) {
		r.in(r.t, func(ctx context.Context) {
			if _, err := r.engine.On(ctx); err != nil {
				r.t.Error(err)
			}
		})
	}
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.mustTry(time.Minute)
		off(r)
		if err := r.confirm(sshd.Session{}); !refusedWith(err, ExitUnprotected, "cfwall on") {
			t.Errorf("confirmed while off: %v", err)
		}
		on(r)
		r.expect("on again", isNew)
		off(r)
		time.Sleep(time.Minute + time.Second)
		r.expect("off at the deadline", isOpen)
		on(r)
		r.expect("on after it", isOld)
	})
	for name, restart := range map[string]bool{"switched on meanwhile": false, "and a restart": true} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				off(r)
				r.mustTry(time.Minute)
				on(r)
				if restart {
					r.restart(nil)
				}
				r.expect("on trial", isNew)
				time.Sleep(time.Minute + time.Second)
				r.expect("after the deadline", isOld)
			})
		})
	}
	for name, restart := range map[string]bool{"tried while off": false, "and a restart": true} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				off(r)
				r.mustTry(time.Minute)
				if restart {
					r.restart(nil)
				}
				r.expect("on trial", isNew)
				time.Sleep(time.Minute + time.Second)
				r.expect("after the deadline", isOpen)
				r.restart(nil)
				r.expect("after a restart", isOpen)
				on(r)
				r.expect("switched on", isOld)
			})
		})
	}
	rehearse(t, func(t *testing.T, r *rehearsal) {
		off(r)
		r.mustTry(time.Minute)
		r.restart(func() { r.clock.boots++ })
		r.expect("after another boot", isOld)
	})
}

func TestTrialOfAnyLength(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		for _, lasting := range []time.Duration{-time.Second, time.Second - 1, time.Hour + 1, 24 * time.Hour} {
			if _, err := r.try(Order{Confirm: lasting}); !refusedWith(err, ExitUsage, "from 1s to 1h") {
				t.Errorf("%v: %v", lasting, err)
			}
		}
		r.expect("after the refusals", isOld)
		r.mustTry(time.Hour)
		time.Sleep(time.Hour - time.Second)
		r.expect("before the deadline", isNew)
		time.Sleep(2 * time.Second)
		r.expect("after it", isOld)
	})
}

func TestTrialIsEndedBeforeItsTime(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		goBack := func() (trial Trial, err error) {
			r.in(t, func(ctx context.Context) { trial, err = r.goBack(ctx) })
			return trial, err
		}
		if _, err := goBack(); !refusedWith(err, ExitError, "nothing to go back from") {
			t.Errorf("without a trial: %v", err)
		}
		r.mustTry(time.Minute)
		if trial, err := goBack(); err != nil || trial.Reverted.IsZero() {
			t.Errorf("%+v, %v", trial, err)
		}
		r.expect("afterwards", isOld)
	})
}

// What was closed by force before is so again, and what the trial has closed by
// force is not.
func TestTrialKeepsWhatIsForced(t *testing.T) {
	for name, restart := range map[string]bool{"at the deadline": false, "after another boot": true} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				r.in(t, func(context.Context) { r.engine.ssh = sshOn(22, 8443) })
				report, err := r.try(Order{Confirm: time.Minute, Force: true})
				if err != nil || len(report.Forced) != 1 || report.Forced[0].Port != 8443 {
					t.Fatalf("%+v, %v", report, err)
				}
				r.restart(func() { os.Remove(r.engine.paths.forced()) }) // a crash between the two files
				r.expect("after a restart", isNew)
				if restart {
					r.restart(func() { r.clock.boots++ })
				} else {
					time.Sleep(time.Minute + time.Second)
				}
				r.expect("afterwards", isOld)
				var forced []Forced
				if err := loadJSON(durable.OS{}, r.engine.paths.forced(), &forced); err != nil || len(forced) != 0 {
					t.Errorf("on disk: %v, %v", forced, err)
				}
			})
		})
	}
}

// Live connections end when a config is confirmed, not before: nothing could
// bring them back.
func TestTrialEndsNoConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:8443") // so that it came in
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	live := kernel.Connection{Local: netip.MustParseAddrPort("192.0.2.2:8443"), Remote: netip.MustParseAddrPort("198.51.100.7:50000")}
	for name, c := range map[string]struct{ restarted, confirmed bool }{
		"confirmed": {false, true}, "confirmed after a restart": {true, true}, "not confirmed": {false, false}, "not confirmed after a restart": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				cut := map[kernel.Connection]int{}
				r.in(t, func(context.Context) {
					r.engine.connections = func() ([]kernel.Connection, error) { return []kernel.Connection{live}, nil }
					r.engine.destroy = func(c kernel.Connection) error { cut[c]++; return nil }
				})
				r.mustTry(time.Minute)
				if c.restarted {
					r.restart(nil)
				}
				time.Sleep(59 * time.Second)
				r.expect("on trial", isNew)
				if len(cut) != 0 {
					t.Errorf("cut on trial: %v", slices.Collect(maps.Keys(cut)))
				}
				if c.confirmed {
					if err := r.confirm(sshd.Session{}); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				r.expect("afterwards", map[bool]string{true: isNew, false: isOld}[c.confirmed])
				if want := map[bool]map[kernel.Connection]int{true: {live: 1}, false: {}}[c.confirmed]; !reflect.DeepEqual(cut, want) {
					t.Errorf("cut: %v, want %v", cut, want)
				}
			})
		})
	}
}

// interrupted is a kernel that heeds the context, which ends in the middle of a change.
type interrupted struct {
	*fakeTable
	end context.CancelFunc
}

func (i interrupted) Read(ctx context.Context, f firewall.Family) (firewall.State, error) {
	if err := ctx.Err(); err != nil {
		return firewall.State{}, err
	}
	return i.fakeTable.Read(ctx, f)
}

func (i interrupted) Apply(ctx context.Context, p firewall.Plan) error {
	defer i.end()
	if err := ctx.Err(); err != nil {
		return err
	}
	return i.fakeTable.Apply(ctx, p)
}

// Ctrl-C, or the end of the daemon, may come while the config is put in force:
// then nobody is left to go back later.
func TestTrialThatIsInterruptedAsItBegins(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.in(t, func(ctx context.Context) {
			ctx, end := context.WithCancel(ctx)
			r.engine.table = interrupted{r.table, end}
			if _, err := r.engine.try(ctx, Order{Confirm: time.Minute}, false); !refusedWith(err, ExitReverted, "the one before is in force again") {
				t.Errorf("got %v", err)
			}
			r.engine.table = r.table
			if r.table.admits("198.51.100.7", 443) {
				t.Error("the config on trial is still in force")
			}
		})
		r.expect("afterwards", isOld)
	})
}

// Whoever could come in only because of a trial goes with it: the rules look at
// no more than the opening of some connections.
func TestTrialTakesAlongWhomItLetIn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:443") // so that it came in
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	live := kernel.Connection{Local: netip.MustParseAddrPort("192.0.2.2:443"), Remote: netip.MustParseAddrPort("198.51.100.7:50000")}
	for name, restarted := range map[string]bool{"by the same daemon": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			rehearse(t, func(t *testing.T, r *rehearsal) {
				cut := map[kernel.Connection]int{}
				r.mustTry(time.Minute)
				r.in(t, func(context.Context) {
					r.engine.connections = func() ([]kernel.Connection, error) { return []kernel.Connection{live}, nil }
					r.engine.destroy = func(c kernel.Connection) error { cut[c]++; return nil }
				})
				if restarted {
					r.restart(nil)
				}
				time.Sleep(2 * time.Minute)
				r.expect("afterwards", isOld)
				if cut[live] != 1 {
					t.Errorf("it was cut %d times, want once", cut[live])
				}
			})
		})
	}
}

// A config that the kernel has never taken is nothing to go back to.
func TestTrialAfterAConfigThatNeverWorked(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.in(t, func(context.Context) {
			r.table.fail = func(int) (error, bool) { return kernel.ErrTooBig, false }
		})
		writeFile(t, r.engine.paths.Config, "[web]\ntcp = [25]\n")
		if _, err := r.try(Order{}); !errors.Is(err, kernel.ErrTooBig) {
			t.Fatal(err)
		}
		r.in(t, func(context.Context) { r.table.fail = nil })
		writeFile(t, r.engine.paths.Config, newText)
		r.in(t, func(context.Context) { // before the daemon tries again
			if _, err := r.engine.try(t.Context(), Order{Confirm: time.Minute}, false); !refusedWith(err, ExitUnprotected, "nothing to go back to") {
				t.Errorf("got %v", err)
			}
			if !r.table.admits("198.51.100.7", 8443) {
				t.Error("it was tried all the same")
			}
		})
		if _, err := r.try(Order{}); err != nil {
			t.Error(err)
		}
		writeFile(t, r.engine.paths.Config, newText+"[allow]\nfrom = [\"203.0.113.0/24\"]\n")
		r.mustTry(time.Minute)
	})
}

// readOnlyDisk can be written again later.
type readOnlyDisk struct {
	durable.OS
	readOnly atomic.Bool
}

func (d *readOnlyDisk) Create(path string) (durable.File, error) {
	if d.readOnly.Load() {
		return nil, unix.EROFS
	}
	return d.OS.Create(path)
}

func (d *readOnlyDisk) Remove(path string) error {
	if d.readOnly.Load() {
		return unix.EROFS
	}
	return d.OS.Remove(path)
}

// A config that was asked for and works is no longer the one that was rejected,
// though that could not be written down at first.
func TestRejectedConfigComesByApplyOnAReadOnlyDisk(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		disk := &readOnlyDisk{}
		r.in(t, func(context.Context) { r.engine.disk = disk })
		r.mustTry(time.Second)
		time.Sleep(2 * time.Second)
		r.expect("after the trial", isOld)
		disk.readOnly.Store(true)
		if _, err := r.try(Order{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		r.expect("applied", isNew)
		if r.hasProblem("reverted") || !r.hasProblem("state-unwritable") {
			t.Errorf("problems %+v", r.status().Problems)
		}
		if n := strings.Count(r.log.String(), "could not be kept"); n != 1 {
			t.Errorf("the log says %d times that it could not be kept", n)
		}
		disk.readOnly.Store(false)
		time.Sleep(2 * time.Minute)
		if r.hasProblem("state-unwritable") || r.lastConfig() != newText {
			t.Errorf("problems %+v, last config %q", r.status().Problems, r.lastConfig())
		}
		r.restart(nil)
		r.expect("after a restart", isNew)
	})
}

// Where there were no rules, going back removes them; but nobody has said that
// the host is to be open for good.
func TestTrialWithoutRulesBeforeLeavesNoHostOpen(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		r.in(t, func(ctx context.Context) {
			if _, err := r.engine.try(ctx, Order{Confirm: time.Minute}, true); err != nil {
				t.Error(err)
			}
		})
		r.expect("on trial", isNew)
		time.Sleep(time.Minute + time.Second)
		r.expect("after the deadline", isOpen)
		r.restart(nil)
		r.expect("after a restart", isOpen)
		r.restart(func() { r.clock.boots++ })
		r.expect("after another boot", isOld)
		r.restart(nil)
		r.expect("after another restart", isOld)
		r.in(t, func(ctx context.Context) {
			if _, err := r.engine.Off(ctx, 0); err != nil {
				t.Error(err)
			}
		})
		r.restart(func() { r.clock.boots++ })
		r.expect("switched off, and after another boot", isOpen)
	})
}
