package daemon

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall/kernel"
)

// startTrial puts a config on trial where no daemon runs: the engine is the one of
// a command that has taken over what is in force.
func startTrial(t *testing.T, lasting time.Duration) (*Daemon, *fakeTable, Report) {
	t.Helper()
	e, table, _ := newTestEngine(t)
	writeFile(t, e.paths.Config, oldText)
	e.LoadConfigOrFallback()
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(e.paths.Runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, e.paths.Config, newText)
	report, err := e.try(t.Context(), Order{Confirm: lasting}, false)
	if err != nil || !table.admits("198.51.100.7", 443) {
		t.Fatal("it is not on trial", err)
	}
	return newDaemon(e, Options{Paths: e.paths, Log: e.log, Level: &slog.LevelVar{}}), table, report
}

// A command that is the daemon ends when the old config is in force, and not when
// it has only tried: it is the last who could try again.
func TestTrialWithoutADaemonGoesBackInTheEnd(t *testing.T) {
	for name, interrupt := range map[string]bool{"at the deadline": false, "on Ctrl-C": true} {
		t.Run(name, func(t *testing.T) {
			d, table, report := startTrial(t, shortestTrial)
			table.readErr = kernel.ErrBusy
			timer := time.AfterFunc(shortestTrial+200*time.Millisecond, func() {
				_ = d.do(t.Context(), func(context.Context) { table.readErr = nil })
			})
			defer timer.Stop()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if interrupt {
				cancel()
			}
			trial, err := d.serveTrial(ctx, report)
			if err != nil || trial.Reverted.IsZero() || table.admits("198.51.100.7", 443) {
				t.Errorf("it has ended with %+v, %v; the config on trial is in force: %v", trial, err, table.admits("198.51.100.7", 443))
			}
		})
	}
}
