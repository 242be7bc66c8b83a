package daemon

import (
	"log/slog"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
)

// A million passes in one process, two years of them, leave nothing behind.
func TestAMillionPasses(t *testing.T) {
	e, _, _ := newTestEngine(t)
	e.host = func() (firewall.Host, error) { return firewall.Host{}, nil } // without IPv6 a pass costs half
	passes(t, e, 1_000_000)
}

// So it is with the kernel, whose side of a pass is made of sockets.
func TestManyPassesOfTheKernel(t *testing.T) {
	lab.Kernel(t)
	lab.New(t).Host("host").Do(func() {
		e, _, _ := newTestEngine(t)
		e.table, e.host, e.connections = kernel.New(), kernel.ReadHost, kernel.Connections
		passes(t, e, amount(10_000, 1_000_000))
	})
}

// passes does many, and looks at what the process holds before and after.
func passes(t *testing.T, e *Engine, n int) {
	t.Helper()
	d := &Daemon{engine: e, opts: Options{Log: e.log, Level: &slog.LevelVar{}}}
	do := func(n int) {
		for range n {
			if d.pass(t.Context()); d.engine.lastErr != nil {
				t.Fatal(d.engine.lastErr)
			}
		}
	}
	do(n / 100) // what is made once is there
	before, begun := holding(t), time.Now()
	do(n)
	after := holding(t)
	t.Logf("%d passes, %v each: %+v, then %+v", n, time.Since(begun)/time.Duration(n), before, after)
	if after.goroutines > before.goroutines || after.descriptors > before.descriptors {
		t.Error("goroutines or descriptors are left over")
	}
	if after.heap > before.heap+512<<10 {
		t.Errorf("%d bytes are left over", after.heap-before.heap)
	}
}

// held is what a process can hold too much of.
type held struct {
	goroutines, descriptors int
	heap                    uint64
}

func holding(t *testing.T) held {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first gave to finalizers
	runtime.ReadMemStats(&m)
	return held{runtime.NumGoroutine(), len(entries), m.HeapAlloc}
}
