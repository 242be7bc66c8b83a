package systemd

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells the service manager how the daemon is (sd_notify(3)). Where
// NOTIFY_SOCKET is not set nobody wants to know, and its methods do nothing;
// the same holds for a nil Notifier. A message that cannot be sent is logged
// and otherwise ignored: what the daemon does matters more than that systemd
// hears of it.
//
// One goroutine at a time may use it.
type Notifier struct {
	// Log takes what goes wrong. Nil means slog.Default().
	Log *slog.Logger

	stuck bool   // nobody read the last message in time
	owed  string // the last READY=1 that could not be sent: a reload ends with it
}

// NewNotifier returns a Notifier to the socket that NOTIFY_SOCKET names.
func NewNotifier() *Notifier { return &Notifier{} }

// Ready says that the start, or a reload, is complete. The status is one line
// for `systemctl status`.
func (n *Notifier) Ready(status string) { n.send(daemon.SdNotifyReady + "\n" + statusLine(status)) }

// Status changes the line in `systemctl status`.
func (n *Notifier) Status(text string) { n.send(statusLine(text)) }

// Reloading says that the configuration is being read again. Ready ends it.
func (n *Notifier) Reloading() {
	n.send(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping says that the daemon is about to end.
func (n *Notifier) Stopping() { n.send(daemon.SdNotifyStopping) }

// Watchdog says that the daemon works. It must be called within each
// WatchdogInterval; sd_watchdog_enabled(3) recommends half of it.
func (n *Notifier) Watchdog() { n.send(daemon.SdNotifyWatchdog) }

// WatchdogInterval is after how much silence systemd ends this process
// (WatchdogSec= of the unit), or 0 if it never does.
func (n *Notifier) WatchdogInterval() time.Duration {
	if n == nil {
		return 0
	}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log().Warn("reading the watchdog interval", "err", err)
		return 0
	}
	return interval
}

func (n *Notifier) send(state string) {
	if n == nil {
		return
	}
	if strings.HasPrefix(state, daemon.SdNotifyReady) {
		n.owed = ""
	}
	if n.owed != "" && n.try(n.owed) == nil {
		n.owed = ""
	}
	if err := n.try(state); err != nil {
		n.log().Warn("notifying systemd", "err", err)
		if strings.HasPrefix(state, daemon.SdNotifyReady) {
			n.owed = state
		}
	}
}

const (
	// patience bounds a write in case nobody reads the socket: go-systemd's own
	// SdNotify would wait for ever, and the caller enforces the policy.
	patience = 500 * time.Millisecond
	// hardly is the patience after that was in vain: it is spent once, not for
	// each of several messages in a row.
	hardly = time.Millisecond
)

func (n *Notifier) try(state string) error {
	wait := patience
	if n.stuck {
		wait = hardly
	}
	err := notify(state, wait)
	n.stuck = errors.Is(err, os.ErrDeadlineExceeded)
	return err
}

func notify(state string, wait time.Duration) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	_, err = c.Write([]byte(state))
	return err
}

func (n *Notifier) log() *slog.Logger {
	if n.Log != nil {
		return n.Log
	}
	return slog.Default()
}

// statusLine keeps a text to its line: the next one would be a message of its
// own to systemd.
func statusLine(text string) string {
	return "STATUS=" + strings.ReplaceAll(text, "\n", " ")
}
