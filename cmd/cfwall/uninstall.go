package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func uninstallCommand(o *options) *cobra.Command {
	var open, yes bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Removes the service; the rules stay, unless told otherwise.",
		Long: `Stops the service and removes what cfwall install has written. The rules stay in
force until the next boot, unless --open removes them, too. The configuration,
the state and the user stay.`,
		Example: `  sudo cfwall uninstall            the rules stay in force until the next boot
  sudo cfwall uninstall --open     every port is open then`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := layout(cmd.Root(), localPrefix)
			if err != nil {
				return err
			}
			return o.uninstall(cmd, written(files), open, yes)
		},
	}
	addYes(cmd, &yes)
	cmd.Flags().BoolVar(&open, "open", false, "open every port to everybody, as cfwall off does")
	return cmd
}

// written picks what install has written, and is still there.
func written(files []file) []file {
	return slices.DeleteFunc(files, func(f file) bool { return f.theirs || !exists(f.path) })
}

func (o *options) uninstall(cmd *cobra.Command, files []file, open, yes bool) error {
	if err := cmp.Or(ownPaths(cmd), o.obstacle(cmd.Context()), notPackaged(files), unwritable("", files)); err != nil {
		return err
	}
	if len(files) == 0 && !open {
		return o.showRemains(cmd, "cfwall is not installed here")
	}
	if err := canAsk(cmd, yes); err != nil {
		return err
	}
	s, err := o.look(cmd)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s\n", uninstallText(files, open, s.Table.Present))
	if err := consent(cmd, yes, "Remove the service?"); err != nil {
		return err
	}
	err = withSystemd(cmd, func(ctx context.Context, s services) error {
		if open {
			if err := o.open(cmd); err != nil {
				return err
			}
		}
		return takeAway(ctx, s, "", files, cmd.ErrOrStderr())
	})
	if err == nil && open {
		err = daemon.ForgetOff(o.paths)
	}
	if err != nil {
		return err
	}
	return o.showRemains(cmd, "removed: "+unitName)
}

// notPackaged leaves to the package manager what it has installed; beside it
// there may be files of ours.
func notPackaged(files []file) error {
	if len(files) > 0 {
		return nil
	}
	return packaged("")
}

func uninstallText(files []file, open, rules bool) string {
	var f fields
	f.add("stop", "%s, now and at every boot", unitName)
	addFiles(&f, "remove", files)
	switch {
	case open:
		f.add("open", "EVERY PORT TO EVERYBODY")
	case rules:
		f.add("keep", "the rules that are in force, until the next boot")
	default:
		f.add("leave", "EVERY PORT OPEN TO EVERYBODY, as it is now")
	}
	return "this will\n" + f.b.String()
}

// open removes the rules, through the daemon where one still runs.
func (o *options) open(cmd *cobra.Command) error {
	return o.change(cmd, graveWarnings(cmd), func(s daemon.Service) error {
		_, err := s.Off(cmd.Context(), 0)
		return err
	})
}

// look asks how things are.
func (o *options) look(cmd *cobra.Command) (daemon.Status, error) {
	service, err := o.reader(slog.DiscardHandler)
	if err != nil {
		return daemon.Status{}, err
	}
	return service.Status(cmd.Context())
}

// showRemains says what has become of the service, what is still there, and how
// to remove it.
func (o *options) showRemains(cmd *cobra.Command, done string) error {
	s, err := o.look(cmd)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s%s", done, rulesText(s), o.keptText())
	if s.Off != nil {
		say(cmd, "cfwall stays switched off when it is installed again, until: sudo cfwall on")
	}
	if packaged("") != nil {
		say(cmd, "a package has installed cfwall, too, which can take over: sudo systemctl enable --now cfwall")
	}
	return err
}

// keptText lists what an installation leaves, and how to remove it.
func (o *options) keptText() string {
	kept := slices.DeleteFunc([]string{filepath.Dir(o.paths.Config), o.paths.State}, func(dir string) bool { return !exists(dir) })
	var cures []string
	if len(kept) > 0 {
		cures = append(cures, "sudo rm -r "+strings.Join(kept, " "))
	}
	if _, err := user.Lookup("cfwall"); err == nil {
		kept, cures = append(kept, "the user cfwall"), append(cures, "sudo userdel cfwall")
	}
	if len(kept) == 0 {
		return ""
	}
	return fmt.Sprintf("kept: %s; to remove:\n  %s\n", strings.Join(kept, ", "), strings.Join(cures, " && "))
}

// rulesText says whether rules are in force that no daemon keeps true.
func rulesText(s daemon.Status) string {
	if !s.Table.Present {
		return "EVERY PORT IS OPEN TO EVERYBODY: no rules of cfwall are in force\n"
	}
	family := "inet"
	if !s.Table.IPv6 {
		family = "ip"
	}
	return fmt.Sprintf("the rules STAY IN FORCE until the next boot, or: sudo nft delete table %s cfwall\n", family)
}
