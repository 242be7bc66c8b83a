package lab

import (
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// Connect puts a cable between two hosts: aLink appears in a, bLink in b, both up.
func (n *Net) Connect(a *Host, aLink string, b *Host, bLink string) {
	n.t.Helper()
	cable := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: aLink},
		PeerName:      bLink,
		PeerNamespace: netlink.NsFd(b.ns),
	}
	a.check(a.links.LinkAdd(cable), "connecting %s to %s of %s", aLink, bLink, b)
	a.check(a.links.LinkSetUp(a.link(aLink)), "setting %s up", aLink)
	b.check(b.links.LinkSetUp(b.link(bLink)), "setting %s up", bLink)
	a.awaitLink(aLink)
	b.awaitLink(bLink)
}

// awaitLink waits until a link has its IPv6 link-local address. The kernel
// gives it in the background, last of all; until then packets may vanish.
func (h *Host) awaitLink(name string) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		addrs, err := h.links.AddrList(h.link(name), netlink.FAMILY_V6)
		h.check(err, "listing addresses of %s", name)
		if slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
			return a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0
		}) {
			return
		}
	}
	h.t.Fatalf("%s: %s is not up after %v", h, name, patience)
}

// Bridge makes a bridge of the given links, which may be none.
func (h *Host) Bridge(name string, links ...string) {
	h.t.Helper()
	h.check(h.links.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}), "making bridge %s", name)
	for _, l := range links {
		h.check(h.links.LinkSetMaster(h.link(l), h.link(name)), "putting %s into %s", l, name)
	}
	h.check(h.links.LinkSetUp(h.link(name)), "setting %s up", name)
	if len(links) > 0 { // without a link it carries nothing
		h.awaitLink(name)
	}
}

// Down takes a link out of service; its addresses of IPv6 go with that.
func (h *Host) Down(link string) {
	h.t.Helper()
	h.check(h.links.LinkSetDown(h.link(link)), "setting %s down", link)
}

// Remove deletes a link, and with a cable its other end.
func (h *Host) Remove(link string) {
	h.t.Helper()
	h.check(h.links.LinkDel(h.link(link)), "removing %s", link)
}

// Addr gives a link an address, such as 192.0.2.1/24. It is usable at once.
func (h *Host) Addr(link string, address netip.Prefix) {
	h.t.Helper()
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   address.Addr().AsSlice(),
		Mask: net.CIDRMask(address.Bits(), address.Addr().BitLen()),
	}}
	if address.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	h.check(h.links.AddrAdd(h.link(link), a), "giving %s to %s", address, link)
	if address.Addr().Is6() {
		h.awaitRoute(address.Addr())
	}
}

// awaitRoute waits until an IPv6 address is in the table of local routes, where
// the kernel puts it in the background; until then the host asks its
// neighbours for its own address.
func (h *Host) awaitRoute(a netip.Addr) {
	h.t.Helper()
	local := &netlink.Route{Table: unix.RT_TABLE_LOCAL}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		routes, err := h.links.RouteListFiltered(netlink.FAMILY_V6, local, netlink.RT_FILTER_TABLE)
		h.check(err, "listing local routes")
		if slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.Equal(a.AsSlice()) }) {
			return
		}
	}
	h.t.Fatalf("%s: %s does not work after %v", h, a, patience)
}

// Route sends packets for a network to a gateway.
func (h *Host) Route(to netip.Prefix, via netip.Addr, link string) {
	h.t.Helper()
	r := &netlink.Route{LinkIndex: h.link(link).Attrs().Index, Dst: netipx.PrefixIPNet(to), Gw: via.AsSlice()}
	h.check(h.links.RouteAdd(r), "routing %s via %s", to, via)
}

// Anycast makes every address of a network an address of this host, so that
// it can Dial from any of them. The network must not hold the target.
func (h *Host) Anycast(network netip.Prefix) {
	h.t.Helper()
	r := &netlink.Route{
		LinkIndex: h.link("lo").Attrs().Index,
		Dst:       netipx.PrefixIPNet(network),
		Type:      unix.RTN_LOCAL,
		Table:     unix.RT_TABLE_LOCAL,
		Scope:     netlink.SCOPE_HOST,
	}
	h.check(h.links.RouteAdd(r), "taking the addresses of %s", network)
}

// MAC returns the hardware address of a link.
func (h *Host) MAC(link string) net.HardwareAddr {
	h.t.Helper()
	return h.link(link).Attrs().HardwareAddr
}

func (h *Host) link(name string) netlink.Link {
	h.t.Helper()
	l, err := h.links.LinkByName(name)
	h.check(err, "looking up link %s", name)
	return l
}
