package kernel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/internal/lab"
)

func TestListeners(t *testing.T) {
	lab.Kernel(t)
	web := lab.New(t).Host("web")
	web.ListenTCP("0.0.0.0:443", "127.0.0.1:5432", "[::]:22", "[::1]:8080")
	web.ListenUDP("0.0.0.0:443", "[::1]:53")
	var connected net.Conn
	var all []Listener
	var err error
	web.Do(func() {
		if connected, err = net.Dial("tcp", "127.0.0.1:443"); err == nil {
			all, err = Listeners()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	group := controlGroup(t)
	var got []string
	for _, l := range all {
		got = append(got, l.Address.String()+"/"+l.Protocol)
		if l.Inode == 0 || l.UID != uint32(os.Getuid()) || l.Cgroup != group {
			t.Errorf("%+v, want an inode, user %d and control group %d", l, os.Getuid(), group)
		}
	}
	slices.Sort(got)
	want := []string{"127.0.0.1:5432/tcp", "[::1]:53/udp", "[::1]:8080/tcp", "[::]:22/tcp", "[::]:443/tcp", "[::]:443/udp"} // Go binds 0.0.0.0 to both families
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// controlGroup is the number of this process's control group.
func controlGroup(t *testing.T) uint64 {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, group, _ := strings.Cut("\n"+string(groups), "\n0::")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " - cgroup2 ") {
			info, err := os.Stat(filepath.Join(strings.Fields(line)[4], strings.TrimSpace(group)))
			if err != nil {
				t.Fatal(err)
			}
			return info.Sys().(*syscall.Stat_t).Ino
		}
	}
	t.Fatal("version 2 of control groups is not mounted")
	return 0
}

// A conversation is a connection from the client of a site to its web host.
type conversation struct {
	name           string
	client, server *net.TCPConn
}

// converse connects by a socket of IPv4, one of IPv6, and one of IPv6 that
// speaks IPv4.
func converse(t *testing.T, s *lab.Site) []conversation {
	t.Helper()
	var all []conversation
	for name, addresses := range map[string][2]string{
		"IPv4":         {"192.0.2.2:80", "192.0.2.2:80"},
		"IPv6":         {"[2001:db8::2]:80", "[2001:db8::2]:80"},
		"IPv4 by IPv6": {"[::]:443", "192.0.2.2:443"},
	} {
		client, server := connect(t, s, addresses[0], addresses[1], "")
		all = append(all, conversation{name, client, server})
	}
	return all
}

// connect returns both ends of a connection to where the web host listens,
// from an address of the client or any.
func connect(t *testing.T, s *lab.Site, listen, to, from string) (client, server *net.TCPConn) {
	t.Helper()
	var l net.Listener
	var err error
	s.Web.Do(func() { l, err = net.Listen("tcp", listen) })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialer := net.Dialer{Timeout: 3 * time.Second}
	if from != "" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	var c net.Conn
	s.Client.Do(func() { c, err = dialer.Dial("tcp", to) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return c.(*net.TCPConn), accepted.(*net.TCPConn)
}

func connections(t *testing.T, h *lab.Host) (all []Connection) {
	t.Helper()
	var err error
	h.Do(func() { all, err = Connections() })
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// end finds one end of a conversation among the connections of its host.
func end(t *testing.T, h *lab.Host, c *net.TCPConn) (Connection, bool) {
	t.Helper()
	local, remote := plain(c.LocalAddr()), plain(c.RemoteAddr())
	for _, found := range connections(t, h) {
		if found.Local == local && found.Remote == remote {
			return found, true
		}
	}
	return Connection{}, false
}

func plain(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

func destroy(h *lab.Host, c Connection) (err error) {
	h.Do(func() { err = Destroy(c) })
	return err
}

func TestConnections(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	all := converse(t, s)
	for _, h := range []*lab.Host{s.Client, s.Web} {
		if got := connections(t, h); len(got) != len(all) {
			t.Errorf("%s: %v, want %d connections and no listener", h, got, len(all))
		}
	}
	for _, c := range all {
		for h, conn := range map[*lab.Host]*net.TCPConn{s.Client: c.client, s.Web: c.server} {
			got, ok := end(t, h, conn)
			if !ok || got.UID != uint32(os.Getuid()) || got.Inode == 0 {
				t.Errorf("%s on %s: %+v, %t", c.name, h, got, ok)
			}
		}
	}
}

// TestConnectionsThatEnd: one that one side has ended still carries data.
func TestConnectionsThatEnd(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	for _, c := range converse(t, s) {
		t.Run(c.name, func(t *testing.T) {
			listed := func(client, server bool) {
				t.Helper()
				_, gotClient := end(t, s.Client, c.client)
				_, gotServer := end(t, s.Web, c.server)
				if gotClient != client || gotServer != server {
					t.Errorf("listed: client %t, server %t; want %t, %t", gotClient, gotServer, client, server)
				}
			}
			if err := c.client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(c.server); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c.server, "x")
			if _, err := io.ReadFull(c.client, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			listed(true, true)
			client, _ := end(t, s.Client, c.client)
			c.client.Close()
			if _, ok := end(t, s.Client, c.client); ok {
				t.Errorf("%v is listed, though its program has closed it", client)
			}
			c.server.Close()
			listed(false, false)
		})
	}
}

func TestDestroy(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	for _, c := range converse(t, s) {
		t.Run(c.name, func(t *testing.T) {
			found, ok := end(t, s.Web, c.server)
			if !ok {
				t.Fatal("not listed")
			}
			for range 2 { // the second time it is gone
				if err := destroy(s.Web, found); err != nil {
					t.Error(err)
				}
			}
			if err := after(c.server); !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("here: %v", err)
			}
			if err := after(c.client); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("at the other end: %v", err)
			}
		})
	}
	if left := connections(t, s.Web); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// after is how a connection ends.
func after(c *net.TCPConn) error {
	if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// TestDestroySparesTheNext: a later connection may have the same addresses.
func TestDestroySparesTheNext(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	const from = "192.0.2.1:50000"
	client, server := connect(t, s, "192.0.2.2:80", "192.0.2.2:80", from)
	old, _ := end(t, s.Web, server)
	if err := destroy(s.Web, old); err != nil {
		t.Fatal(err)
	}
	if err := after(client); !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	client.Close()
	_, next := connect(t, s, "192.0.2.2:80", "192.0.2.2:80", from)
	if err := destroy(s.Web, old); err != nil {
		t.Error(err)
	}
	if now, ok := end(t, s.Web, next); !ok || now.Local != old.Local || now.Remote != old.Remote {
		t.Errorf("%v was to stay, found %v", old, now)
	}
}

func TestSocketsWithoutCapability(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	c := converse(t, s)[0]
	s.Web.Do(func() {
		err := withoutCapability(func() error {
			all, err := Connections()
			if err != nil || len(all) != 3 {
				t.Errorf("anybody may look: %v, %v", all, err)
			}
			return Destroy(all[0])
		})
		if !errors.Is(err, ErrPermission) {
			t.Errorf("got %v", err)
		}
	})
	if _, ok := end(t, s.Web, c.server); !ok {
		t.Error("the connection is gone")
	}
}

func FuzzParseSocket(f *testing.F) {
	f.Add(make([]byte, 72))
	f.Add([]byte{2})
	f.Add(append(make([]byte, 72), 12, 0, cgroupID, 0, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Add(append(make([]byte, 72), 8, 0, cgroupID, 0, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, ok := parseSocket(data); ok && !(s.local.IsValid() && s.remote.IsValid()) {
			t.Errorf("%x is a socket without an address", data)
		}
	})
}
