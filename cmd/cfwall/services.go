package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/systemd"
)

// services is what an installation asks of systemd.
type services interface {
	Run(ctx context.Context, program string, args ...string) error
	Reload(ctx context.Context) error
	Enable(ctx context.Context, unit string) error
	Disable(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
}

// systemdPatience is more than the unit may take to start or to stop.
const systemdPatience = 2 * time.Minute

// withSystemd has f ask systemd, and says where to look for what systemd does not
// tell.
func withSystemd(cmd *cobra.Command, f func(context.Context, services) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), systemdPatience)
	defer cancel()
	manager, err := systemd.Connect(ctx)
	if err != nil {
		return refusal("nothing was changed; is systemd well? systemctl status", "%w", err)
	}
	defer manager.Close()
	err = f(ctx, manager)
	if job, ok := errors.AsType[*systemd.JobError](err); ok {
		return refusal(fmt.Sprintf("journalctl -u %s -n 20 says why; cfwall status says what is in force", strings.TrimSuffix(job.Unit, ".service")), "%w", err)
	}
	return err
}

// place writes the files and starts the service, or starts it anew. Nothing runs
// before all that it needs is there.
func place(ctx context.Context, s services, root string, files []file, warn io.Writer) error {
	if err := writeFiles(root, files); err != nil {
		return err
	}
	// The programs are in /bin also where that is not /usr/bin.
	if err := s.Run(ctx, "/bin/systemd-sysusers", filepath.Join(localPrefix, userPath)); err != nil {
		return err
	}
	if err := s.Run(ctx, "/bin/systemd-tmpfiles", "--create", filepath.Join(localPrefix, statePath)); err != nil {
		return err
	}
	updateCatalog(ctx, s, warn, "journalctl -x will not explain what cfwall logs")
	if err := s.Enable(ctx, unitName); err != nil {
		return err
	}
	if err := s.Reload(ctx); err != nil {
		return err
	}
	return s.Restart(ctx, unitName)
}

// updateCatalog has the journal know the catalog as it is. A failure does little harm.
func updateCatalog(ctx context.Context, s services, warn io.Writer, harm string) {
	if err := s.Run(ctx, "/bin/journalctl", "--update-catalog"); err != nil {
		fmt.Fprintf(warn, "warning: %s: %v\n", harm, err)
	}
}

// takeAway stops the service and removes its files, the unit first. What is gone
// already is no error.
func takeAway(ctx context.Context, s services, root string, files []file, warn io.Writer) error {
	if err := s.Disable(ctx, unitName); err != nil {
		return err
	}
	if err := s.Stop(ctx, unitName); err != nil {
		return err
	}
	for _, f := range slices.Backward(files) {
		if err := durable.Remove(durable.OS{}, filepath.Join(root, f.path)); err != nil {
			return err
		}
	}
	updateCatalog(ctx, s, warn, "the journal still knows cfwall's events")
	return s.Reload(ctx)
}
