package packettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// What has no ports is refused and counted, but not remembered.
func TestOutboundRefusesOtherProtocols(t *testing.T) {
	t.Parallel()
	s := newOutside(t, lab.Edge{})
	enforce(t, s.Web, outbound())
	nodeInformation := append([]byte{139, 0, 0, 0}, make([]byte, 12)...)
	const v4, v6 = "rejected_outbound4", "rejected_outbound6"
	tests := []struct {
		name, network string
		to            []netip.Addr
		packet        []byte
		counter       string
	}{
		{"echo reply", "ip4:1", at("198.51.100.7", "104.16.0.1", "198.41.192.7"), []byte{0, 0, 0xff, 0xff, 0, 0, 0, 0}, v4},
		{"source quench", "ip4:1", at("198.51.100.7"), []byte{4, 0, 0xfb, 0xff, 0, 0, 0, 0}, v4},
		{"redirect", "ip4:1", at("198.51.100.7"), []byte{5, 0, 0xfa, 0xff, 0, 0, 0, 0}, v4},
		{"router advertisement", "ip4:1", at("198.51.100.7"), []byte{9, 0, 0xf6, 0xff, 0, 0, 0, 0}, v4},
		{"timestamp request", "ip4:1", at("198.51.100.7"), append([]byte{13, 0, 0xf2, 0xff}, make([]byte, 16)...), v4},
		{"address mask request", "ip4:1", at("198.51.100.7"), append([]byte{17, 0, 0xee, 0xff}, make([]byte, 8)...), v4},
		{"IPv4 in IPv4", "ip4:4", at("198.51.100.7"), lab.IP{From: lab.Web4, To: stranger4, Protocol: 59}.Bytes(), v4},
		{"IPv6 in IPv4", "ip4:41", at("198.51.100.7"), lab.IP{From: lab.Web6, To: stranger6, Protocol: 59}.Bytes(), v4},
		{"GRE", "ip4:47", at("198.51.100.7", "198.41.192.7"), make([]byte, 8), v4},
		{"ESP", "ip4:50", at("198.51.100.7"), make([]byte, 16), v4},
		{"SCTP", "ip4:132", at("198.51.100.7", "198.41.192.7"), make([]byte, 32), v4},
		{"UDP-Lite", "ip4:136", at("198.51.100.7"), []byte{0xc3, 0x50, 0, 53, 0, 8, 0, 0}, v4},
		{"DCCP", "ip4:33", at("198.51.100.7"), make([]byte, 16), v4},
		{"a protocol for experiments", "ip4:253", at("198.51.100.7"), make([]byte, 8), v4},

		{"echo reply 6", "ip6:58", at("2001:db8:bad::7", "2606:4700::1", "2606:4700:a0::1"), []byte{129, 0, 0, 0, 0, 0, 0, 0}, v6},
		{"node information", "ip6:58", at("2001:db8:bad::7"), nodeInformation, v6},
		{"a message for experiments", "ip6:58", at("2001:db8:bad::7"), []byte{200, 0, 0, 0, 0, 0, 0, 0}, v6},
		{"IPv6 in IPv6", "ip6:41", at("2001:db8:bad::7"), lab.IP{From: lab.Web6, To: stranger6, Protocol: 59}.Bytes(), v6},
		{"GRE 6", "ip6:47", at("2001:db8:bad::7", "2606:4700:a0::1"), make([]byte, 8), v6},
		{"ESP 6", "ip6:50", at("2001:db8:bad::7"), make([]byte, 16), v6},
		{"SCTP 6", "ip6:132", at("2001:db8:bad::7", "2606:4700:a0::1"), make([]byte, 32), v6},
		{"a protocol for experiments 6", "ip6:253", at("2001:db8:bad::7"), make([]byte, 8), v6},
	}
	for _, tt := range tests {
		for _, to := range tt.to {
			before := readCounters(t, s.Web)[tt.counter]
			err := sendRaw(s.Web, tt.network, to, tt.packet)
			if !errors.Is(err, syscall.EPERM) {
				t.Errorf("LEAKED %s to %s: %v", tt.name, to, err)
			}
			if n := readCounters(t, s.Web)[tt.counter] - before; n != 1 {
				t.Errorf("%s to %s: counter %s grew by %d, want 1", tt.name, to, tt.counter, n)
			}
		}
	}
	if all := remembered(t, s.Web); len(all) != 0 {
		t.Errorf("destinations without ports are remembered: %v", all)
	}
}

// sendRaw sends a packet of a protocol, such as "ip4:132".
func sendRaw(h *lab.Host, network string, to netip.Addr, packet []byte) error {
	var conn net.Conn
	var err error
	h.Do(func() { conn, err = net.Dial(network, to.String()) })
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	defer conn.Close()
	_, err = conn.Write(packet)
	return err
}
