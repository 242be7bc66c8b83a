package systemd

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serviceManager stands where systemd listens, and returns what it is told
// next.
func serviceManager(t *testing.T) (next func() string) {
	t.Helper()
	conn := idleManager(t)
	return func() string {
		t.Helper()
		buffer := make([]byte, 4096)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
}

func TestNotifier(t *testing.T) {
	next := serviceManager(t)
	n := NewNotifier()
	tests := []struct {
		name, want string
		notify     func()
	}{
		{"ready", "READY=1\nSTATUS=mode cloudflare", func() { n.Ready("mode cloudflare") }},
		{"status", "STATUS=22 networks, 3 h old", func() { n.Status("22 networks, 3 h old") }},
		{"status of two lines", "STATUS=bad READY=1", func() { n.Status("bad\nREADY=1") }},
		{"ready with a status of two lines", "READY=1\nSTATUS=a WATCHDOG=trigger", func() { n.Ready("a\nWATCHDOG=trigger") }},
		{"stopping", "STOPPING=1", n.Stopping},
		{"watchdog", "WATCHDOG=1", n.Watchdog},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.notify()
			if got := next(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// idleManager stands where systemd listens, and reads nothing.
func idleManager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

// monotonic is CLOCK_MONOTONIC in microseconds.
func monotonic(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

func TestReloadingHasTheTime(t *testing.T) {
	next := serviceManager(t)
	before := monotonic(t)
	NewNotifier().Reloading()
	after := monotonic(t)
	var at int64
	got := next()
	if _, err := fmt.Sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%d\n", &at); err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	if at < before || at > after {
		t.Errorf("the time is %d, want one from %d to %d", at, before, after)
	}
}

// everything calls every method that sends.
func everything(n *Notifier) {
	n.Ready("status")
	n.Status("status")
	n.Reloading()
	n.Stopping()
	n.Watchdog()
}

func TestNotifierWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	var log bytes.Buffer
	n := NewNotifier()
	n.Log = slog.New(slog.NewTextHandler(&log, nil))
	everything(n)
	if interval := n.WatchdogInterval(); interval != 0 {
		t.Errorf("watchdog interval %s, want none", interval)
	}
	if log.Len() > 0 {
		t.Errorf("logged:\n%s", &log)
	}
}

func TestNilNotifier(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	t.Setenv("WATCHDOG_USEC", "1000000")
	var n *Notifier
	everything(n)
	if interval := n.WatchdogInterval(); interval != 0 {
		t.Errorf("watchdog interval %s, want none", interval)
	}
}

func TestNotifierLogsFailures(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	var log bytes.Buffer
	n := NewNotifier()
	n.Log = slog.New(slog.NewTextHandler(&log, nil))
	everything(n)
	if got := strings.Count(log.String(), `level=WARN msg="notifying systemd" err=`); got != 5 {
		t.Errorf("%d warnings, want 5:\n%s", got, &log)
	}
}

func TestNotifierLogsToTheDefault(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Setenv("WATCHDOG_USEC", "often")
	NewNotifier().WatchdogInterval()
	if !strings.Contains(log.String(), "reading the watchdog interval") {
		t.Errorf("logged %q", &log)
	}
}

func TestWatchdogInterval(t *testing.T) {
	tests := []struct {
		name, usec, pid string
		want            time.Duration
		warns           bool
	}{
		{"OK none", "", "", 0, false},
		{"OK for every process", "30000000", "", 30 * time.Second, false},
		{"OK for this process", "1500000", strconv.Itoa(os.Getpid()), 1500 * time.Millisecond, false},
		{"OK for another process", "1500000", "1", 0, false},
		{"bad interval", "30s", "", 0, true},
		{"bad negative", "-1", "", 0, true},
		{"bad pid", "1500000", "me", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("WATCHDOG_USEC", tt.usec)
			t.Setenv("WATCHDOG_PID", tt.pid)
			var log bytes.Buffer
			n := &Notifier{Log: slog.New(slog.NewTextHandler(&log, nil))}
			if got := n.WatchdogInterval(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			if warned := log.Len() > 0; warned != tt.warns {
				t.Errorf("logged %q", &log)
			}
		})
	}
}

// A service manager that reads nothing must not hold up the daemon.
func TestNobodyReadsTheSocket(t *testing.T) {
	idleManager(t)
	var log bytes.Buffer
	n := &Notifier{Log: slog.New(slog.NewTextHandler(&log, nil))}
	for log.Len() == 0 { // until the queue is full, which is after a few hundred
		n.Status("still here")
	}
	if !strings.Contains(log.String(), "timeout") {
		t.Errorf("logged is %q", log.String())
	}
}

// Several messages in a row to a service manager that reads nothing are waited
// for once; it hears of the end of a reload as soon as it reads again.
func TestNobodyReadsTheSocketForAWhile(t *testing.T) {
	l := idleManager(t)
	n := &Notifier{Log: slog.New(slog.DiscardHandler)}
	sent := 0
	for ; !n.stuck; sent++ {
		n.Status("still here")
	}
	before := time.Now()
	for range 50 {
		n.Reloading()
		n.Ready("protected")
	}
	if took := time.Since(before); took > 25*patience { // were each waited for, it would be twice as much
		t.Errorf("100 messages took %v", took)
	}
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	for range sent - 1 {
		if _, err := l.Read(buffer); err != nil {
			t.Fatal(err)
		}
	}
	n.Watchdog()
	for _, want := range []string{"READY=1\nSTATUS=protected", "WATCHDOG=1"} {
		if got, err := l.Read(buffer); err != nil || string(buffer[:got]) != want {
			t.Errorf("got %q, %v, want %q", buffer[:got], err, want)
		}
	}
}
