package systemdtest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// A neighbour is a program of Debian's that has a part in the firewall or the
// network of a host from its boot on.
type neighbour struct {
	name    string
	files   map[string]string
	units   []string       // enabled on its host, and running after a boot
	tries   []string       // enabled, but perhaps not able to run here
	setup   func(*machine) // what its administrator does, so that the web is served
	network bool           // it gives the host its addresses
}

func neighbours() []neighbour {
	return []neighbour{ufw(), firewalld(), nftables(), docker(), networkd(), networkManager(), ifupdown()}
}

// Beside each neighbour, and beside all of them, nobody gets in at boot either,
// and no unit waits for one that waits for it.
func TestNobodyGetsInAtBootNextTo(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		for _, n := range append(neighbours(), everybody()) {
			t.Run(n.name, func(t *testing.T) {
				t.Parallel()
				d := newDisk(t, suite)
				d.moveIn(t, n)
				for _, end := range endings {
					t.Run("boot", func(t *testing.T) { sealedBoot(t, d, end, n.units...) })
				}
			})
		}
	})
}

// moveIn puts a neighbour on the disk, and then cfwall.
func (d *disk) moveIn(t *testing.T, n neighbour) {
	t.Helper()
	for name, text := range n.files {
		d.write(t, name, text)
	}
	if !n.network {
		d.useEarlyNetwork(t)
	}
	d.installCfwall(t, func(m *machine) {
		if n.setup != nil {
			n.setup(m)
		}
		m.run("systemctl", slices.Concat([]string{"enable"}, n.units, n.tries)...)
	})
}

func ufw() neighbour {
	return neighbour{name: "ufw", units: []string{"ufw.service"}, setup: func(m *machine) {
		m.run("ufw", "allow", "80,443/tcp")
		m.run("ufw", "--force", "enable")
	}}
}

func firewalld() neighbour {
	return neighbour{name: "firewalld", units: []string{"firewalld.service"}, setup: func(m *machine) {
		m.run("firewall-offline-cmd", "--add-service=http", "--add-service=https")
	}}
}

// nftables is Debian's unit; its file begins with "flush ruleset".
func nftables() neighbour {
	return neighbour{name: "nftables.service", units: []string{"nftables.service"}}
}

func docker() neighbour {
	return neighbour{name: "docker", units: []string{"containerd.service", "docker.socket"}, tries: []string{"docker.service"}}
}

func networkd() neighbour {
	return neighbour{name: "systemd-networkd", network: true, units: []string{"systemd-networkd.service"}, files: map[string]string{
		"/etc/systemd/network/eth0.network": fmt.Sprintf("[Match]\nName=eth0\n[Network]\nAddress=%s/24\nAddress=%s/64\nGateway=%s\nGateway=%s\nIPv6AcceptRA=no\n",
			lab.Web4, lab.Web6, lab.Client4, lab.Client6),
	}}
}

func networkManager() neighbour {
	return neighbour{name: "NetworkManager", network: true, units: []string{"NetworkManager.service"}, setup: func(m *machine) {
		const profile = "/etc/NetworkManager/system-connections/eth0.nmconnection"
		m.write(m.T, profile, fmt.Sprintf("[connection]\nid=eth0\ntype=ethernet\ninterface-name=eth0\n"+
			"[ipv4]\nmethod=manual\naddress1=%s/24,%s\n[ipv6]\nmethod=manual\naddress1=%s/64,%s\n",
			lab.Web4, lab.Client4, lab.Web6, lab.Client6))
		m.run("chmod", "600", profile)
	}}
}

func ifupdown() neighbour {
	return neighbour{name: "ifupdown", network: true, units: []string{"networking.service"}, files: map[string]string{
		"/etc/network/interfaces": fmt.Sprintf("auto lo eth0\niface lo inet loopback\n"+
			"iface eth0 inet static\n\taddress %s/24\n\tgateway %s\niface eth0 inet6 static\n\taddress %s/64\n\tgateway %s\n",
			lab.Web4, lab.Client4, lab.Web6, lab.Client6),
	}}
}

// everybody is all of them on one host. One gives it its addresses; of those
// that cannot run together systemd chooses.
func everybody() neighbour {
	all := networkd()
	all.name = "everybody"
	var setups []func(*machine)
	for _, n := range neighbours() {
		all.tries = slices.Concat(all.tries, n.units, n.tries)
		if n.setup != nil && !n.network {
			setups = append(setups, n.setup)
		}
	}
	all.setup = func(m *machine) {
		for _, f := range setups {
			f(m)
		}
	}
	return all
}
