package kernel

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// TestReachedAt asks by which port clients came whom the host leads to another.
func TestReachedAt(t *testing.T) {
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Web.ListenTCP(":22")
	reached := func(client netip.Addr, port uint16) netip.AddrPort {
		var at netip.AddrPort
		to := netip.AddrPortFrom(lab.Web4, port)
		if client.Is6() {
			to = netip.AddrPortFrom(lab.Web6, port)
		}
		var c net.Conn
		var err error
		s.Client.Do(func() {
			from := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(client, 0))}
			c, err = from.Dial("tcp", to.String())
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		remote := netip.MustParseAddrPort(c.LocalAddr().String())
		s.Web.Do(func() {
			connections, err := Connections()
			if err != nil {
				t.Error(err)
			}
			i := slices.IndexFunc(connections, func(c Connection) bool { return c.Remote == remote })
			if i < 0 {
				t.Errorf("no connection of %v among %v", remote, connections)
				return
			}
			if at, err = New().ReachedAt(t.Context(), connections[i].Local, remote); err != nil {
				t.Error(err)
			}
		})
		return at
	}
	if got := reached(lab.Client4, 22); got.Port() != 22 {
		t.Errorf("without tracking: %v", got)
	}
	s.Web.Nft(t, `table inet redirecting {
		chain pre { type nat hook prerouting priority dstnat; tcp dport 2222 redirect to :22; }
	}`)
	for _, client := range []netip.Addr{lab.Client4, lab.Client6} {
		for _, port := range []uint16{22, 2222} {
			if got := reached(client, port); got.Port() != port {
				t.Errorf("%v came by port %d, but: %v", client, port, got)
			}
		}
	}
}
