package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

// options are the flags that several commands share.
type options struct {
	paths  daemon.Paths
	output output
}

func (o *options) addFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&o.paths.Config, "config", o.paths.Config, "the configuration `file`")
	flags.StringVar(&o.paths.State, "state-dir", o.paths.State, "`directory` of what must survive a reboot")
	flags.StringVar(&o.paths.Runtime, "runtime-dir", o.paths.Runtime, "`directory` of the control socket and the lock")
}

// checkConfigFlag refuses a file that was named but is not there; the default
// one may be missing. The daemon must start whatever is missing.
func (o *options) checkConfigFlag(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("config") || cmd.Name() == "run" {
		return nil
	}
	return mustExist(o.paths.Config)
}

func mustExist(file string) error {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return usage("check the name of the file", "%s does not exist", file)
	}
	return nil
}

// engine looks for itself, without asking a daemon. Log tells what it had to
// do without.
func (o *options) engine(log slog.Handler) *daemon.Engine {
	e := daemon.NewEngine(o.paths, version(), slog.New(log))
	e.LoadState()
	return e
}

// reader answers questions. Where no daemon runs, log tells what it had to do
// without.
func (o *options) reader(log slog.Handler) (daemon.Service, error) {
	return daemon.Reader(o.paths, version(), slog.New(log))
}

// change lets f change something, through the daemon where one runs. Where
// none does, log tells what f's errors do not.
func (o *options) change(cmd *cobra.Command, log slog.Handler, f func(daemon.Service) error) error {
	service, release, err := daemon.Writer(o.paths, version(), cmd.Name(), slog.New(log))
	if err != nil {
		return err
	}
	defer release()
	return f(service)
}

// output says how a command prints data: as text for people, or as JSON.
type output string

const (
	textOutput output = "text"
	jsonOutput output = "json"
)

func (o *output) String() string { return string(*o) }

// Type names the flag's value in the help.
func (o *output) Type() string { return "format" }

func (o *output) Set(s string) error {
	if s != string(textOutput) && s != string(jsonOutput) {
		return errors.New("it must be text or json")
	}
	*o = output(s)
	return nil
}

// addOutput gives -o to a command that prints data.
func (o *options) addOutput(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().VarP(&o.output, "output", "o", "text or json")
	complete(cmd, "output", []string{string(textOutput), string(jsonOutput)}, cobra.ShellCompDirectiveNoFileComp)
	return cmd
}

// complete says what a shell offers as the value of a flag.
func complete(cmd *cobra.Command, flag string, values []string, directive cobra.ShellCompDirective) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, directive)); err != nil {
		panic(err) // there is no such flag
	}
}

// show prints data, at once, so that what cannot be written is an error.
func (o *options) show(cmd *cobra.Command, data any, text string) error {
	if o.output == jsonOutput {
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(data); err != nil {
			return fmt.Errorf("encoding the output: %w", err)
		}
		text = b.String()
	}
	if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}
