package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/firewall/neighbours"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/resolvers"
	"github.com/cfwall/cfwall/sshd"
)

// fakeTable is a table in memory that does what it is told.
type fakeTable struct {
	table      *firewall.Ruleset
	generation uint32
	applied    int
	// fail, if set, decides how an Apply ends; done says whether it was carried out.
	fail func(n int) (err error, done bool)
	// readErr is what Read returns.
	readErr error
	reads   int
	// afterApply, if set, is what others do after each Apply.
	afterApply func(n int)
}

var _ Table = (*fakeTable)(nil)

func (f *fakeTable) Read(context.Context, firewall.Family) (firewall.State, error) {
	f.reads++
	if f.readErr != nil || f.table == nil {
		return firewall.State{Generation: f.generation}, f.readErr
	}
	copied := *f.table
	copied.Chains, copied.Sets = slices.Clone(copied.Chains), slices.Clone(copied.Sets) // op changes them in place
	return firewall.State{Table: &copied, Generation: f.generation}, nil
}

func (f *fakeTable) Apply(_ context.Context, p firewall.Plan) error {
	f.applied++
	err, done := error(nil), true
	if f.fail != nil {
		err, done = f.fail(f.applied)
	}
	if done {
		for _, step := range p.Steps {
			f.generation++
			for _, op := range step {
				f.op(p.Family, op)
			}
		}
	}
	if f.afterApply != nil {
		f.afterApply(f.applied)
	}
	return err
}

func (f *fakeTable) op(family firewall.Family, op firewall.Op) {
	switch op := op.(type) {
	case firewall.AddTable:
		if f.table == nil {
			f.table = &firewall.Ruleset{Family: family}
		}
		f.table.Flags = 0
	case firewall.DeleteTable:
		f.table = nil
	case firewall.AddSet:
		s := op.Set
		s.Elements = nil
		f.table.Sets = append(f.table.Sets, s)
	case firewall.AddCounter:
		f.table.Counters = append(f.table.Counters, op.Counter)
	case firewall.AddChain:
		c := op.Chain
		c.Rules = nil
		f.table.Chains = append(f.table.Chains, c)
	case firewall.SetRules:
		i := slices.IndexFunc(f.table.Chains, func(c firewall.Chain) bool { return c.Name == op.Chain.Name })
		f.table.Chains[i].Rules = op.Chain.Rules
	case firewall.AddElements:
		s := f.set(op.Set.Name)
		s.Elements = append(slices.Clone(s.Elements), op.Elements...)
	case firewall.DeleteElements:
		s := f.set(op.Set.Name)
		s.Elements = slices.DeleteFunc(slices.Clone(s.Elements), func(e firewall.Element) bool { return slices.Contains(op.Elements, e) })
	default:
		panic("fakeTable: " + op.String())
	}
}

func (f *fakeTable) set(name string) *firewall.Set {
	return &f.table.Sets[slices.IndexFunc(f.table.Sets, func(s firewall.Set) bool { return s.Name == name })]
}

// admits asks the table that is in force.
func (f *fakeTable) admits(source string, port uint16) bool {
	if f.table == nil {
		return true
	}
	return f.table.Decide(firewall.Packet{Source: netip.MustParseAddr(source), Protocol: "tcp", Port: port, Opening: true}).Verdict == firewall.Accept
}

func (f *fakeTable) Port() uint32 { return 7 }

func (f *fakeTable) Remembered(context.Context, firewall.Family, ...string) ([]kernel.Remembered, error) {
	return nil, nil
}

// fakeWatch tells what tests have others do. The zero value never has news.
type fakeWatch struct {
	news    chan struct{}
	changes []kernel.Change
	lost    bool
}

func (w *fakeWatch) News() <-chan struct{} { return w.news }

func (w *fakeWatch) Take() ([]kernel.Change, bool) {
	changes, lost := w.changes, w.lost
	w.changes, w.lost = nil, false
	return changes, lost
}

// fakeClock goes with the time of the test, which synctest may let fly.
type fakeClock struct {
	mu        sync.Mutex
	stepped   time.Duration // of the wall clock, by somebody who set it
	suspended time.Duration // for so long no timer ran
	boots     int
}

// giveTo is also called after another boot.
func (c *fakeClock) giveTo(e *Engine) {
	e.boot = fmt.Sprint("boot ", c.boots)
	e.sinceBoot = func() time.Duration {
		c.mu.Lock()
		defer c.mu.Unlock()
		begun := time.Unix(0, 0).Add(time.Duration(c.boots) * 1000 * time.Hour) // others began at other times
		return time.Since(begun) + c.suspended
	}
	e.wallClock = func() time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		return time.Now().Add(c.suspended + c.stepped)
	}
}

// set is what somebody does to the clock, behind the daemon's back.
func (c *fakeClock) set(jump func(*fakeClock)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	jump(c)
}

// fakeFetcher answers what it is told, or hangs until the context ends.
type fakeFetcher struct {
	answer func() (ipranges.Answer, error) // nil: hang
	times  []time.Time
}

var _ Fetcher = (*fakeFetcher)(nil)

func (f *fakeFetcher) Fetch(ctx context.Context, _ ipranges.Source) (ipranges.Answer, error) {
	f.times = append(f.times, time.Now())
	if f.answer == nil {
		<-ctx.Done()
		return ipranges.Answer{}, ctx.Err()
	}
	return f.answer()
}

var errDown = errors.New("the network is down")

func down() (ipranges.Answer, error) { return ipranges.Answer{}, errDown }

// newTestEngine makes an engine on a host in memory, with its files in a
// directory of the test.
func newTestEngine(t testing.TB) (*Engine, *fakeTable, *fakeFetcher) {
	t.Helper()
	dir := t.TempDir()
	paths := Paths{Config: filepath.Join(dir, "config.toml"), State: filepath.Join(dir, "state"), Runtime: filepath.Join(dir, "run")}
	e := NewEngine(paths, "test", slog.New(slog.DiscardHandler))
	table, fetcher := &fakeTable{}, &fakeFetcher{answer: down}
	e.table, e.fetcher = table, fetcher
	e.host = func() (firewall.Host, error) { return firewall.Host{IPv6: true}, nil }
	e.ssh = sshOn(22)
	e.resolvers = testResolvers
	e.connections = func() ([]kernel.Connection, error) { return nil, nil }
	e.ready = func(context.Context, config.Ready) []cloudflared.Instance {
		return []cloudflared.Instance{{Address: "127.0.0.1:20241", Ready: true, Connections: 4}}
	}
	e.watchRules = func(context.Context) (rulesWatch, error) { return &fakeWatch{}, nil }
	e.flows = func(context.Context) ([]cloudflared.Flow, error) { return nil, nil }
	e.neighbours = func(context.Context, func(neighbours.Ruleset)) error { return nil }
	made := time.Now()
	e.sinceBoot = func() time.Duration { return time.Hour + time.Since(made) }
	e.LoadState()
	return e, table, fetcher
}

func testResolvers() (resolvers.Found, error) {
	return resolvers.Found{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, File: "/etc/resolv.conf"}, nil
}

// listWith is the embedded list and more.
func listWith(networks ...string) ipranges.List {
	l := ipranges.Embedded().List
	for _, n := range networks {
		l = l.Union(ipranges.NewList(netip.MustParsePrefix(n)))
	}
	return l
}

// sshOn says that SSH listens on ports.
func sshOn(ports ...uint16) func(firewall.Policy, sshd.Session) (sshd.Host, error) {
	return func(firewall.Policy, sshd.Session) (sshd.Host, error) {
		var h sshd.Host
		for _, port := range ports {
			h.Servers = append(h.Servers, sshd.Server{Address: netip.AddrPortFrom(netip.IPv6Unspecified(), port), Program: "sshd"})
		}
		return h, nil
	}
}
