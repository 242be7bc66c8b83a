package main

import (
	"io"

	"github.com/spf13/cobra"
)

func completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Prints a script that completes commands in a shell.",
		Long: `Prints a script by which a shell completes commands, flags and some of their
values. It works in shells that are started after it was put in place.`,
		Example: `  cfwall completion bash > /etc/bash_completion.d/cfwall
  cfwall completion zsh > /usr/local/share/zsh/site-functions/_cfwall
  cfwall completion fish > /etc/fish/completions/cfwall.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      arguments(1, 1, "the name of a shell: bash, zsh or fish"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeCompletion(cmd.Root(), cmd.OutOrStdout(), args[0])
		},
	}
}

// writeCompletion writes what completes the commands in a shell.
func writeCompletion(root *cobra.Command, w io.Writer, shell string) error {
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(w, true)
	case "zsh":
		return root.GenZshCompletion(w)
	case "fish":
		return root.GenFishCompletion(w, true)
	}
	return usage("use bash, zsh or fish", "there is no completion for %q", shell)
}
