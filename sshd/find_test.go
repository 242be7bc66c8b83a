package sshd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cfwall/cfwall/firewall/kernel"
)

// lay makes files below a root of their own; a text "-> TARGET" makes a link,
// and a name that ends in a slash a directory.
func lay(t testing.TB, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = errors.Join(err, os.Symlink(target, path))
		} else if strings.HasSuffix(name, "/") {
			err = errors.Join(err, os.MkdirAll(path, 0o755))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// socket reads "PROTOCOL ADDRESS UID INODE [CGROUP]".
func socket(t testing.TB, root, text string) kernel.Listener {
	t.Helper()
	var address, cgroup string
	var l kernel.Listener
	n, _ := fmt.Sscan(text, &l.Protocol, &address, &l.UID, &l.Inode, &cgroup)
	l.Address = netip.MustParseAddrPort(address)
	if n < 4 {
		t.Fatalf("%q is no socket", text)
	}
	if cgroup != "" {
		info, err := os.Stat(filepath.Join(root, cgroups2, cgroup))
		if err != nil {
			t.Fatal(err)
		}
		l.Cgroup = info.Sys().(*syscall.Stat_t).Ino
	}
	return l
}

const cgroups2 = "sys/fs/cgroup/"

func (s Server) text() string {
	text := fmt.Sprintf("%s %s", s.Address, s.Program)
	if s.PID != 0 {
		text += fmt.Sprintf(" %d", s.PID)
	}
	if s.Configured {
		text += " configured"
	}
	return text
}

func TestFindServers(t *testing.T) {
	const lib, wants = "usr/lib/systemd/system/", "etc/systemd/system/sockets.target.wants/"
	held := func(name string) map[string]string {
		return map[string]string{"proc/812/comm": name + "\n", "proc/812/fd/3": "-> socket:[7]"}
	}
	none := map[string]string{"proc/self/comm": "sshd\n"}
	socketUnit := map[string]string{
		lib + "ssh.socket": "[Socket]\nListenStream=22\n",
		"run/systemd/generator/ssh.socket.d/addresses.conf": "[Socket]\nListenStream=\nListenStream=0.0.0.0:2222\nListenStream=[::]:2222\n",
	}
	for _, c := range []struct {
		name    string
		files   map[string]string
		sockets []string
		own     string // SSH_CONNECTION
		want    []string
	}{
		// By the process.
		{"port 22", held("sshd"), []string{"tcp 0.0.0.0:22 0 7"}, "", []string{"0.0.0.0:22 sshd 812"}},
		{"port 443", held("sshd"), []string{"tcp 0.0.0.0:443 0 7", "tcp 0.0.0.0:80 0 8"}, "", []string{"0.0.0.0:443 sshd 812"}},
		{"IPv6 only", held("sshd"), []string{"tcp [::]:2222 0 7"}, "", []string{"[::]:2222 sshd 812"}},
		{"one address", held("sshd"), []string{"tcp 192.0.2.2:2222 0 7"}, "", []string{"192.0.2.2:2222 sshd 812"}},
		{"dropbear", held("dropbear"), []string{"tcp [::]:443 0 7"}, "", []string{"[::]:443 dropbear 812"}},
		{"tinysshd", held("tinysshd"), []string{"tcp [::]:443 0 7"}, "", []string{"[::]:443 tinysshd 812"}},
		{"sslh", held("sslh"), []string{"tcp [::]:443 0 7"}, "", []string{"[::]:443 sslh 812"}},
		{"sslh-ev", held("sslh-ev"), []string{"tcp [::]:443 0 7"}, "", []string{"[::]:443 sslh-ev 812"}},
		{"sslh-fork", held("sslh-fork"), []string{"tcp [::]:443 0 7"}, "", []string{"[::]:443 sslh-fork 812"}},
		{"sslh-select", held("sslh-select"), []string{"tcp [::]:443 0 7"}, "", []string{"[::]:443 sslh-select 812"}},
		{"a web server", held("nginx"), []string{"tcp 0.0.0.0:443 0 7"}, "", nil},
		{"a client", held("ssh"), []string{"tcp 0.0.0.0:443 0 7"}, "", nil},
		{"another user's sshd", held("sshd"), []string{"tcp 0.0.0.0:443 1000 7"}, "", nil},
		{"a UDP socket", held("sshd"), []string{"udp 0.0.0.0:443 0 7"}, "", nil},
		{"the oldest process", map[string]string{
			"proc/812/comm": "sshd\n", "proc/812/fd/3": "-> socket:[7]", "proc/1000/comm": "sshd\n", "proc/1000/fd/0": "-> socket:[7]",
			"proc/9/comm": "init\n", "proc/9/fd/0": "-> socket:[7]",
		}, []string{"tcp 0.0.0.0:443 0 7"}, "", []string{"0.0.0.0:443 sshd 812"}},
		{"other descriptors", map[string]string{
			"proc/812/comm": "sshd\n", "proc/812/fd/0": "-> /dev/null", "proc/812/fd/1": "-> pipe:[7]", "proc/812/fd/2": "-> socket:[x]", "proc/812/fd/9": "-> socket:[99999999999]",
		}, []string{"tcp 0.0.0.0:443 0 7"}, "", nil},
		{"several servers", map[string]string{
			"proc/812/comm": "sshd\n", "proc/812/fd/3": "-> socket:[7]", "proc/812/fd/4": "-> socket:[8]", "proc/900/comm": "dropbear\n", "proc/900/fd/3": "-> socket:[9]",
		}, []string{"tcp [::]:22 0 8", "tcp 0.0.0.0:22 0 7", "tcp 0.0.0.0:2222 0 9"}, "", []string{"0.0.0.0:22 sshd 812", "0.0.0.0:2222 dropbear 900", "[::]:22 sshd 812"}},
		{"one address twice", held("sshd"), []string{"tcp 0.0.0.0:443 0 7", "tcp 0.0.0.0:443 0 7"}, "", []string{"0.0.0.0:443 sshd 812"}},

		// By the control group, which everybody may see.
		{"ssh.service", map[string]string{cgroups2 + "system.slice/ssh.service/": ""}, []string{"tcp 0.0.0.0:443 0 7 system.slice/ssh.service"}, "", []string{"0.0.0.0:443 ssh.service"}},
		{"ssh.socket", map[string]string{cgroups2 + "system.slice/ssh.socket/": ""}, []string{"tcp 0.0.0.0:443 0 7 system.slice/ssh.socket"}, "", []string{"0.0.0.0:443 ssh.socket"}},
		{"an instance", map[string]string{cgroups2 + "system.slice/system-sshd.slice/sshd@two.service/": ""}, []string{"tcp 0.0.0.0:443 0 7 system.slice/system-sshd.slice/sshd@two.service"}, "", []string{"0.0.0.0:443 sshd@two.service"}},
		{"another service", map[string]string{cgroups2 + "system.slice/nginx.service/": ""}, []string{"tcp 0.0.0.0:443 0 7 system.slice/nginx.service"}, "", nil},
		{"a similar service", map[string]string{cgroups2 + "system.slice/sshd-keygen.service/": ""}, []string{"tcp 0.0.0.0:443 0 7 system.slice/sshd-keygen.service"}, "", nil},
		{"of a user, not of the system", map[string]string{cgroups2 + "user.slice/ssh.service/": ""}, []string{"tcp 0.0.0.0:443 0 7 user.slice/ssh.service"}, "", nil},
		{"a shell in the service", map[string]string{cgroups2 + "system.slice/ssh.service/": ""}, []string{"tcp 0.0.0.0:443 1000 7 system.slice/ssh.service"}, "", nil},
		{"sslh as its own user", map[string]string{cgroups2 + "system.slice/sslh.service/": ""}, []string{"tcp 0.0.0.0:443 999 7 system.slice/sslh.service"}, "", []string{"0.0.0.0:443 sslh.service"}},

		// By the port.
		{"systemd listens", socketUnit, []string{"tcp [::]:2222 0 7", "tcp [::]:443 0 8"}, "", []string{"[::]:2222 ssh.socket"}},
		{"a user listens there", socketUnit, []string{"tcp [::]:2222 1000 7"}, "", nil},
		{"sshd_config", map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "Port 2222\n"}, []string{"tcp [::]:2222 0 7", "tcp [::]:22 1000 8"}, "", []string{"[::]:2222 sshd"}},
		{"port 22 of root", none, []string{"tcp 0.0.0.0:22 0 7", "tcp 0.0.0.0:222 0 8"}, "", []string{"0.0.0.0:22 ssh"}},
		{"port 22 of a user", none, []string{"tcp 0.0.0.0:22 1000 7"}, "", nil},

		// On loopback.
		{"loopback", held("sshd"), []string{"tcp 127.0.0.1:22 0 7", "tcp [::1]:22 0 7"}, "", nil},
		{"loopback, and it is configured to be there", map[string]string{"usr/sbin/sshd": "", "etc/ssh/sshd_config": "ListenAddress 127.0.0.1\n"}, nil, "", nil},
		{"loopback is enough", map[string]string{"usr/sbin/sshd": "", "proc/812/comm": "sshd\n", "proc/812/fd/3": "-> socket:[7]"}, []string{"tcp 127.0.0.1:22 0 7"}, "", nil},
		{"behind sslh", map[string]string{
			"proc/812/comm": "sshd\n", "proc/812/fd/3": "-> socket:[7]", "proc/900/comm": "sslh\n", "proc/900/fd/3": "-> socket:[8]",
		}, []string{"tcp 127.0.0.1:22 0 7", "tcp [::1]:22 0 7", "tcp 0.0.0.0:443 0 8"}, "127.0.0.1 50000 127.0.0.1 22", []string{"0.0.0.0:443 sslh 900", "127.0.0.1:22 sshd 812"}},

		// Before it runs.
		{"nothing at all", none, nil, "", nil},
		{"sshd is installed", map[string]string{"usr/sbin/sshd": ""}, []string{"tcp 0.0.0.0:80 0 7"}, "", []string{"0.0.0.0:22 sshd configured", "[::]:22 sshd configured"}},
		{"sshd is not installed", map[string]string{"etc/ssh/sshd_config": "Port 2222\n"}, nil, "", nil},
		{"a unit of sshd is", map[string]string{lib + "ssh.service": "", "etc/ssh/sshd_config": "Port 2222\nAddressFamily inet\n"}, nil, "", []string{"0.0.0.0:2222 sshd configured"}},
		{"a socket unit that is enabled", map[string]string{
			lib + "sshd.socket": "[Socket]\nListenStream=2222\nListenStream=/run/ssh\nListenStream=vsock::22\n", wants + "sshd.socket": "-> /usr/" + lib + "sshd.socket",
		}, nil, "", []string{"[::]:2222 sshd.socket configured"}},
		{"a socket unit that is not", map[string]string{lib + "sshd.socket": "[Socket]\nListenStream=2222\n"}, nil, "", nil},
		{"a socket unit that is masked", map[string]string{
			lib + "sshd.socket": "[Socket]\nListenStream=2222\n", "etc/systemd/system/sshd.socket": "-> /dev/null", wants + "sshd.socket": "-> /usr/" + lib + "sshd.socket",
		}, nil, "", nil},
		{"what is configured is not asked for", map[string]string{
			"usr/sbin/sshd": "", "etc/ssh/sshd_config": "Port 2222\n", "proc/812/comm": "sshd\n", "proc/812/fd/3": "-> socket:[7]",
		}, []string{"tcp 0.0.0.0:443 0 7"}, "", []string{"0.0.0.0:443 sshd 812"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := lay(t, c.files)
			var listeners []kernel.Listener
			for _, s := range c.sockets {
				listeners = append(listeners, socket(t, root, s))
			}
			own, _ := parseConnection(c.own)
			h, err := Find(root, listeners, nil, own)
			var got []string
			for _, s := range h.Servers {
				got = append(got, s.text())
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// What cannot be read is said, and counts as what is usual.
func TestFindWithoutConfiguration(t *testing.T) {
	root := lay(t, map[string]string{
		"usr/sbin/sshd": "", "etc/ssh/sshd_config": "-> sshd_config",
		"etc/systemd/system/ssh.socket":                           "-> ssh.socket",
		"etc/systemd/system/multi-user.target.wants/sshd.service": "",
	})
	h, err := Find(root, nil, nil, Session{})
	if err == nil || !strings.Contains(err.Error(), "sshd_config") || !strings.Contains(err.Error(), "ssh.socket") {
		t.Errorf("got %v", err)
	}
	if len(h.Servers) != 2 || h.Servers[0].text() != "0.0.0.0:22 sshd configured" {
		t.Errorf("got %v", h.Servers)
	}
}

func TestFindSessions(t *testing.T) {
	root := lay(t, map[string]string{"proc/812/comm": "sshd\n", "proc/812/fd/3": "-> socket:[7]"})
	const client, web = "203.0.113.7:50000", "192.0.2.2:22"
	for _, c := range []struct {
		name, listens, local, remote, own string
		want                              []string
	}{
		{"IPv4", "0.0.0.0:22", web, client, "", []string{web + " " + client}},
		{"IPv4 at a socket of both", "[::]:22", web, client, "", []string{web + " " + client}},
		{"IPv6", "[::]:22", "[2001:db8::2]:22", "[2001:db8::1]:50000", "", []string{"[2001:db8::2]:22 [2001:db8::1]:50000"}},
		{"IPv6, which is not served", "0.0.0.0:22", "[2001:db8::2]:22", "[2001:db8::1]:50000", "", nil},
		{"the address that is served", web, web, client, "", []string{web + " " + client}},
		{"another address", "192.0.2.3:22", web, client, "", nil},
		{"another port", "0.0.0.0:22", "192.0.2.2:443", client, "", nil},
		{"a session from here to there", "0.0.0.0:22", "192.0.2.2:50000", "203.0.113.7:22", "", nil},
		{"from loopback", "0.0.0.0:22", "127.0.0.1:22", "127.0.0.1:50000", "", nil},
		{"from this host", "0.0.0.0:22", web, "192.0.2.2:50000", "", nil},
		{"the own", "0.0.0.0:22", web, client, "203.0.113.7 50000 192.0.2.2 22", []string{web + " " + client + " own"}},
		{"the own is another", "0.0.0.0:22", web, client, "203.0.113.7 50001 192.0.2.2 22", []string{web + " " + client, web + " 203.0.113.7:50001 own"}},
		{"the own at a port of which nothing is known", "0.0.0.0:22", "192.0.2.2:443", client, "203.0.113.7 50000 192.0.2.2 443", []string{"192.0.2.2:443 " + client + " own"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			own, _ := parseConnection(c.own)
			listener := socket(t, root, "tcp "+c.listens+" 0 7")
			connection := kernel.Connection{Local: netip.MustParseAddrPort(c.local), Remote: netip.MustParseAddrPort(c.remote)}
			h, err := Find(root, []kernel.Listener{listener}, []kernel.Connection{connection}, own)
			var got []string
			for _, s := range h.Sessions {
				text := s.Local.String() + " " + s.Remote.String()
				if s.Own {
					text += " own"
				}
				got = append(got, text)
			}
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestParseStream(t *testing.T) {
	for stream, want := range map[string]string{
		"22": "[::]:22", "0.0.0.0:22": "0.0.0.0:22", "[::]:22": "[::]:22", "192.0.2.1:2222": "192.0.2.1:2222",
		"[2001:db8::1]:22": "[2001:db8::1]:22", "[fe80::1]:22%eth0": "[fe80::1]:22", "[::ffff:192.0.2.1]:22": "192.0.2.1:22",
		"0": "", "65536": "", "/run/ssh": "", "@ssh": "", "vsock::22": "", "vsock:2:22": "", "": "", "host:22": "", "192.0.2.1": "", "192.0.2.1:0": "",
	} {
		got, ok := parseStream(stream)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: got %v, %v; want %q", stream, got, ok, want)
		}
	}
}
