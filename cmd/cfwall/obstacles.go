package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/daemon"
	"github.com/cfwall/cfwall/systemd"
)

// unitName is what systemd calls the daemon.
const unitName = "cfwall.service"

// obstacle says why this host, as it is, cannot get a service, or lose one.
func (o *options) obstacle(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return refusal("sudo "+strings.Join(os.Args, " "), "no permission to change the services of this host")
	}
	if !systemd.Running() {
		return refusal("run cfwall in the foreground, or under the supervisor that this host has: sudo cfwall run",
			"systemd does not run on this host, and cfwall would be a service of systemd")
	}
	holder := daemon.Holder(o.paths)
	switch {
	case holder == "":
		return o.engine(slog.DiscardHandler).HeldElsewhere(ctx)
	case !strings.HasSuffix(holder, ", "+unitName+")"):
		return refusal("end it first; its rules stay in force", "cfwall runs already, but not as %s: %s", unitName, holder)
	}
	return nil
}

// ownPaths refuses flags that the service would not have.
func ownPaths(cmd *cobra.Command) error {
	for _, name := range []string{"config", "state-dir", "runtime-dir"} {
		if cmd.Flags().Changed(name) {
			return usage("leave it out: the config is "+daemon.DefaultPaths.Config, "--%s is not for the service, which has directories of its own", name)
		}
	}
	return nil
}

// packageUnits are where a package's unit may be.
var packageUnits = []string{"/usr/lib/systemd/system/" + unitName, "/lib/systemd/system/" + unitName}

// packaged refuses what is for the package manager to do.
func packaged(root string) error {
	if slices.ContainsFunc(packageUnits, func(unit string) bool { return exists(filepath.Join(root, unit)) }) {
		return refusal("use the package manager: "+removeCommand(), "cfwall was installed by a package on this host")
	}
	return nil
}

// purgeScript is there for as long as dpkg knows a package, which may be removed.
const purgeScript = "/var/lib/dpkg/info/cfwall.postrm"

// purgeable refuses where a package was removed, but not purged: that could come
// at any time, and take the configuration from what was installed meanwhile.
func purgeable(root string) error {
	if exists(filepath.Join(root, purgeScript)) {
		return refusal("sudo apt-get purge cfwall first (it opens the ports until the installation), or install the package again",
			"a package of cfwall was removed here, but not purged, and its purge would remove the configuration")
	}
	return nil
}

// removeCommand is how the package manager of this host removes cfwall.
func removeCommand() string {
	for _, manager := range []struct{ program, command string }{
		{"/usr/bin/dpkg", "sudo apt-get remove cfwall"},
		{"/usr/bin/pacman", "sudo pacman -R cfwall"},
		{"/usr/bin/zypper", "sudo zypper remove cfwall"},
	} {
		if exists(manager.program) {
			return manager.command
		}
	}
	return "sudo dnf remove cfwall"
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// inTheWay says what on the host at root would not let the files of an
// installation have their effect.
func inTheWay(root string, files []file) error {
	if err := cmp.Or(packaged(root), purgeable(root)); err != nil {
		return err
	}
	if other := filepath.Join(root, packagePrefix, programPath); exists(other) {
		return refusal("remove it, as older versions have put it there: sudo rm "+other, "there is a second cfwall at %s", other)
	}
	if err := otherUnit(root, filepath.Join(root, localPrefix, unitPath)); err != nil {
		return err
	}
	return unwritable(root, files)
}

// otherUnit refuses where systemd would not use our unit.
func otherUnit(root, ours string) error {
	unit, err := systemd.ReadUnit(root, unitName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case unit.Masked:
		return refusal("let it be started again: sudo systemctl unmask cfwall", "%s is masked", unitName)
	case unit.File != ours:
		return refusal(fmt.Sprintf("remove it: sudo rm %s (settings of your own belong into: systemctl edit cfwall)", unit.File),
			"systemd would use %s in place of the unit of this version", unit.File)
	}
	return nil
}

// enabledUnits is where systemd notes which units it starts.
const enabledUnits = "/etc/systemd/system"

// unwritable refuses where a file could not be written, before any is.
func unwritable(root string, files []file) error {
	for _, f := range append([]file{{path: filepath.Join(enabledUnits, unitName)}}, files...) {
		dir := existing(filepath.Dir(filepath.Join(root, f.path)))
		if err := unix.Access(dir, unix.W_OK); err != nil {
			return refusal("make it writable, or run cfwall in the foreground: sudo cfwall run", "nothing can be written to %s: %w", dir, err)
		}
	}
	return nil
}

// existing is the closest directory above that is there.
func existing(dir string) string {
	for !exists(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}
