package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

func TestSessionPort(t *testing.T) {
	if port, ok := sessionPort("192.0.2.7 51234 198.51.100.1 2222"); !ok || port != 2222 {
		t.Errorf("got %d, %v", port, ok)
	}
	for _, connection := range []string{"", "192.0.2.7 51234", "a b c d", "a b c 0", "a b c 70000"} {
		if port, ok := sessionPort(connection); ok {
			t.Errorf("%q gives port %d", connection, port)
		}
	}
}

// A process named sshd that listens on a guarded port is found, wherever it
// came from; other listeners are not taken for it.
func TestGuardedSSH(t *testing.T) {
	t.Setenv("SSH_CONNECTION", "")
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	p := firewall.Policy{TCP: []firewall.PortRange{{First: port, Last: port}}}
	if got, err := guardedSSH(p); err != nil || len(got) != 0 {
		t.Errorf("a listener that is not sshd is taken for it: %v", got)
	}
	t.Setenv("SSH_CONNECTION", fmt.Sprintf("192.0.2.7 51234 198.51.100.1 %d", port))
	if got, err := guardedSSH(p); err != nil || !slices.Equal(got, []uint16{port}) {
		t.Errorf("the session's own port: got %v", got)
	}
	if got, err := guardedSSH(firewall.Policy{}); err != nil || len(got) != 0 {
		t.Errorf("nothing is guarded, but got %v", got)
	}
	t.Setenv("SSH_CONNECTION", "")
	rename(t, "sshd")
	var want []uint16
	if os.Getuid() == 0 { // whoever else calls itself sshd is not believed
		want = []uint16{port}
	}
	if got, err := guardedSSH(p); err != nil || !slices.Equal(got, want) {
		t.Errorf("a listener of sshd: got %v, %v; want %v", got, err, want)
	}
}

// A process of another user opens no port by calling itself sshd.
func TestGuardedSSHOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // TestGuardedSSH has shown it
	}
	t.Setenv("SSH_CONNECTION", "")
	var l net.Listener
	var err error
	done := make(chan struct{})
	go func() { // a thread of another user, which dies with its goroutine
		defer close(done)
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
			err = errno
			return
		}
		l, err = net.Listen("tcp", "0.0.0.0:0")
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	rename(t, "sshd")
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	if got, err := guardedSSH(firewall.Policy{TCP: []firewall.PortRange{{First: port, Last: port}}}); err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// rename gives this process another name for the time of the test.
func rename(t *testing.T, name string) {
	t.Helper()
	comm := fmt.Sprintf("/proc/%d/comm", os.Getpid())
	old, err := os.ReadFile(comm)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string) {
		if err := os.WriteFile(comm, []byte(name), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set(strings.TrimSpace(string(old))) })
	set(name)
}

func TestReachable(t *testing.T) {
	p := firewall.Policy{TCP: []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: 443}}, UDP: []firewall.PortRange{{First: 443, Last: 443}}}
	h := firewall.Host{Ephemeral: []firewall.PortRange{{First: 32768, Last: 60999}}}
	var all []kernel.Listener
	for _, l := range []string{
		"tcp 0.0.0.0:443", "tcp 0.0.0.0:5432", "tcp [::]:22", "tcp 0.0.0.0:22", "tcp 127.0.0.1:6379", "tcp [::1]:6379",
		"udp [::]:443", "udp 0.0.0.0:51820", "udp 0.0.0.0:1900", "tcp 192.0.2.1:40000",
	} {
		protocol, address, _ := strings.Cut(l, " ")
		all = append(all, kernel.Listener{Protocol: protocol, Address: netip.MustParseAddrPort(address)})
	}
	got := reachable(p, all, h)
	want := []string{"22/tcp", "1900/udp", "5432/tcp", "40000/tcp"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
