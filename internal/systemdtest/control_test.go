package systemdtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/systemd"
)

// Without cfwall everybody gets answers: what the other tests look for can be
// found.
func TestStrangersGetInWithoutCfwall(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		d, s := newDisk(t, suite), newSite(t)
		d.useEarlyNetwork(t)
		s.knock()
		m := boot(t, d, s)
		m.await("strangers and Cloudflare get answers", func() bool {
			return s.strangersAnswered(t) > 0 && s.edgesAnswered(t) > 0
		})
		if failed := m.run("systemctl", "--failed", "--no-legend"); failed != "" {
			t.Errorf("the machine is not well without us:\n%s", failed)
		}
		m.shutDown()
	})
}

// A unit that starts late, and one that makes a cycle, are found.
func TestFaultsOfTheUnitAreFound(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		d := newDisk(t, suite)
		d.useEarlyNetwork(t)
		d.installCfwall(t)
		late := strings.Replace(systemd.ServiceUnit, "Before=", "After=early-network.service\n# Before=", 1)
		d.write(t, "/etc/systemd/system/cfwall.service", late)
		if b := watchBoot(t, d, (*machine).cut); b.leaked == 0 {
			t.Error("no stranger got an answer, though there was a network before the firewall")
		}
		check(t, os.Remove(filepath.Join(d.root, "/etc/systemd/system/cfwall.service")))
		d.write(t, "/etc/systemd/system/knot.service", knot)
		d.enable(t, "knot.service")
		if b := watchBoot(t, d, (*machine).cut); len(b.cycles) == 0 {
			t.Error("the cycle was not found")
		}
	})
}

// knot wants to be started before what it wants to wait for.
const knot = `[Unit]
DefaultDependencies=no
After=network-pre.target
Before=cfwall.service

[Service]
ExecStart=/bin/true

[Install]
WantedBy=sysinit.target
`
