package sshd

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
)

// This program is also the server in the tests: what it finds in this variable
// are the addresses to listen at, with the networks of package net.
const standIn = "CFWALL_SSHD_LISTENS"

func TestMain(m *testing.M) {
	if addresses, ok := os.LookupEnv(standIn); ok {
		serve(strings.Fields(addresses))
	}
	os.Exit(lab.Main(m))
}

// serve listens, says so, and keeps what comes in. It ends by a signal.
func serve(addresses []string) {
	var listeners []net.Listener
	for _, a := range addresses {
		network, address, _ := strings.Cut(a, "=")
		var l net.Listener
		var err error
		if network == "inherited" {
			l, err = net.FileListener(os.NewFile(3, network)) // sd_listen_fds(3)
		} else {
			l, err = net.Listen(network, address)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		go func() {
			for {
				if _, err := l.Accept(); err != nil {
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

// start starts a server under a name and waits until it listens. What it
// inherits are descriptors from 3 on.
func start(t *testing.T, h *lab.Host, name, addresses string, inherits ...*os.File) (pid int) {
	t.Helper()
	program := filepath.Join(t.TempDir(), name) // a process is named after the link
	if err := os.Symlink("/proc/self/exe", program); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), standIn+"="+addresses)
	cmd.ExtraFiles = inherits
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Start(cmd)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q, %v", line, err)
	}
	return cmd.Process.Pid
}

// find is what the daemon does, inside a host.
func find(t *testing.T, h *lab.Host, root string, own Session) Host {
	t.Helper()
	var found Host
	var listeners []kernel.Listener
	var connections []kernel.Connection
	var err error
	h.Do(func() {
		if listeners, err = kernel.Listeners(); err != nil {
			return
		}
		if connections, err = kernel.Connections(); err != nil {
			return
		}
		found, err = Find(root, listeners, connections, own)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// rootWithProc is a root with the processes of this host and nothing else.
func rootWithProc(t *testing.T) string { return lay(t, map[string]string{"proc": "-> /proc"}) }

func expectServers(t *testing.T, got []Server, want ...Server) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestServersThatListen(t *testing.T) {
	lab.Kernel(t)
	for _, c := range []struct{ name, listens, want string }{
		{"sshd", "tcp4=0.0.0.0:443", "0.0.0.0:443"},
		{"sshd", "tcp4=0.0.0.0:2222", "0.0.0.0:2222"},
		{"sshd", "tcp6=[::]:2222", "[::]:2222"},
		{"sshd", "tcp4=192.0.2.2:22", "192.0.2.2:22"},
		{"sshd", "tcp6=[2001:db8::2]:443", "[2001:db8::2]:443"},
		{"sshd", "tcp4=0.0.0.0:22 tcp6=[::]:22 tcp4=0.0.0.0:8443", "0.0.0.0:22 0.0.0.0:8443 [::]:22"},
		{"sshd", "tcp4=127.0.0.1:2222 tcp6=[::1]:2222", ""},
		{"dropbear", "tcp=:2222", "[::]:2222"},
		{"sslh-ev", "tcp4=0.0.0.0:443", "0.0.0.0:443"},
		{"tinysshd", "tcp4=0.0.0.0:443", "0.0.0.0:443"},
		{"nginx", "tcp4=0.0.0.0:443", ""},
	} {
		t.Run(c.name+" "+c.listens, func(t *testing.T) {
			s := lab.NewSite(t)
			s.Web.ListenTCP(":80")
			s.Web.ListenUDP(":443")
			pid := start(t, s.Web, c.name, c.listens)
			var want []Server
			for a := range strings.FieldsSeq(c.want) {
				address := netip.MustParseAddrPort(a)
				want = append(want, Server{Address: address, Program: c.name, PID: pid, OnlyIPv6: strings.Contains(c.listens, "tcp6="+a)})
			}
			expectServers(t, find(t, s.Web, rootWithProc(t), Session{}).Servers, want...)
			if got := find(t, s.Client, rootWithProc(t), Session{}); len(got.Servers)+len(got.Sessions) > 0 {
				t.Errorf("found %v at a host that serves nothing", got)
			}
		})
	}
}

// Systemd has a server inherit what it listens at, or accepts for it. Either is
// found: by the process, and without it by the unit.
func TestServerThatIsActivated(t *testing.T) {
	lab.Kernel(t)
	web := lab.New(t).Host("web")
	f := listen(t, web, "0.0.0.0:2222")
	address := netip.MustParseAddrPort("0.0.0.0:2222")

	expectServers(t, find(t, web, rootWithProc(t), Session{}).Servers)
	unit := lay(t, map[string]string{"etc/systemd/system/ssh.socket": "[Socket]\nListenStream=2222\n"})
	expectServers(t, find(t, web, unit, Session{}).Servers, Server{Address: address, Program: "ssh.socket"})
	pid := start(t, web, "sshd", "inherited", f)
	expectServers(t, find(t, web, rootWithProc(t), Session{}).Servers, Server{Address: address, Program: "sshd", PID: pid})
}

// controlGroup is the directory of the control group, version 2, of this process.
func controlGroup(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var fs unix.Statfs_t
			dir := filepath.Join(mount, path)
			if ok && unix.Statfs(dir, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
				return dir
			}
		}
	}
	t.Fatal("no control groups of version 2, by which servers are found without root")
	return ""
}

// The kernel tells of a socket the control group that is found by its directory.
// This process plays the service, from the group that it is in.
func TestServerByItsControlGroup(t *testing.T) {
	lab.Kernel(t)
	group := controlGroup(t)
	web := lab.New(t).Host("web")
	web.ListenTCP("0.0.0.0:443")
	for unit, want := range map[string]string{"ssh.service": "ssh.service", "nginx.service": ""} {
		root := lay(t, map[string]string{"sys/fs/cgroup/system.slice/" + unit: "-> " + group})
		var got string
		for _, s := range find(t, web, root, Session{}).Servers {
			got = s.Program
		}
		if got != want {
			t.Errorf("in the group of %s: found %q, want %q", unit, got, want)
		}
	}
}

func TestSessions(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	start(t, s.Web, "sshd", "tcp=:2222")
	s.Web.ListenTCP(":443")
	dial := func(h *lab.Host, address string) Session {
		var c net.Conn
		var err error
		h.Do(func() { c, err = net.Dial("tcp", address) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return Session{Local: netip.MustParseAddrPort(address), Remote: c.LocalAddr().(*net.TCPAddr).AddrPort()}
	}
	want := []Session{dial(s.Client, "192.0.2.2:2222"), dial(s.Client, "[2001:db8::2]:2222")}
	dial(s.Client, "192.0.2.2:443")   // not SSH
	dial(s.Web, "127.0.0.1:2222")     // on loopback
	dial(s.Web, "[2001:db8::2]:2222") // of the host with itself
	own := want[1]
	want[1].Own = true
	got := find(t, s.Web, rootWithProc(t), own).Sessions
	sorted := func(all []Session) []Session {
		return slices.SortedFunc(slices.Values(all), func(a, b Session) int { return a.Local.Compare(b.Local) })
	}
	if !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestOwnSessionOfAProcess(t *testing.T) {
	lab.Kernel(t)
	const connection = "203.0.113.7 50000 192.0.2.2 22"
	t.Setenv("SSH_CONNECTION", connection)
	pid := start(t, lab.New(t).Host("web"), "bash", "")
	want, _ := parseConnection(connection)
	if got, ok := OwnSession("", pid, ""); got != want || !ok {
		t.Errorf("got %v, %v; want %v", got, ok, want)
	}
	if got := parent("", pid); got != os.Getpid() {
		t.Errorf("the process was started by %d, not by %d", os.Getpid(), got)
	}
}

// A process opens no port by calling itself sshd where the socket is not root's.
func TestServerOfAnotherUser(t *testing.T) {
	lab.Kernel(t)
	web := lab.New(t).Host("web")
	f := listen(t, web, "0.0.0.0:2222")
	pid := start(t, web, "sshd", "inherited", f)
	address := netip.MustParseAddrPort("0.0.0.0:2222")
	expectServers(t, find(t, web, rootWithProc(t), Session{}).Servers, Server{Address: address, Program: "sshd", PID: pid})
	const nobody = 65534
	err := f.Chown(nobody, -1)
	if uids, _ := os.ReadFile("/proc/self/uid_map"); err != nil && strings.Contains(string(uids), "4294967295") {
		t.Fatal(err) // root in the first user namespace may do it
	}
	if err != nil {
		lab.Unprivileged(t, fmt.Sprintf("an ordinary user may not give sockets away: %v", err))
	}
	expectServers(t, find(t, web, rootWithProc(t), Session{}).Servers)
}

// listen listens inside a host and returns a descriptor to hand on.
func listen(t *testing.T, h *lab.Host, address string) *os.File {
	t.Helper()
	var l net.Listener
	var err error
	var listening net.ListenConfig
	listening.SetMultipathTCP(false) // a socket that Chown would not reach lies below it
	h.Do(func() { l, err = listening.Listen(t.Context(), "tcp4", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
