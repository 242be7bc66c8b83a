package daemon

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/ipranges"
)

// everythingOn asks for all that may be waited for.
const everythingOn = "[tunnel]\nuser = \"cloudflared\"\n[outbound]\npolicy = \"drop\"\n"

// Whatever hangs, a reload that changes the ports is in force within a second.
func TestReloadIsInForceWithinASecond(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, *hangs){
		"nothing":                       func(*testing.T, *hangs) {},
		"the disk of the state":         func(t *testing.T, h *hangs) { h.disk.all.begin(t) },
		"the disk of the list":          func(t *testing.T, h *hangs) { h.store.hang.begin(t) },
		"the disk of the metrics":       func(t *testing.T, h *hangs) { h.textfile.all.begin(t) },
		"the files that name resolvers": func(t *testing.T, h *hangs) { h.resolvers.begin(t) },
		"the users":                     func(t *testing.T, h *hangs) { h.users.begin(t) },
		"the fetch":                     func(t *testing.T, h *hangs) { h.net.begin(t) },
		"who reads the log":             func(*testing.T, *hangs) {}, // it always does here
		"a read of the table":           func(t *testing.T, h *hangs) { h.in(t, func(context.Context) { h.table.reads = 1 }) },
		"a change of the table":         func(t *testing.T, h *hangs) { h.in(t, func(context.Context) { h.table.applies = 1 }) },
		"the answer to a change":        func(t *testing.T, h *hangs) { h.in(t, func(context.Context) { h.table.answers = 1 }) },
		"a client": func(t *testing.T, h *hangs) { // it asks, and does not wait for its answer
			for range 100 {
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					defer cancel()
					_, _ = h.status(ctx)
				}()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := stuckLog(t) // outside of the virtual time
			synctest.Test(t, func(t *testing.T) {
				text := everythingOn + "[metrics]\ntextfile = \"" + t.TempDir() + "/cfwall.prom\"\n"
				h := startHanging(t, log, text, nil)
				time.Sleep(10 * time.Second)
				begin(t, h)
				h.in(t, func(context.Context) { h.passAt, h.fetchAt = time.Now(), h.engine.sinceBoot() })
				time.Sleep(10 * time.Millisecond) // it is met by what runs besides, too
				writeFile(t, h.engine.paths.Config, text+"[web]\ntcp = [8443]\n")
				before := time.Now()
				h.reload <- syscall.SIGHUP
				time.Sleep(5 * time.Second)
				synctest.Wait()
				if h.table.admits("198.51.100.7", 8443) || !h.table.admits("198.51.100.7", 443) {
					t.Error("the reload is not in force")
				}
				if took := h.table.changed.Sub(before); took > time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A config that cannot be read is refused, and the rest goes on.
func TestTheDiskOfTheConfigHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHanging(t, nil, "", nil)
		h.config.begin(t)
		for range 3 {
			var err error
			before := time.Now()
			h.in(t, func(ctx context.Context) { _, err = h.Daemon.reload(ctx, Order{}) })
			var refusal *Refusal
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), h.engine.paths.Config) || !strings.Contains(refusal.Hint, "dmesg") {
				t.Errorf("reload: %v", err)
			}
			if took := time.Since(before); took > loopPatience {
				t.Errorf("it took %v", took)
			}
		}
		h.in(t, func(context.Context) { h.table.table = nil; h.passAt = time.Now() })
		time.Sleep(time.Second)
		if h.admits(t, "198.51.100.7", 443) {
			t.Error("the table is not kept while the config cannot be read")
		}
		h.wantProblem(t, h.engine.paths.Config)
		writeFile(t, h.engine.paths.Config, "[web]\ntcp = [8443]\n")
		h.config.end()
		synctest.Wait()
		h.reload <- syscall.SIGHUP
		synctest.Wait()
		if h.admits(t, "198.51.100.7", 8443) {
			t.Error("the config is not read again once the disk answers")
		}
		h.wantProblem(t, "")
	})
}

// What could not be written in time is not opened; and whatever of it reaches
// the disk later, a restart does not open it either.
func TestNothingIsOpenedByAWriteThatComesLate(t *testing.T) {
	network := netip.MustParsePrefix("198.51.100.0/24")
	for name, open := range map[string]func(context.Context, *Engine) error{
		"allow": func(ctx context.Context, e *Engine) error { _, err := e.Allow(ctx, network, time.Hour); return err },
		"off":   func(ctx context.Context, e *Engine) error { _, err := e.Off(ctx, time.Hour); return err },
	} {
		for place, at := range map[string]func(*hangs) *hang{
			"as a whole":           func(h *hangs) *hang { return &h.disk.all },
			"as it names the file": func(h *hangs) *hang { return &h.disk.rename },
		} {
			t.Run(name+", the disk hangs "+place, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := startHanging(t, nil, "", nil)
					at(h).begin(t)
					var err error
					before := time.Now()
					h.in(t, func(ctx context.Context) { err = open(ctx, h.engine); h.passAt = time.Now() }) // as a verb does
					var refusal *Refusal
					if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "nothing was opened") || time.Since(before) > loopPatience {
						t.Errorf("%v after %v", err, time.Since(before))
					}
					h.wantProblem(t, name+".json")
					at(h).end()
					time.Sleep(2 * time.Second)
					h.in(t, func(context.Context) {
						left, err := loadState(durable.OS{}, h.engine.paths, h.engine.clock())
						if err != nil || len(left.allowed) != 0 || left.isOff(h.engine.clock()) {
							t.Errorf("a restart would open: %+v, %v", left, err)
						}
					})
					if h.admits(t, "198.51.100.7", 443) {
						t.Error("it is open")
					}
					h.wantProblem(t, "")
					h.in(t, func(ctx context.Context) { err = open(ctx, h.engine) })
					if err != nil || !h.admits(t, "198.51.100.7", 443) {
						t.Errorf("once the disk answers: %v", err)
					}
				})
			})
		}
	}
}

// Work that was given up gives nothing its name: not even for the moment until
// what is in force is written again.
func TestWorkThatWasGivenUpNamesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, _ := newTestEngine(t)
		disk := &hangingDisk{}
		e.disk = disk
		e.hurry()
		disk.all.begin(t)
		if _, err := e.Off(t.Context(), 0); err == nil {
			t.Error("opened")
		}
		disk.all.end()
		synctest.Wait()
		if _, err := os.Stat(e.paths.off()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file is there: %v", err)
		}
	})
}

// To close does not wait for the disk; what was closed is written down as soon
// as that answers.
func TestClosingDoesNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := netip.MustParsePrefix("198.51.100.7/32")
		h := startHanging(t, nil, "", nil)
		h.in(t, func(ctx context.Context) {
			if _, err := h.engine.Allow(ctx, network, time.Hour); err != nil {
				t.Error(err)
			}
		})
		h.disk.all.begin(t)
		h.in(t, func(ctx context.Context) {
			before := time.Now()
			if err := h.engine.Disallow(ctx, network); err == nil || !strings.Contains(err.Error(), "it is closed") {
				t.Errorf("disallow: %v", err)
			}
			if h.table.changed.After(before) {
				t.Errorf("closed only after %v", h.table.changed.Sub(before))
			}
		})
		if h.admits(t, "198.51.100.7", 443) {
			t.Error("it is open")
		}
		time.Sleep(time.Hour / 2)
		h.disk.all.end()
		time.Sleep(2 * time.Second)
		h.in(t, func(context.Context) {
			if left, err := loadState(durable.OS{}, h.engine.paths, h.engine.clock()); err != nil || len(left.allowed) != 0 {
				t.Errorf("a restart would open it again: %+v, %v", left, err)
			}
		})
	})
}

// A disk that hangs at the start: closed with what is built in; what the disk
// says is in force once it answers, but for what was decided meanwhile.
func TestTheDiskHangsAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := time.Now()
		h := startHanging(t, nil, "[web]\ntcp = [443, 8443]\n", func(h *hangs) {
			e := h.engine
			entry := []firewall.Temporary{{Network: netip.MustParsePrefix("198.51.100.7/32"), Expires: time.Now().Add(time.Hour)}}
			if err := errors.Join(saveJSON(durable.OS{}, e.paths.allow(), entry), saveJSON(durable.OS{}, e.paths.off(), Off{Since: time.Now()})); err != nil {
				t.Fatal(err)
			}
			h.disk.all.begin(t)
			h.config.begin(t)
		})
		if took := time.Since(before); took > 3*startPatience {
			t.Errorf("the start took %v", took)
		}
		if h.admits(t, "198.51.100.7", 443) || !h.admits(t, "104.16.0.1", 443) {
			t.Error("not closed with the built-in list")
		}
		h.wantProblem(t, h.engine.paths.State)
		h.in(t, func(ctx context.Context) { _, _ = h.engine.On(ctx) }) // it is off on the disk, which nobody knows
		h.disk.all.end()
		h.config.end()
		time.Sleep(3 * time.Second)
		if !h.admits(t, "198.51.100.7", 8443) {
			t.Error("the entry on the disk is not in force")
		}
		if h.admits(t, "198.51.100.8", 8443) || h.admits(t, "198.51.100.8", 443) {
			t.Error("the config on the disk is not in force, or it is off though `cfwall on` came since")
		}
	})
}

// A fetch that never comes back is a failure, is not begun a second time beside
// itself, and status goes on.
func TestFetchThatNeverComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHanging(t, nil, "", func(h *hangs) { h.net.begin(t) })
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		h.in(t, func(ctx context.Context) {
			if n := len(h.fetcher.times); n != 1 {
				t.Errorf("%d fetches were begun", n)
			}
			if s, err := h.engine.tableStatus(ctx); err != nil || !has(s.Problems, "list-embedded", "") || s.Ranges.LastError == "" {
				t.Errorf("status: %+v, %v", s.Ranges, err)
			}
		})
		h.fetcher.answer = func() (ipranges.Answer, error) {
			return ipranges.Answer{List: listWith("188.42.0.0/20"), From: ipranges.FromAPI, At: time.Now(), Agreement: ipranges.Agree}, nil
		}
		h.net.end()
		time.Sleep(7 * time.Hour)
		synctest.Wait()
		if !h.admits(t, "188.42.0.1", 443) {
			t.Error("nothing is fetched any more")
		}
	})
}

// A task whose asker has gone before it began is not done.
func TestNobodyWaitsForTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startHanging(t, nil, "", nil)
		h.table.dead.begin(t)
		h.in(t, func(context.Context) { h.passAt = time.Now() })
		time.Sleep(time.Second) // the loop hangs in a pass
		done := false
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		before := time.Now()
		if err := h.do(ctx, func(context.Context) { done = true }); !errors.Is(err, context.DeadlineExceeded) || time.Since(before) != time.Second {
			t.Errorf("%v after %v", err, time.Since(before))
		}
		h.table.dead.end()
		time.Sleep(time.Second)
		h.in(t, func(context.Context) {})
		if done {
			t.Error("it was done though nobody waits for it")
		}
	})
}

// Both ends ready at once: a task that is taken after its asker has gone is not
// begun.
func TestTaskTakenTooLate(t *testing.T) {
	for range 100 { // select chooses at random
		d := &Daemon{tasks: make(chan func(context.Context), 1)}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = d.do(ctx, func(context.Context) { t.Error("it was begun") })
		select {
		case task := <-d.tasks:
			task(t.Context())
		default:
		}
	}
}
