package cloudflared

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/internal/procfs"
)

// newSite is a site where the client plays the edge, and the web host tracks
// what passes through it.
func newSite(t *testing.T) *lab.Site {
	t.Helper()
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Client.ListenTCP(":7844", ":443")
	s.Client.ListenUDP(":7844")
	s.Web.Nft(t, `table inet tracking { chain tracking {
		type filter hook postrouting priority 0
		ct state new accept
		}
	}`)
	s.Web.Sysctl("net/netfilter/nf_conntrack_acct", "1")
	return s
}

func flowsOf(t *testing.T, h *lab.Host) (flows []Flow) {
	t.Helper()
	var err error
	h.Do(func() { flows, err = Flows(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	return flows
}

// dial connects from a host until the test ends.
func dial(t *testing.T, h *lab.Host, network, to string) {
	t.Helper()
	var c net.Conn
	var err error
	h.Do(func() { c, err = net.Dial(network, to) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprint(c, "hello")
	if _, err := c.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

func TestFlows(t *testing.T) {
	s := newSite(t)
	if got := flowsOf(t, s.Web); len(got) > 0 {
		t.Errorf("nobody is connected yet: %v", got)
	}
	s.Client.Route(netip.PrefixFrom(lab.Container4, 16).Masked(), lab.Web4, "eth0")
	s.Web.ListenUDP(":7844")
	container := s.Container()
	pid := startPoser(t, s.Web, "192.0.2.1:7844", "[2001:db8::1]:7844")
	self := procfs.Name("/", os.Getpid())
	dial(t, s.Web, "tcp", "192.0.2.1:7844")
	dial(t, s.Web, "tcp", "192.0.2.1:443")
	dial(t, container, "udp", "192.0.2.1:7844")
	dial(t, s.Client, "udp", "192.0.2.2:7844") // comes in

	var got []string
	for _, f := range flowsOf(t, s.Web) {
		got = append(got, fmt.Sprintf("%s %s %s %s", f.Protocol, f.Local.Addr(), f.Remote, f.Process))
		own := f.Local.Addr() != lab.Container4
		switch {
		case own && f.Process == program && f.PID != pid, own && f.Process == self && f.PID != os.Getpid(), !own && f.PID != 0,
			own != (f.UID != nil), own && *f.UID != uint32(os.Getuid()),
			!f.Answered, f.Protocol == "udp" && f.Packets < 2:
			t.Errorf("got %+v", f)
		}
	}
	want := []string{
		"tcp 192.0.2.2 192.0.2.1:7844 " + program,
		"tcp 192.0.2.2 192.0.2.1:7844 " + self,
		"tcp 2001:db8::2 [2001:db8::1]:7844 " + program,
		"udp 172.17.0.2 192.0.2.1:7844 container or host 172.17.0.2",
		"udp 192.0.2.2 192.0.2.1:7844 " + program,
		"udp 2001:db8::2 [2001:db8::1]:7844 " + program,
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestFlowsWithoutCapability: everybody sees connections of TCP.
func TestFlowsWithoutCapability(t *testing.T) {
	s := newSite(t)
	dial(t, s.Web, "tcp", "192.0.2.1:7844")
	dial(t, s.Web, "udp", "192.0.2.1:7844")
	s.Web.Do(func() {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var all [2]unix.CapUserData
		err := unix.Capget(&header, &all[0])
		less := all
		less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := errors.Join(err, unix.Capset(&header, &less[0])); err != nil {
			t.Error(err)
			return
		}
		flows, err := Flows(t.Context())
		if len(flows) != 1 || flows[0].Protocol != "tcp" || !errors.Is(err, kernel.ErrPermission) {
			t.Errorf("got %+v, %v", flows, err)
		}
		if err := unix.Capset(&header, &all[0]); err != nil {
			t.Error(err)
		}
	})
}

// TestUnits is about a daemon that systemd lets see no process of others.
func TestUnits(t *testing.T) {
	root := t.TempDir()
	const groups = "/sys/fs/cgroup"
	inode := map[string]uint64{}
	for _, group := range []string{"/system.slice/cloudflared.service", "/system.slice/cloudflared-idle.service", "/system.slice/nginx.service"} {
		dir := filepath.Join(root, groups, group)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("101\n102\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		inode[group] = info.Sys().(*syscall.Stat_t).Ino
	}
	listeners := []kernel.Listener{
		{Protocol: "tcp", UID: 33, Cgroup: inode["/system.slice/nginx.service"]},
		{Protocol: "udp", UID: 998, Cgroup: inode["/system.slice/cloudflared.service"]},
	}
	want := []Process{{PID: 101, UID: 998, Cgroup: "/system.slice/cloudflared.service"}}
	if diff := cmp.Diff(want, units(root, listeners)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSends(t *testing.T) {
	for _, tt := range []struct {
		socket, source string
		want           bool
	}{
		{"[::]:5000", "192.0.2.2:5000", true},
		{"[::]:5000", "[2001:db8::2]:5000", true},
		{"0.0.0.0:5000", "192.0.2.2:5000", true},
		{"0.0.0.0:5000", "[2001:db8::2]:5000", false},
		{"192.0.2.2:5000", "192.0.2.2:5000", true},
		{"192.0.2.3:5000", "192.0.2.2:5000", false},
		{"[::]:5001", "192.0.2.2:5000", false},
	} {
		l := kernel.Listener{Protocol: "udp", Address: netip.MustParseAddrPort(tt.socket)}
		if got := sends(l, netip.MustParseAddrPort(tt.source)); got != tt.want {
			t.Errorf("%s sends %s: %t", tt.socket, tt.source, got)
		}
	}
	if l := (kernel.Listener{Protocol: "tcp", Address: netip.MustParseAddrPort("[::]:5000")}); sends(l, l.Address) {
		t.Error("a TCP socket sends datagrams")
	}
}

func TestProcesses(t *testing.T) {
	lab.Kernel(t)
	pid := startPoser(t, lab.New(t).Host("web"))
	i := slices.IndexFunc(processes("/"), func(p Process) bool { return p.PID == pid })
	if i < 0 {
		t.Fatalf("%d is not among %v", pid, processes("/"))
	}
	if got := processes("/")[i]; got.UID != uint32(os.Getuid()) || got.Cgroup == "" {
		t.Errorf("got %+v", got)
	}
}

func TestProcessesOfOthers(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"101/comm": "cloudflared\n", "101/status": "Name:\tcloudflared\nUid:\t0\t998\t998\t998\nGid:\t0\n",
		"101/cgroup": "1:name=systemd:/x\n0::/system.slice/cloudflared.service\n",
		"102/comm":   "cloudflared\n", "102/status": "Uid:\n", // ended
		"103/comm": "cloudflared2\n",
		"104/comm": "cloudflared\n", "104/status": "Name:\tcloudflared\nUid:\t7\t7\t7\t7\n",
		"105/status": "", "irq/comm": "cloudflared\n",
	} {
		file := filepath.Join(root, "proc", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want := []Process{{PID: 101, UID: 998, Cgroup: "/system.slice/cloudflared.service"}, {PID: 104, UID: 7}}
	if diff := cmp.Diff(want, processes(root)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := processes(t.TempDir()); len(got) > 0 {
		t.Errorf("without /proc: %v", got)
	}
}
