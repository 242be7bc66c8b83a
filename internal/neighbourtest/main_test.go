package neighbourtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// A neighbour is another program with tables of its own.
type neighbour struct {
	name  string
	start func(*machine) // with a typical configuration, in which the web port is open
	port  uint16         // what the Internet sees of the web server
	setup func(*machine) // what else the web server needs of the network; may be nil
	life  []step         // what its administrator does with it
}

// A step is something that somebody does on the machine.
type step struct {
	what string
	do   func(*machine)
}

func neighbours() []neighbour {
	return []neighbour{ufw(), firewalld(), fail2ban(), nftablesService(), dockerWithIptables(), dockerWithNftables(), several()}
}

// TestNextTo runs our whole life beside each neighbour and looks for changes of
// its tables, and then its whole life beside us and looks for changes of ours.
func TestNextTo(t *testing.T) {
	cfwall := filepath.Join(t.TempDir(), "cfwall")
	if out, err := exec.Command("go", "build", "-o", cfwall, "../../cmd/cfwall").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, n := range neighbours() {
		t.Run(n.name, func(t *testing.T) {
			t.Parallel()
			lab.Kernel(t)
			m := newMachine(t, cfwall)
			m.web.Do(func() {
				m.enterOwnDirectories()
				n.start(m)
				m.liveBeside()
				m.connect(n)
				m.letLive(n)
			})
		})
	}
}
