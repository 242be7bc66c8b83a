package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Route says how this host sends to an address.
type Route struct {
	Interface string
	Index     int        // of the interface
	Source    netip.Addr // of what is sent there
}

// RouteTo looks up the route to an address. Packets from there normally come in
// by the same interface.
func RouteTo(a netip.Addr) (Route, error) {
	answers, err := ask(unix.NETLINK_ROUTE, routeRequest(a.Unmap()))
	if err != nil {
		return Route{}, classify(fmt.Sprintf("looking up the route to %s", a), err)
	}
	for _, m := range answers {
		if r, ok := parseRoute(m.Data); ok {
			r.Interface, err = linkName(r.Index)
			return r, err
		}
	}
	return Route{}, fmt.Errorf("no interface leads to %s", a)
}

// linkName asks for one interface: a host may have thousands.
func linkName(index int) (string, error) {
	data := make([]byte, unix.SizeofIfInfomsg) // struct ifinfomsg: the index is at byte 4
	binary.NativeEndian.PutUint32(data[4:], uint32(index))
	links, err := ask(unix.NETLINK_ROUTE, netlink.Message{Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request}, Data: data})
	if err != nil || len(links) == 0 {
		return "", classify(fmt.Sprintf("naming interface %d", index), err)
	}
	name, _ := parseLink(links[0].Data)
	return name, nil
}

// routeRequest encodes struct rtmsg (linux/rtnetlink.h), whose first two bytes
// are the family and the length of the prefix, and the address.
func routeRequest(a netip.Addr) netlink.Message {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = unix.AF_INET, byte(a.BitLen())
	if a.Is6() {
		header[0] = unix.AF_INET6
	}
	address := attributes(func(e *netlink.AttributeEncoder) { e.Bytes(unix.RTA_DST, a.AsSlice()) })
	return netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETROUTE, Flags: netlink.Request},
		Data:   append(header, address...),
	}
}

func parseRoute(data []byte) (r Route, ok bool) {
	if len(data) < unix.SizeofRtMsg {
		return r, false
	}
	f := parseFields(data[unix.SizeofRtMsg:])
	oif := f.fixed(unix.RTA_OIF, 4)
	if oif == nil {
		return r, false
	}
	r.Index = int(binary.NativeEndian.Uint32(oif))
	r.Source, _ = netip.AddrFromSlice(f.bytes(unix.RTA_PREFSRC))
	return r, true
}

// OwnAddresses are those of this host.
func OwnAddresses() (map[netip.Addr]bool, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of this host: %w", err)
	}
	own := make(map[netip.Addr]bool)
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	return own, nil
}
