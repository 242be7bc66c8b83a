package main

import (
	"github.com/spf13/cobra"
)

func installCommand(*options) *cobra.Command {
	var root, prefix string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Puts the files of a service in place.",
		Long: `Writes this program, a unit of systemd, the manuals and the rest below a
directory, for whoever makes packages. A config that is there stays as it is.`,
		Example: "  cfwall install --root pkg --prefix /usr     for whoever makes packages",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if prefix != packagePrefix && prefix != localPrefix {
				return usage("use "+localPrefix+", or "+packagePrefix+" for packages", "systemd does not look for units below %q", prefix)
			}
			if root == "" {
				return usage("such as: cfwall install --root pkg --prefix /usr", "--root is missing")
			}
			files, err := layout(cmd.Root(), prefix)
			if err != nil {
				return err
			}
			return writeFiles(root, files)
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "only write the files, below this `directory`")
	cmd.Flags().StringVar(&prefix, "prefix", localPrefix, "`directory` of the program: "+localPrefix+" or "+packagePrefix)
	complete(cmd, "root", nil, cobra.ShellCompDirectiveFilterDirs)
	complete(cmd, "prefix", []string{localPrefix, packagePrefix}, cobra.ShellCompDirectiveNoFileComp)
	return cmd
}
