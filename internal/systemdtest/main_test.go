package systemdtest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// asked names the Debian suites to boot, such as "bullseye bookworm trixie".
// Their trees are those of scripts/systemd-trees.
const asked = "CFWALL_SYSTEMD"

func suites() []string { return strings.Fields(os.Getenv(asked)) }

func TestMain(m *testing.M) {
	if os.Getenv(prober) != "" {
		tryAll()
		return
	}
	if len(suites()) == 0 {
		fmt.Println("no machine is booted here: make test-systemd does it")
		return
	}
	os.Exit(lab.Main(m))
}

// onEach runs a test on each suite that is asked for.
func onEach(t *testing.T, test func(t *testing.T, suite string)) {
	t.Parallel()
	for _, suite := range suites() {
		t.Run(suite, func(t *testing.T) {
			t.Parallel()
			lab.Kernel(t)
			test(t, suite)
		})
	}
}
