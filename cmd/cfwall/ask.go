package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cfwall/cfwall/daemon"
)

func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "do it without asking")
}

// consent asks somebody on a terminal, unless --yes has answered already.
func consent(cmd *cobra.Command, yes bool, question string) error {
	if yes || ask(cmd, question) {
		return nil
	}
	say(cmd, "nothing was changed")
	return verdict(daemon.ExitError)
}

// canAsk refuses where there is neither a terminal nor a --yes.
func canAsk(cmd *cobra.Command, yes bool) error {
	if !yes && !isTerminal(cmd.InOrStdin()) {
		return usage("in scripts: "+asCalled(cmd)+" --yes", "there is no terminal to ask on")
	}
	return nil
}

// asCalled is a command by the name that this program was called by.
func asCalled(cmd *cobra.Command) string {
	return os.Args[0] + strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name())
}

// ask puts a question, to which anything but yes means no.
func ask(cmd *cobra.Command, question string) bool {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil {
		say(cmd, "") // the answer has not ended the line
	}
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer)))
}
