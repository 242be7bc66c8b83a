package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildVersion is what `cfwall version` tells about the program.
type buildVersion struct {
	Version  string `json:"version"`  // of the module, or made from the commit; "+dirty": changed since
	Go       string `json:"go"`       // the compiler
	Platform string `json:"platform"` // operating system and processor
}

// release is set by the linker for packages: -X main.release=0.2.0
var release string

// version is that of the package, or the one that the go command has built in.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

func versionCommand(o *options) *cobra.Command {
	return o.addOutput(&cobra.Command{
		Use:   "version",
		Short: "Prints the version.",
		Long: `Prints the version of this program, by which compiler it was built, and for
which system. A daemon that was started before may be of another version.`,
		Example: "  cfwall version     which one is this?",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := buildVersion{version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			return o.show(cmd, v, fmt.Sprintf("cfwall %s (%s, %s)\n", v.Version, v.Go, v.Platform))
		},
	})
}
