package daemon

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/firewall"
)

func TestParseSocketAddress(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:0050":                         "127.0.0.1:80",
		"00000000:01BB":                         "0.0.0.0:443",
		"00000000000000000000000000000000:0016": "[::]:22",
		"00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:1F90": "127.0.0.1:8080", // IPv4-mapped
		"B80D01200000000000000000010000C0:01BB": "[2001:db8::c000:1]:443",
	} {
		got, ok := parseSocketAddress(text)
		if !ok || got.String() != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"", ":", "0100007F", "010000:0050", "zz00007F:0050", "0100007F:FFFFF"} {
		if got, ok := parseSocketAddress(text); ok {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}

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
	if got := guardedSSH(p); len(got) != 0 {
		t.Errorf("a listener that is not sshd is taken for it: %v", got)
	}
	t.Setenv("SSH_CONNECTION", fmt.Sprintf("192.0.2.7 51234 198.51.100.1 %d", port))
	if got := guardedSSH(p); !slices.Equal(got, []uint16{port}) {
		t.Errorf("the session's own port: got %v", got)
	}
	if got := guardedSSH(firewall.Policy{}); len(got) != 0 {
		t.Errorf("nothing is guarded, but got %v", got)
	}
	t.Setenv("SSH_CONNECTION", "")
	rename(t, "sshd")
	if got := guardedSSH(p); !slices.Equal(got, []uint16{port}) {
		t.Errorf("a listener of sshd: got %v", got)
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
	got := reachable(p, []Listener{
		{Protocol: "tcp", Port: 443}, {Protocol: "tcp", Port: 5432}, {Protocol: "tcp", Port: 22}, {Protocol: "tcp", Port: 22},
		{Protocol: "udp", Port: 443}, {Protocol: "udp", Port: 51820}, {Protocol: "udp", Port: 1900}, {Protocol: "tcp", Port: 40000},
	}, h)
	want := []string{"22/tcp", "1900/udp", "5432/tcp", "40000/tcp"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
