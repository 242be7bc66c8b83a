package main

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func installCommand(o *options) *cobra.Command {
	var root, prefix string
	var yes bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Makes cfwall a service of this host, and starts it.",
		Long: `Makes cfwall a service of systemd that starts at every boot, before the network,
and runs as a user of its own. It checks the configuration, shows what will be
in force and what will be written, and asks. Where cfwall is a service already,
it puts this version in its place, without a gap.

A configuration file that is there stays as it is. Everything else is written to
` + localPrefix + `: this program, the unit, manuals and shell completions.
With --root it only writes the files, for whoever makes packages.`,
		Example: `  sudo cfwall install                         see what it will do, and say yes
  sudo cfwall install --yes                   for scripts: it does not ask
  cfwall install --root pkg --prefix /usr     only the files, below pkg`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkPrefix(prefix, root); err != nil {
				return err
			}
			files, err := layout(cmd.Root(), prefix)
			if err != nil {
				return err
			}
			if root != "" {
				return writeFiles(root, files)
			}
			return o.install(cmd, files, yes)
		},
	}
	addYes(cmd, &yes)
	cmd.Flags().StringVar(&root, "root", "", "only write the files, below this `directory`")
	cmd.Flags().StringVar(&prefix, "prefix", localPrefix, "`directory` of the program; with --root also "+packagePrefix)
	complete(cmd, "root", nil, cobra.ShellCompDirectiveFilterDirs)
	complete(cmd, "prefix", []string{localPrefix, packagePrefix}, cobra.ShellCompDirectiveNoFileComp)
	return cmd
}

// checkPrefix leaves /usr to packages, and refuses what systemd would not find.
func checkPrefix(prefix, root string) error {
	switch {
	case prefix == localPrefix, prefix == packagePrefix && root != "":
		return nil
	case prefix == packagePrefix:
		return usage("leave --prefix out, or give a --root", "%s belongs to the package manager", prefix)
	}
	return usage("use "+localPrefix+", or "+packagePrefix+" for packages", "systemd does not look for units below %q", prefix)
}

func (o *options) install(cmd *cobra.Command, files []file, yes bool) error {
	if err := cmp.Or(ownPaths(cmd), o.obstacle(cmd.Context()), inTheWay("", files), daemon.Unreadable(o.paths.Config), canAsk(cmd, yes)); err != nil {
		return err
	}
	runs := daemon.Holder(o.paths) != ""
	beforehand := *o
	beforehand.paths.ConfigToCome = true
	if err := beforehand.preview(cmd, runs); err != nil {
		return err
	}
	question := "Install and start?"
	if runs {
		question = "Replace it?"
		fmt.Fprint(cmd.OutOrStdout(), versionsText(o.runningVersion(cmd)))
	}
	fmt.Fprintf(cmd.OutOrStdout(), "\n%s\n", installText(files, runs))
	if err := consent(cmd, yes, question); err != nil {
		return err
	}
	err := withSystemd(cmd, func(ctx context.Context, s services) error {
		if err := notAlone(files[0]); err != nil {
			return err
		}
		return place(ctx, s, "", files, cmd.ErrOrStderr())
	})
	if err != nil {
		return err
	}
	return o.showVerdict(cmd)
}

// notAlone refuses a program that another has to load: in the sandbox of the unit
// no other may be run (NoExecPaths=).
func notAlone(program file) error {
	f, err := elf.NewFile(bytes.NewReader(program.content))
	if err != nil {
		return fmt.Errorf("reading this program: %w", err)
	}
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return refusal("build it by make, or with CGO_ENABLED=0", "this cfwall was built with cgo, and needs a dynamic linker that its service may not run; nothing was changed")
	}
	return nil
}

// preview shows what will be in force, and refuses what apply would refuse.
func (o *options) preview(cmd *cobra.Command, runs bool) error {
	if err := o.check(cmd, false); err != nil {
		return err
	}
	service, err := o.reader(slog.DiscardHandler)
	if err != nil {
		return err
	}
	p, err := service.Plan(cmd.Context(), daemon.NewOrder())
	switch {
	case err != nil && runs: // it may be why a new version is wanted
		say(cmd, "warning: what will change is not known: %v", err)
		return nil
	case err != nil:
		return err
	case p.Refused != "":
		return &daemon.Refusal{Err: errors.New(p.Refused), Hint: p.Hint, Exit: cmp.Or(p.Exit, daemon.ExitUsage)}
	case p.Empty: // but there are files to write
		return o.showPlan(cmd, p, "")
	}
	return o.showPlan(cmd, p, planWords(p))
}

// runningVersion is that of the daemon, or "" where it does not say.
func (o *options) runningVersion(cmd *cobra.Command) string {
	client, err := daemon.Dial(o.paths)
	if err != nil {
		return ""
	}
	s, err := client.Status(cmd.Context())
	if err != nil {
		return ""
	}
	return s.Daemon.Version
}

func versionsText(old string) string {
	return fmt.Sprintf("cfwall %s runs here, this is %s\n", cmp.Or(old, "of a version that it does not tell"), version())
}

// installText lists what an installation does.
func installText(files []file, runs bool) string {
	var f fields
	isKept := func(one file) bool { return one.theirs && exists(one.path) }
	addFiles(&f, "write", slices.DeleteFunc(slices.Clone(files), isKept))
	for _, one := range files {
		if isKept(one) {
			f.add("keep", "%s, as it is", one.path)
		}
	}
	if _, err := user.Lookup("cfwall"); err != nil {
		f.add("make", "the system user cfwall")
	}
	if runs {
		f.add("restart", "%s, with the rules in force all the time", unitName)
	} else {
		f.add("start", "%s, now and at every boot", unitName)
	}
	return "this will\n" + f.b.String()
}

// addFiles lists files. Those that nothing depends on are only counted.
func addFiles(f *fields, verb string, files []file) {
	shared, share := 0, filepath.Join(localPrefix, "share")
	for _, one := range files {
		if strings.HasPrefix(one.path, share) {
			shared++
		} else {
			f.add(verb, "%s", one.path)
		}
	}
	if shared > 0 {
		f.add(verb, "%s below %s: manuals and shell completions", plural(shared, "file"), share)
	}
}

// firstFetch is how long to wait for the first list, without which a host is
// protected all the same.
const firstFetch = 5 * time.Second

// showVerdict says whether the host is protected now, and what next.
func (o *options) showVerdict(cmd *cobra.Command) error {
	client, err := daemon.Dial(o.paths)
	if err != nil {
		return err
	}
	var s daemon.Status
	for late := time.Now().Add(firstFetch); ; time.Sleep(200 * time.Millisecond) {
		if s, err = client.Status(cmd.Context()); err != nil {
			return err
		}
		if !s.Ranges.CheckedAt.IsZero() || s.Ranges.LastError != "" || time.Now().After(late) {
			break
		}
	}
	w, next := cmd.OutOrStdout(), "cfwall status; edit "+o.paths.Config+", then: cfwall check, cfwall reload"
	if s.Off != nil {
		next = "sudo cfwall on"
	}
	_, err = fmt.Fprintf(w, "installed: %s runs, and starts at every boot\n%s   mode %s\n%snext: %s\n",
		unitName, headline(w, s), s.Mode, problemsText(s.Problems), next)
	return err
}
