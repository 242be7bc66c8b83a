package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// printHelp begins with an example, which most readers came for. It is no
// template: the template package would cost every process a megabyte.
func printHelp(cmd *cobra.Command, _ []string) {
	var b strings.Builder
	if cmd.Example != "" {
		fmt.Fprintf(&b, "%s\n\n", cmd.Example)
	}
	about, use := cmp.Or(cmd.Long, cmd.Short), cmd.UseLine()
	if !cmd.HasParent() {
		use = cmd.CommandPath() + " COMMAND"
	}
	fmt.Fprintf(&b, "%s\n\nusage: %s\n", about, use)
	for _, group := range cmd.Groups() {
		listCommands(&b, group.Title, cmd, func(c *cobra.Command) bool { return c.GroupID == group.ID })
	}
	if len(cmd.Groups()) == 0 && cmd.HasAvailableSubCommands() {
		listCommands(&b, "commands:", cmd, func(*cobra.Command) bool { return true })
	}
	listFlags(&b, "flags:", cmd.LocalFlags())
	listFlags(&b, "for all commands:", cmd.InheritedFlags())
	fmt.Fprint(cmd.OutOrStdout(), b.String())
}

func listCommands(b *strings.Builder, title string, parent *cobra.Command, wanted func(*cobra.Command) bool) {
	fmt.Fprintf(b, "\n%s\n", title)
	for _, c := range parent.Commands() {
		if wanted(c) && (c.IsAvailableCommand() || c.Name() == "help") {
			fmt.Fprintf(b, "  %-*s %s\n", c.NamePadding(), c.Name(), c.Short)
		}
	}
}

func listFlags(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if flags.HasAvailableFlags() {
		fmt.Fprintf(b, "\n%s\n%s", title, flags.FlagUsagesWrapped(80))
	}
}

func addHelp(root *cobra.Command) {
	root.SetHelpFunc(printHelp)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(cmd.CommandPath()+" --help lists the flags", "%w", err)
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	root.SetHelpCommand(helpCommand())
	root.SetHelpCommandGroupID(other)
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explains a command.",
		Long:    "Explains a command, as its flag --help does. Without one it lists the commands.",
		Example: "  cfwall help allow     the same as: cfwall allow --help",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, unknown, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(unknown) > 0 {
				return unknownCommand(about, unknown[0])
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

// noArguments is for commands that take none, which may have subcommands.
func noArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return unknownCommand(cmd, args[0])
	}
	return usage(cmd.CommandPath()+" --help explains it", "%s takes no arguments, not %q", cmd.CommandPath(), args[0])
}

func unknownCommand(parent *cobra.Command, name string) error {
	hint := parent.CommandPath() + " --help lists the commands"
	parent.SuggestionsMinimumDistance = 2
	if similar := parent.SuggestionsFor(name); len(similar) > 0 {
		hint = "did you mean: " + parent.CommandPath() + " " + strings.Join(similar, " or ") + "?"
	}
	return usage(hint, "%s has no command %q", parent.CommandPath(), name)
}

// arguments is for commands that take so many, which are called what the help
// calls them.
func arguments(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		problem := fmt.Sprintf("%s needs %s", cmd.CommandPath(), what)
		if len(args) > most {
			problem = fmt.Sprintf("%s takes no more than %s, not %q", cmd.CommandPath(), what, args[most])
		}
		return usage(cmd.UseLine(), "%s", problem)
	}
}
