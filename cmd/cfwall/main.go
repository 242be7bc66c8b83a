package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/daemon"
)

func main() {
	root := rootCommand()
	if err := root.Execute(); err != nil {
		os.Exit(report(root.ErrOrStderr(), err))
	}
}

// The groups of commands in the help.
const (
	asking   = "asking"
	changing = "changing"
	other    = "other"
)

func rootCommand() *cobra.Command {
	o := &options{paths: daemon.DefaultPaths, output: textOutput}
	root := &cobra.Command{
		Use:   "cfwall",
		Short: "A firewall that closes the web ports of a host to everybody but Cloudflare.",
		Long: `Keeps the web ports of this host closed to everybody but Cloudflare, or with
Cloudflare Tunnel to everybody. cfwall run does it, for as long as it runs.`,
		Example: `  cfwall status                        is this host protected?
  cfwall why 203.0.113.9               would this visitor get in, and why not?
  cfwall allow 203.0.113.9 --for 1h    let somebody in for a while`,
		Args:              noArguments,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return o.checkConfigFlag(cmd) },
		SilenceErrors:     true,
		SilenceUsage:      true,
	}
	o.addFlags(root)
	addHelp(root)
	root.AddGroup(&cobra.Group{ID: asking, Title: "asking:"}, &cobra.Group{ID: changing, Title: "changing:"}, &cobra.Group{ID: other, Title: "other:"})
	addTo(root, asking, statusCommand(o), whyCommand(o), rangesCommand(o), checkCommand(o), planCommand(o), printCommand(o))
	addTo(root, changing, applyCommand(o), confirmCommand(o), reloadCommand(o), allowCommand(o), offCommand(o), onCommand(o))
	addTo(root, other, runCommand(o), surveyCommand(o), installCommand(o), uninstallCommand(o), versionCommand(o), completionCommand())
	return root
}

func addTo(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// verdict ends a command that has said everything already.
type verdict int

func (v verdict) Error() string { return fmt.Sprintf("exit code %d", int(v)) }

// report writes an error for people to w: lines that say what is wrong, and
// one that says what to do. It returns the exit code.
func report(w io.Writer, err error) int {
	if said, ok := errors.AsType[verdict](err); ok {
		return int(said)
	}
	err = daemon.Explain(err)
	exit, hint := daemon.ExitError, "cfwall status shows how things are now"
	if r, ok := errors.AsType[*daemon.Refusal](err); ok {
		exit, hint = r.Exit, cmp.Or(r.Hint, hint)
	}
	if all, ok := errors.AsType[config.Errors](err); ok {
		for _, one := range all {
			fmt.Fprintf(w, "error: %v\n", one)
		}
	} else {
		fmt.Fprintf(w, "error: %v\n", err)
	}
	fmt.Fprintf(w, "hint: %s\n", hint)
	return exit
}

// say writes a line for people beside the data.
func say(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
}

// refusal is the error of a command that this host, as it is, does not allow.
func refusal(hint, format string, args ...any) error {
	return &daemon.Refusal{Err: fmt.Errorf(format, args...), Hint: hint, Exit: daemon.ExitError}
}

// usage is the error of a command that was called in a way that it cannot be.
func usage(hint, format string, args ...any) error {
	return &daemon.Refusal{Err: fmt.Errorf(format, args...), Hint: hint, Exit: daemon.ExitUsage}
}
