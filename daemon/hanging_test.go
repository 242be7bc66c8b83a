package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/ipranges"
	"github.com/cfwall/cfwall/resolvers"
	"github.com/cfwall/cfwall/systemd"
)

// A hang holds up whoever comes to it, once it has begun.
type hang struct {
	mu sync.Mutex
	up chan struct{} // nil: nothing hangs
}

func (h *hang) begin(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.up = make(chan struct{})
	t.Cleanup(func() { h.end(); synctest.Wait() }) // the work ends before its directory goes
}

func (h *hang) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up != nil {
		close(h.up)
	}
	h.up = nil
}

func (h *hang) wait() {
	h.mu.Lock()
	up := h.up
	h.mu.Unlock()
	if up != nil {
		<-up
	}
}

// hangingDisk hangs as a whole, or only as a file gets its name.
type hangingDisk struct {
	durable.OS
	all, rename hang
}

func (d *hangingDisk) Read(path string) ([]byte, error) {
	d.all.wait()
	return d.OS.Read(path)
}

func (d *hangingDisk) Create(path string) (durable.File, error) {
	d.all.wait()
	return d.OS.Create(path)
}

func (d *hangingDisk) Rename(from, to string) error {
	d.rename.wait()
	return d.OS.Rename(from, to)
}

// hangingStore hangs as it keeps the list.
type hangingStore struct {
	bookStore
	hang hang
}

func (s *hangingStore) Save(b ipranges.Book) error {
	s.hang.wait()
	return s.bookStore.Save(b)
}

// losingTable loses answers of the kernel, as package kernel then tells it: after
// half a second it reads again, and gives up after another; of a change it is not
// known whether it was made. It notes when the table was changed.
type losingTable struct {
	*fakeTable
	reads, applies, answers int           // that many of the next are lost
	slow                    time.Duration // that a read takes
	dead                    hang          // it does not even heed its context
	changed                 time.Time
}

func (l *losingTable) Read(ctx context.Context, f firewall.Family) (firewall.State, error) {
	l.dead.wait()
	for range 2 {
		if l.reads == 0 {
			return l.read(ctx, f)
		}
		l.reads--
		time.Sleep(silence)
	}
	return firewall.State{}, kernel.ErrUncertain
}

func (l *losingTable) read(ctx context.Context, f firewall.Family) (firewall.State, error) {
	select {
	case <-time.After(l.slow):
		return l.fakeTable.Read(ctx, f)
	case <-ctx.Done():
		return firewall.State{}, ctx.Err()
	}
}

func (l *losingTable) Apply(ctx context.Context, p firewall.Plan) error {
	if l.applies > 0 {
		l.applies--
		time.Sleep(silence)
		return kernel.ErrUncertain
	}
	err := l.fakeTable.Apply(ctx, p)
	l.changed = time.Now()
	if l.answers > 0 {
		l.answers--
		time.Sleep(silence)
		return kernel.ErrUncertain
	}
	return err
}

// silence is how long package kernel waits for an answer.
const silence = 500 * time.Millisecond

// hangs are all that can be made to hang about a daemon.
type hangs struct {
	*testDaemon
	table                         *losingTable
	disk                          *hangingDisk
	textfile                      *hangingDisk
	store                         *hangingStore
	config, resolvers, users, net *hang
}

// startHanging starts a daemon of which everything can be made to hang.
func startHanging(t *testing.T, log *slog.Logger, config string, prepare func(*hangs)) *hangs {
	t.Helper()
	h := &hangs{disk: &hangingDisk{}, textfile: &hangingDisk{}, config: &hang{}, resolvers: &hang{}, users: &hang{}, net: &hang{}}
	h.testDaemon = startDaemon(t, func(d *testDaemon) {
		e := d.engine
		writeFile(t, e.paths.Config, config)
		h.testDaemon, h.table = d, &losingTable{fakeTable: d.fake()}
		h.store = &hangingStore{bookStore: e.store}
		e.table, e.disk, e.textfile, e.store = h.table, h.disk, h.textfile, h.store
		e.readFile = func(path string) ([]byte, error) { h.config.wait(); return os.ReadFile(path) }
		h.surround(e)
		d.fetcher.answer = func() (ipranges.Answer, error) { h.net.wait(); return down() }
		if log != nil {
			d.opts.Log, e.log = log, log
		}
		if prepare != nil {
			prepare(h)
		}
	})
	return h
}

// surround makes what the engine reads about the host hang.
func (h *hangs) surround(e *Engine) {
	servers := newLastKnown(func(string) (resolvers.Found, error) {
		h.resolvers.wait()
		return resolvers.Found{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, nil
	})
	users := newLastKnown(func(string) (uint32, error) { h.users.wait(); return 4242, nil })
	e.resolvers, e.user = func() (resolvers.Found, error) { return servers.get("/") }, users.get
	e.patients = []*patient{servers.patient, users.patient}
}

func (d *testDaemon) fake() *fakeTable { return d.table }

// stuckLog is a log to a pipe that is full, and that nobody reads.
func stuckLog(t *testing.T) *slog.Logger {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	raw, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var full error
	if err := raw.Control(func(fd uintptr) {
		for !errors.Is(full, unix.EAGAIN) {
			_, full = unix.Write(int(fd), make([]byte, 4096))
		}
	}); err != nil {
		t.Fatal(err)
	}
	return systemd.NewQueue().Logger(w, slog.LevelInfo)
}

// wantProblem wants status to speak of a disk that hangs, and where; "" wants it not to.
func (h *hangs) wantProblem(t *testing.T, says string) {
	t.Helper()
	h.in(t, func(ctx context.Context) {
		s, err := h.engine.tableStatus(ctx)
		if err != nil {
			t.Fatal(err)
		}
		const code = "disk-hangs"
		if says == "" && has(s.Problems, code, "") || says != "" && !has(s.Problems, code, says) {
			t.Errorf("problems %v, want %s %q", s.Problems, code, says)
		}
	})
}
