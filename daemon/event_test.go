package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/sshd"
)

// told lists the events of the log, with their levels, since it was last asked.
func (d *testDaemon) told(t *testing.T) string {
	t.Helper()
	synctest.Wait()
	d.in(t, func(context.Context) {}) // after which the daemon says how things are
	var all []string
	d.in(t, func(context.Context) {
		for _, m := range regexp.MustCompile(`level=(\S+) .* event=(\S+)`).FindAllStringSubmatch(d.log.String(), -1) {
			all = append(all, m[1]+" "+m[2])
		}
		d.log.Reset()
	})
	return strings.Join(all, ", ")
}

// expectTold says what has happened, and of which events the log is to tell, each
// once.
func (d *testDaemon) expectTold(t *testing.T, what, want string) {
	t.Helper()
	if got := d.told(t); got != want {
		t.Errorf("%s: the log tells of %q, want %q", what, got, want)
	}
}

func (d *testDaemon) must(t *testing.T, order func(context.Context) error) {
	t.Helper()
	d.in(t, func(ctx context.Context) {
		if err := order(ctx); err != nil {
			t.Error(err)
		}
		d.passAt = time.Now() // as inLoop
	})
}

// saying answers with the built-in list and more.
func saying(agreement string, networks ...string) func() (ipranges.Answer, error) {
	return func() (ipranges.Answer, error) {
		return ipranges.Answer{List: listWith(networks...), From: ipranges.FromAPI, At: time.Now(), Agreement: agreement, Doubt: "they differ"}, nil
	}
}

func TestEventsOfConfigs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) {
			d.engine.table, d.engine.ssh = modeTable{d.table}, sshOn(2222)
			d.fetcher.answer = saying(ipranges.Agree)
		})
		d.expectTold(t, "the start", "INFO+2 degraded, INFO protected")
		for _, c := range []struct{ text, want string }{
			{"[web]\ntcp = [8443]\n", "INFO+2 config-loaded, INFO protected"},
			{"[web]\ntcp = [8443] # the same\n", "INFO+2 config-loaded"},
			{"[web]\ntpc = [443]\n", "ERROR config-refused, INFO+2 degraded"},
			{"[web]\ntpc = [443]\n", "ERROR config-refused"},
			{"[web]\ntcp = [2222]\n", "ERROR config-refused"}, // SSH listens there
			{"audit = true\n", "INFO+2 config-loaded, WARN audit"},
			{"audit = false\n", "INFO+2 config-loaded, INFO protected"},
		} {
			writeFile(t, d.engine.paths.Config, c.text)
			d.reload <- syscall.SIGHUP
			d.expectTold(t, c.text, c.want)
		}
	})
}

func TestEventsOfAStart(t *testing.T) {
	for text, want := range map[string]string{
		"[web]\ntpc = [443]\n":  "ERROR config-refused, INFO+2 degraded",
		"[web]\ntcp = [2222]\n": "ERROR ssh-left-open, INFO+2 degraded",
	} {
		synctest.Test(t, func(t *testing.T) {
			d := startDaemon(t, func(d *testDaemon) {
				writeFile(t, d.engine.paths.Config, text)
				d.engine.ssh, d.fetcher.answer = sshOn(2222), saying(ipranges.Agree)
			})
			d.expectTold(t, text, want)
		})
	}
}

func TestEventsOfCommands(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		time.Sleep(time.Hour)
		r.told(t)
		network := netip.MustParsePrefix("198.51.100.0/24")
		r.must(t, func(ctx context.Context) error { _, err := r.engine.Allow(ctx, network, time.Hour); return err })
		r.expectTold(t, "allow", "INFO+2 allowed")
		r.must(t, func(ctx context.Context) error { return r.engine.Disallow(ctx, network) })
		r.expectTold(t, "disallow", "INFO+2 disallowed")
		r.must(t, func(ctx context.Context) error { _, err := r.engine.Off(ctx, 0); return err })
		r.expectTold(t, "off", "WARN opened")
		r.must(t, func(ctx context.Context) error { _, err := r.engine.On(ctx); return err })
		r.expectTold(t, "on", "INFO+2 degraded")
		r.must(t, func(ctx context.Context) error { _, err := r.engine.Off(ctx, time.Minute); return err })
		time.Sleep(2 * time.Minute)
		r.expectTold(t, "off for a minute", "WARN opened, INFO+2 degraded")
	})
}

func TestEventsOfTrials(t *testing.T) {
	rehearse(t, func(t *testing.T, r *rehearsal) {
		time.Sleep(time.Hour)
		r.told(t)
		r.mustTry(time.Minute)
		r.expectTold(t, "the begin", "INFO+2 trial-started, INFO+2 degraded")
		r.restart(nil)
		r.expectTold(t, "a restart meanwhile", "INFO+2 trial-started, INFO+2 degraded")
		time.Sleep(2 * time.Minute)
		r.expectTold(t, "the deadline", "WARN trial-reverted, INFO+2 degraded")
		r.restart(nil)
		r.expectTold(t, "a restart later", "WARN trial-reverted, INFO+2 degraded")
		r.mustTry(time.Minute)
		r.told(t)
		if err := r.confirm(sshd.Session{}); err != nil {
			t.Error(err)
		}
		r.expectTold(t, "confirmed", "INFO+2 trial-confirmed, INFO+2 degraded")
		writeFile(t, r.engine.paths.Config, newText+"\n[allow]\nfrom = [\"192.0.2.1\"]\n")
		r.mustTry(time.Minute)
		r.told(t)
		r.stop()
		writeFile(t, r.engine.paths.trial(), "{")
		r.restart(nil)
		r.expectTold(t, "an unreadable record", "ERROR state-failed, INFO+2 degraded")
	})
}

func TestEventsOfTheTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, watch := watchedDaemon(t)
		time.Sleep(time.Hour)
		d.told(t)
		d.meddle(t, watch, byNft, func() { d.table.table = nil })
		d.expectTold(t, "another program deletes it", "WARN repaired")
		d.in(t, func(context.Context) { d.table.readErr = kernel.ErrBusy })
		time.Sleep(10 * time.Minute)
		d.expectTold(t, "the kernel does not answer", "ERROR unprotected")
		d.in(t, func(context.Context) { d.table.readErr = nil })
		time.Sleep(2 * time.Minute)
		d.expectTold(t, "it does again", "INFO+2 degraded")
	})
}

func TestEventsOfTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) { d.fetcher.answer = saying(ipranges.Agree) })
		time.Sleep(time.Minute)
		d.expectTold(t, "the list is unchanged", "INFO+2 degraded, INFO protected")
		answers := func(f func() (ipranges.Answer, error)) {
			t.Helper()
			d.in(t, func(context.Context) { d.fetcher.answer = f })
		}
		fetch := func(f func() (ipranges.Answer, error), want string) {
			t.Helper()
			answers(f)
			d.in(t, func(ctx context.Context) { _, _ = d.engine.FetchRanges(ctx) })
			d.expectTold(t, "a fetch", want)
		}
		fetch(saying(ipranges.Agree, "188.42.0.0/20"), "INFO+2 list-changed, INFO protected")
		fetch(saying(ipranges.Agree), "") // a removal is believed later
		fetch(saying(ipranges.Disagree, "188.42.0.0/20", "189.42.0.0/20"), "WARN list-held, INFO+2 degraded")
		fetch(saying(ipranges.Disagree, "188.42.0.0/20"), "INFO protected") // the list in force, whatever the pages say
		d.must(t, func(ctx context.Context) error { _, err := d.engine.RollbackRanges(ctx); return err })
		d.expectTold(t, "rolled back", "INFO+2 list-changed, INFO+2 degraded")
		fetch(saying(ipranges.Agree, "188.42.0.0/20"), "") // what a human has undone
		fetch(down, "INFO+2 fetch-failed")
		answers(saying(ipranges.Agree))
		time.Sleep(24 * time.Hour)
		answers(down)
		time.Sleep(9 * 24 * time.Hour)
		d.told(t)
		fetch(down, "WARN list-stale")
	})
}

// cloudflared is asked once a minute, in mode tunnel alone. It counts as down when
// it was so twice.
func TestEventsOfTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked, connections atomic.Int32
		d := startDaemon(t, func(d *testDaemon) {
			writeFile(t, d.engine.paths.Config, tunnelConfig(`"auto"`))
			d.fetcher.answer = saying(ipranges.Agree)
			d.engine.table = modeTable{d.table}
			d.engine.ready = func(context.Context, config.Ready) []cloudflared.Instance {
				asked.Add(1)
				return instances(int(connections.Load()))
			}
		})
		expect := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			d.expectTold(t, after.String()+" later", want)
		}
		expect(90*time.Second, "INFO+2 degraded, INFO protected")
		expect(time.Minute, "WARN tunnel-down")
		expect(time.Hour, "")
		connections.Store(4)
		expect(time.Minute, "INFO+2 tunnel-up")
		for range 30 {
			d.hostChanged <- struct{}{} // has a pass be done
			expect(time.Second, "")
		}
		expect(time.Hour, "")
		if n := asked.Load(); n < 120 || n > 125 {
			t.Errorf("asked %d times in two hours", n)
		}
		connections.Store(0)
		expect(time.Minute, "") // it may be back at once
		connections.Store(4)
		expect(time.Hour, "")
		connections.Store(0)
		expect(2*time.Minute, "WARN tunnel-down")
		writeFile(t, d.engine.paths.Config, "audit = false\n")
		d.reload <- syscall.SIGHUP
		d.told(t)
		asked.Store(0)
		expect(time.Hour, "")
		if asked.Load() > 0 {
			t.Error("asked in mode cloudflare")
		}
	})
}

// What fails with each pass is said once, and again when it fails anew.
func TestRecurrentErrorsAreSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := startDaemon(t, func(d *testDaemon) {
			writeFile(t, d.engine.paths.Config, fmt.Sprintf("[metrics]\ntextfile = %q\n", d.engine.paths.Config+"/no.prom"))
			d.engine.watchRules = func(context.Context) (rulesWatch, error) { return nil, errDown }
		})
		time.Sleep(time.Hour)
		d.in(t, func(context.Context) {
			for _, text := range []string{"the metrics could not be written", "the ruleset cannot be watched"} {
				if n := strings.Count(d.log.String(), text); n != 1 {
					t.Errorf("%q is said %d times", text, n)
				}
			}
			d.log.Reset()
			d.engine.watchRules = func(context.Context) (rulesWatch, error) { return &fakeWatch{}, nil }
		})
		time.Sleep(time.Hour)
		d.in(t, func(context.Context) {
			d.rules = nil
			d.engine.watchRules = func(context.Context) (rulesWatch, error) { return nil, errDown }
		})
		time.Sleep(time.Hour)
		d.in(t, func(context.Context) {
			if n := strings.Count(d.log.String(), "the ruleset cannot be watched"); n != 1 {
				t.Errorf("when it fails anew it is said %d times", n)
			}
		})
	})
}
