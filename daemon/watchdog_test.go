package daemon

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/systemd"
)

// watchdog is the WatchdogSec of the unit.
const watchdog = 30 * time.Second

// listenAsSystemd stands where systemd listens. Fed returns whether the watchdog
// was fed since it was last asked; it waits for nothing, so that it can be asked
// in virtual time.
func listenAsSystemd(t *testing.T) (fed func() bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", "")
	return func() (fed bool) {
		buffer := make([]byte, 4096)
		for {
			n, _, err := unix.Recvfrom(fd, buffer, 0)
			if err != nil {
				return fed
			}
			fed = fed || strings.Contains(string(buffer[:n]), "WATCHDOG=1")
		}
	}
}

// longestSilence is for how long the watchdog is not fed within a time.
func longestSilence(fed func() bool, within time.Duration) time.Duration {
	longest, last, begin := time.Duration(0), time.Now(), time.Now()
	for time.Since(begin) < within {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if fed() {
			last = time.Now()
		}
		longest = max(longest, time.Since(last))
	}
	return longest
}

// Whatever else hangs, the watchdog is fed in time: by passes.
func TestWatchdogIsFedWhateverHangs(t *testing.T) {
	for name, begin := range map[string]func(*testing.T, *hangs){
		"nothing": func(*testing.T, *hangs) {},
		"everything but the kernel": func(t *testing.T, h *hangs) {
			for _, one := range []*hang{&h.disk.all, &h.store.hang, &h.textfile.all, h.config, h.resolvers, h.users, h.net} {
				one.begin(t)
			}
		},
		"every answer is lost": func(t *testing.T, h *hangs) {
			h.in(t, func(context.Context) { h.table.reads, h.table.applies = 1<<30, 1<<30 })
		},
		"every answer to a change is lost, and nothing becomes of it": func(t *testing.T, h *hangs) {
			h.in(t, func(context.Context) { h.table.applies = 1 << 30; h.table.table = nil })
		},
		"the table is large, and every answer to a change is lost": func(t *testing.T, h *hangs) {
			h.in(t, func(context.Context) { h.table.slow, h.table.applies, h.table.table = 4*time.Second, 1<<30, nil })
		},
		"reload after reload": func(t *testing.T, h *hangs) {
			h.config.begin(t)
			go func() {
				for range 60 {
					_ = h.do(t.Context(), func(ctx context.Context) { _, _ = h.Daemon.reload(ctx, Order{}) })
					time.Sleep(time.Second)
				}
			}()
		},
	} {
		t.Run(name, func(t *testing.T) {
			fed, log := listenAsSystemd(t), stuckLog(t)
			synctest.Test(t, func(t *testing.T) {
				h := startHanging(t, log, everythingOn+"[metrics]\ntextfile = \""+t.TempDir()+"/cfwall.prom\"\n", func(h *hangs) {
					h.opts.Notify = systemd.NewNotifier()
					h.opts.Notify.Log = log
				})
				begin(t, h)
				if silent := longestSilence(fed, 10*time.Minute); silent >= watchdog {
					t.Errorf("it is not fed for %v", silent)
				}
			})
		})
	}
}

// A loop that hangs does not feed it, whatever else goes on.
func TestWatchdogSeesTheLoopHang(t *testing.T) {
	fed := listenAsSystemd(t)
	synctest.Test(t, func(t *testing.T) {
		h := startHanging(t, nil, "", func(h *hangs) { h.opts.Notify = systemd.NewNotifier() })
		time.Sleep(time.Minute)
		synctest.Wait()
		if !fed() {
			t.Error("it is not fed at all")
		}
		h.table.dead.begin(t) // whose context it does not heed
		time.Sleep(watchdog)
		synctest.Wait()
		fed()
		if silent := longestSilence(fed, 2*time.Minute); silent < 2*time.Minute {
			t.Errorf("it was fed after %v, though no pass ends", silent)
		}
	})
}

// The bounds of what may come between two feedings leave the watchdog time.
func TestTheBoundsFitTheWatchdog(t *testing.T) {
	disks := 5 * loopPatience // config, state, text file, users, resolvers
	if most := watchdog/2 + longestPass + longestCut + disks + time.Second; most >= watchdog {
		t.Errorf("%v may pass between two feedings", most)
	}
}
