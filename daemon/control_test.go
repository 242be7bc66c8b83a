package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cfwall/cfwall/ipranges"
)

// serveTest runs the loop and the control socket of a daemon in memory.
func serveTest(t *testing.T) (*Client, *Daemon, *fakeTable, *fakeFetcher) {
	t.Helper()
	engine, table, fetcher := newTestEngine(t)
	engine.self.Running = true
	d := newDaemon(engine, Options{Paths: engine.paths, Log: engine.log, Level: &slog.LevelVar{}})
	ctx, cancel := context.WithCancel(t.Context())
	release, err := engine.paths.acquire("run")
	if err == nil {
		err = d.start(ctx)
	}
	if err == nil {
		err = d.listen(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); d.loop(ctx, nil, nil) }()
	t.Cleanup(func() { cancel(); <-ended; d.closeControl(); release() })
	client, err := Dial(engine.paths)
	if err != nil {
		t.Fatal(err)
	}
	return client, d, table, fetcher
}

func TestClientAndDaemon(t *testing.T) {
	c, d, table, fetcher := serveTest(t)
	ctx := t.Context()
	s, err := c.Status(ctx)
	if err != nil || !s.Daemon.Running || !s.Table.Matches {
		t.Errorf("status %+v, %v", s, err)
	}
	network := netip.MustParsePrefix("198.51.100.7/32")
	if _, err := c.Allow(ctx, network, time.Hour); err != nil || !table.admits("198.51.100.7", 443) {
		t.Errorf("allow: %v", err)
	}
	if entries, err := c.Allowed(ctx); err != nil || len(entries) != 1 || entries[0].Network != network {
		t.Errorf("allowed: %v, %v", entries, err)
	}
	if err := c.Disallow(ctx, network); err != nil || table.admits("198.51.100.7", 443) {
		t.Errorf("disallow: %v", err)
	}
	if _, err := c.Off(ctx, time.Hour); err != nil || table.table != nil {
		t.Errorf("off: %v", err)
	}
	if _, err := c.On(ctx); err != nil || table.admits("198.51.100.7", 443) {
		t.Errorf("on: %v", err)
	}
	fetcher.answer = func() (ipranges.Answer, error) {
		return ipranges.Answer{List: listWith("188.42.0.0/20"), From: ipranges.FromAPI, At: time.Now(), Agreement: ipranges.Agree}, nil
	}
	if o, err := c.FetchRanges(ctx); err != nil || o.Class != ipranges.ClassAdded || !table.admits("188.42.0.1", 443) {
		t.Errorf("fetch: %+v, %v", o, err)
	}
	if o, err := c.RollbackRanges(ctx); err != nil || o.Class != ipranges.ClassRolledBack || table.admits("188.42.0.1", 443) {
		t.Errorf("rollback: %+v, %v", o, err)
	}
	if book, err := c.Ranges(ctx); err != nil || !book.Current.List.Equal(ipranges.Embedded().List) {
		t.Errorf("ranges: %+v, %v", book, err)
	}
	if x, err := c.Why(ctx, Question{Source: netip.MustParseAddr("198.51.100.7")}); err != nil || x.Verdict != Dropped || x.Port != 443 {
		t.Errorf("why: %+v, %v", x, err)
	}
	writeFile(t, d.engine.paths.Config, "[web]\ntcp = [8443]\n")
	if p, err := c.Plan(ctx, Order{}); err != nil || p.Empty {
		t.Errorf("plan: %+v, %v", p, err)
	}
	if r, err := c.Reload(ctx, Order{}); err != nil || !r.Changed || table.admits("198.51.100.7", 8443) {
		t.Errorf("reload: %+v, %v", r, err)
	}
}

// Errors cross the socket with their hint and exit code.
func TestErrorsCrossTheSocket(t *testing.T) {
	c, d, _, _ := serveTest(t)
	writeFile(t, d.engine.paths.Config, "mode = \"cloudflair\"\n")
	_, err := c.Reload(t.Context(), Order{})
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Exit != ExitUsage || refusal.Hint == "" || !strings.Contains(refusal.Error(), "cloudflair") {
		t.Errorf("got %v", err)
	}
}

func TestSecondInstanceIsTold(t *testing.T) {
	_, d, _, _ := serveTest(t)
	_, err := d.engine.paths.acquire("apply")
	var refusal *Refusal
	if !errors.As(err, &refusal) || !strings.Contains(err.Error(), "run (pid ") {
		t.Errorf("got %v", err)
	}
}

func TestNoDaemon(t *testing.T) {
	engine, _, _ := newTestEngine(t)
	if _, err := Dial(engine.paths); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("got %v", err)
	}
	writeFile(t, engine.paths.socket(), "left by something else")
	if _, err := Dial(engine.paths); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("with a stale file: %v", err)
	}
}

// Somebody removes the control socket, or the directory with it: a minute later the
// daemon can be asked again.
func TestControlSocketThatIsRemoved(t *testing.T) {
	_, d, _, _ := serveTest(t)
	for _, what := range []string{d.opts.Paths.socket(), d.opts.Paths.Runtime} {
		if err := os.RemoveAll(what); err != nil {
			t.Fatal(err)
		}
		if _, err := Dial(d.opts.Paths); !errors.Is(err, ErrNoDaemon) {
			t.Fatalf("%s is gone, and somebody answers (%v)", what, err)
		}
		if err := d.do(t.Context(), d.pass); err != nil {
			t.Fatal(err)
		}
		c, err := Dial(d.opts.Paths)
		if err != nil {
			t.Fatalf("%s was removed: %v", what, err)
		}
		if s, err := c.Status(t.Context()); err != nil || !s.Daemon.Running {
			t.Errorf("%s was removed: %v", what, err)
		}
	}
}
