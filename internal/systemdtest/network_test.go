package systemdtest

import (
	"fmt"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// earlyNetwork gives the machine its addresses as early as any program may: it
// waits for network-pre.target, and for nothing else.
var earlyNetwork = fmt.Sprintf(`[Unit]
Description=A network that is up early
DefaultDependencies=no
After=network-pre.target
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip address add %[1]s/24 dev eth0
ExecStart=/sbin/ip address add %[2]s/64 dev eth0 nodad
ExecStart=/sbin/ip link set eth0 up
ExecStart=/sbin/ip route add default via %[3]s
ExecStart=/sbin/ip route add default via %[4]s

[Install]
WantedBy=sysinit.target
`, lab.Web4, lab.Web6, lab.Client4, lab.Client6)

func (d *disk) useEarlyNetwork(t *testing.T) {
	t.Helper()
	d.write(t, "/etc/systemd/system/early-network.service", earlyNetwork)
	d.enable(t, "early-network.service")
}
