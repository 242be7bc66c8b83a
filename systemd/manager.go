package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Running reports whether systemd is this host's service manager (sd_booted(3)).
func Running() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// Manager is the systemd of this host, which does what it is asked over D-Bus.
// Each method waits for the outcome, for as long as its context lasts.
type Manager struct{ conn *dbus.Conn }

// Connect reaches systemd by a socket of its own, which is there where no bus
// runs, or else by the bus.
func Connect(ctx context.Context) (*Manager, error) {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		var errBus error
		if conn, errBus = dbus.NewSystemConnectionContext(ctx); errBus != nil {
			return nil, fmt.Errorf("reaching systemd: %w; and by the bus: %w", err, errBus)
		}
	}
	return &Manager{conn}, nil
}

// Close ends the connection.
func (m *Manager) Close() { m.conn.Close() }

// Run runs a program as root and waits until it has ended well. What it says
// goes to the journal.
func (m *Manager) Run(ctx context.Context, program string, args ...string) error {
	unit := "cfwall-" + path.Base(program) + ".service"
	properties := []dbus.Property{
		dbus.PropDescription("for the installation of cfwall"),
		dbus.PropType("oneshot"),
		dbus.PropExecStart(append([]string{program}, args...), true),
		{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")}, // of a failure, too, only the journal tells
	}
	return await(ctx, "running "+program, unit, func(done chan<- string) error {
		_, err := m.conn.StartTransientUnitContext(ctx, unit, "fail", properties, done)
		return err
	})
}

// Reload has systemd read the unit files anew.
func (m *Manager) Reload(ctx context.Context) error {
	if err := m.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reloading systemd: %w", err)
	}
	return nil
}

// Enable has a unit started at every boot, from the next one on.
func (m *Manager) Enable(ctx context.Context, unit string) error {
	if _, _, err := m.conn.EnableUnitFilesContext(ctx, []string{unit}, false, false); err != nil {
		return fmt.Errorf("enabling %s: %w", unit, err)
	}
	return nil
}

// Disable ends that. A unit that does not exist is none.
func (m *Manager) Disable(ctx context.Context, unit string) error {
	if _, err := m.conn.DisableUnitFilesContext(ctx, []string{unit}, false); err != nil && !noSuchUnit(err) {
		return fmt.Errorf("disabling %s: %w", unit, err)
	}
	return nil
}

// Restart starts a unit, which may run already.
func (m *Manager) Restart(ctx context.Context, unit string) error {
	return await(ctx, "starting "+unit, unit, func(done chan<- string) error {
		_, err := m.conn.RestartUnitContext(ctx, unit, "replace", done)
		return err
	})
}

// Stop stops a unit. One that does not exist does not run.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	err := await(ctx, "stopping "+unit, unit, func(done chan<- string) error {
		_, err := m.conn.StopUnitContext(ctx, unit, "replace", done)
		return err
	})
	if noSuchUnit(err) {
		return nil
	}
	return err
}

// await waits for a job of systemd, which begin gives to it.
func await(ctx context.Context, doing, unit string, begin func(done chan<- string) error) error {
	done := make(chan string, 1) // the connection must not wait for a reader that has left
	if err := begin(done); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return &JobError{doing, unit, result}
		}
		return nil
	case <-ctx.Done():
		return &JobError{doing, unit, "no outcome in time"}
	}
}

// A JobError says that systemd did not come to a good end with a unit.
type JobError struct {
	doing  string
	Unit   string // whose journal says why
	result string
}

func (e *JobError) Error() string { return fmt.Sprintf("%s: systemd says: %s", e.doing, e.result) }

func noSuchUnit(err error) bool {
	var answer godbus.Error
	if !errors.As(err, &answer) {
		return false
	}
	switch answer.Name {
	case "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.DBus.Error.FileNotFound":
		return true
	}
	return false
}
