package sshd

import (
	"net/netip"
	"testing"

	"github.com/cfwall/cfwall/firewall/kernel"
)

// Whoever only knocks at OpenSSH has no session: it has a process with a title
// of its own until the client has logged in.
func TestWhoKnocksHasNoSession(t *testing.T) {
	root := lay(t, map[string]string{
		"proc/99/comm": "sshd\n", "proc/99/cmdline": "sshd: /usr/sbin/sshd -D [listener] 1 of 10-100 startups", "proc/99/fd/3": "-> socket:[10]",
		"proc/100/comm": "sshd\n", "proc/100/cmdline": "sshd: admin [priv]", "proc/100/fd/4": "-> socket:[11]",
		"proc/101/comm": "sshd\n", "proc/101/cmdline": "sshd: admin@pts/0", "proc/101/fd/4": "-> socket:[11]",
		"proc/102/comm": "sshd\n", "proc/102/cmdline": "sshd: unknown [priv]", "proc/102/fd/4": "-> socket:[12]",
		"proc/103/comm": "sshd\n", "proc/103/cmdline": "sshd: unknown [net]", "proc/103/fd/4": "-> socket:[12]",
		"proc/104/comm": "sshd\n", "proc/104/cmdline": "sshd: [accepted]", "proc/104/fd/4": "-> socket:[13]",
		"proc/105/comm": "sshd-auth\n", "proc/105/cmdline": "sshd-auth: root", "proc/105/fd/4": "-> socket:[14]",
		"proc/106/comm": "sshd-session\n", "proc/106/cmdline": "sshd-session: root@notty", "proc/106/fd/4": "-> socket:[15]",
		"proc/107/comm": "nginx\n", "proc/107/cmdline": "nginx: [net]", "proc/107/fd/4": "-> socket:[16]",
	})
	var connections []kernel.Connection
	for inode := uint32(11); inode <= 16; inode++ {
		connections = append(connections, kernel.Connection{
			Local:  netip.MustParseAddrPort("192.0.2.2:22"),
			Remote: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), uint16(inode)), Inode: inode,
		})
	}
	h, err := Find(root, []kernel.Listener{socket(t, root, "tcp 0.0.0.0:22 0 10")}, connections, Session{})
	if err != nil {
		t.Fatal(err)
	}
	var got []uint16
	for _, s := range h.Sessions {
		got = append(got, s.Remote.Port())
	}
	if len(got) != 3 || got[0] != 11 || got[1] != 15 || got[2] != 16 {
		t.Errorf("sessions %v, want those of 11, 15 and 16", got)
	}
	own := Session{Local: connections[1].Local, Remote: connections[1].Remote}
	if h, _ = Find(root, []kernel.Listener{socket(t, root, "tcp 0.0.0.0:22 0 10")}, connections, own); len(h.Sessions) != 4 {
		t.Errorf("the own session is not among %v", h.Sessions)
	}
}
