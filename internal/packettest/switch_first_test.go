package packettest

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// The first switch on a host that tracks no connections. Of what is under way
// then a few datagrams may be lost, but no flow may end.
func TestFirstSwitchKeepsTheTunnel(t *testing.T) {
	for _, to := range []combination{
		{mode: firewall.ModeTunnel},
		{firewall.ModeCloudflare, true, false},
		{firewall.ModeCloudflare, false, true},
		{firewall.ModeTunnel, true, true},
	} {
		t.Run(to.String(), func(t *testing.T) {
			t.Parallel()
			s := newOutside(t, lab.Edge{})
			enforce(t, s.Web, combination{mode: firewall.ModeCloudflare}.wanted())
			tun := startTunnel(t, s)
			tun.awaitAnswers(t)
			enforce(t, s.Web, to.wanted())
			tun.awaitAnswers(t)
			tun.stop()
			t.Log(tun)
		})
	}
}

// awaitAnswers waits until each flow has got answers to what it sends from now on.
func (tun *tunnel) awaitAnswers(t *testing.T) {
	t.Helper()
	for _, f := range tun.flows {
		from := f.sent.Load()
		for deadline := time.Now().Add(5 * time.Second); f.next.Load() < from+50; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("LOST the flow %s: %d of %d came back", f.name, f.received.Load(), f.sent.Load())
				break
			}
		}
	}
}

// Tracking may begin between a question and its answer, and takes the answer
// for the beginning. When the host closes later, both go on all the same.
func TestSwitchKeepsConversationsOlderThanTracking(t *testing.T) {
	tests := map[string]struct {
		asks   func(*lab.Site) (asker, answerer *lab.Host)
		closes func(wanted) wanted
	}{
		"the host asks":     {func(s *lab.Site) (*lab.Host, *lab.Host) { return s.Web, s.Client }, closedInbound},
		"the host is asked": {func(s *lab.Site) (*lab.Host, *lab.Host) { return s.Client, s.Web }, closedOutbound},
	}
	addresses := map[string][2]netip.Addr{"IPv4": {lab.Client4, lab.Web4}, "IPv6": {lab.Client6, lab.Web6}}
	for name, tt := range tests {
		for family, address := range addresses {
			t.Run(name+" by "+family, func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				asker, answerer := tt.asks(s)
				at := address[0]
				if answerer == s.Web {
					at = address[1]
				}
				service := listenAt(t, answerer, netip.AddrPortFrom(at, 51820))
				client := listenAt(t, asker, netip.AddrPort{})
				w := defaults()
				w.policy.Inbound.Open = []firewall.Service{openService("udp", 51820)}

				from := say(t, client, service, netip.AddrPortFrom(at, 51820))
				enforce(t, s.Web, tunnelled(w))
				for range 3 {
					say(t, service, client, from)
					say(t, client, service, netip.AddrPortFrom(at, 51820))
				}
				enforce(t, s.Web, tt.closes(tunnelled(w)))
				for range 3 {
					say(t, service, client, from)
					say(t, client, service, netip.AddrPortFrom(at, 51820))
				}
			})
		}
	}
}

func listenAt(t *testing.T, h *lab.Host, address netip.AddrPort) *net.UDPConn {
	t.Helper()
	local := &net.UDPAddr{}
	if address.IsValid() {
		local = net.UDPAddrFromAddrPort(address)
	}
	var c *net.UDPConn
	var err error
	h.Do(func() { c, err = net.ListenUDP("udp", local) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// say sends a datagram and waits until it is heard, and from where.
func say(t *testing.T, from, to *net.UDPConn, address netip.AddrPort) netip.AddrPort {
	t.Helper()
	word, heard := []byte("hello"), make([]byte, 16)
	_, errWrite := from.WriteToUDPAddrPort(word, address)
	to.SetReadDeadline(time.Now().Add(3 * time.Second))
	n, sender, err := to.ReadFromUDPAddrPort(heard)
	if errWrite != nil || err != nil || !bytes.Equal(heard[:n], word) {
		t.Fatalf("LOST a datagram to %s: %v, %v", address, errWrite, err)
	}
	return sender
}
