package lab

import "net/netip"

// The addresses of a Site, from the ranges set aside for examples.
var (
	Client4 = netip.MustParseAddr("192.0.2.1")
	Client6 = netip.MustParseAddr("2001:db8::1")
	Web4    = netip.MustParseAddr("192.0.2.2")
	Web6    = netip.MustParseAddr("2001:db8::2")

	// Those of a container behind the web host, on the bridge docker0.
	Container4 = netip.MustParseAddr("172.17.0.2")
	Container6 = netip.MustParseAddr("fd00:17::2")
)

// A Site is a web host and the Internet, played by one client host that its
// default routes lead to: each has a link eth0.
type Site struct {
	Net         *Net
	Client, Web *Host
}

// NewSite makes a Site.
func NewSite(t T) *Site {
	t.Helper()
	n := New(t)
	s := &Site{n, n.Host("client"), n.Host("web")}
	n.Connect(s.Client, "eth0", s.Web, "eth0")
	s.Client.Addr("eth0", netip.PrefixFrom(Client4, 24))
	s.Client.Addr("eth0", netip.PrefixFrom(Client6, 64))
	s.Web.Addr("eth0", netip.PrefixFrom(Web4, 24))
	s.Web.Addr("eth0", netip.PrefixFrom(Web6, 64))
	defaultRoutes(s.Web, Client4, Client6)
	return s
}

// Container adds a host behind the web host, as container engines do: on a
// bridge docker0, for which the web host forwards. Published ports are the
// test's to make, with a nat table.
func (s *Site) Container() *Host {
	s.Net.t.Helper()
	c := s.Net.Host("container")
	s.Net.Connect(s.Web, "veth0", c, "eth0")
	s.Web.Bridge("docker0", "veth0")
	gateway4, gateway6 := Container4.Prev(), Container6.Prev()
	s.Web.Addr("docker0", netip.PrefixFrom(gateway4, 16))
	s.Web.Addr("docker0", netip.PrefixFrom(gateway6, 64))
	c.Addr("eth0", netip.PrefixFrom(Container4, 16))
	c.Addr("eth0", netip.PrefixFrom(Container6, 64))
	defaultRoutes(c, gateway4, gateway6)
	s.Web.Sysctl("net/ipv4/ip_forward", "1")
	s.Web.Sysctl("net/ipv6/conf/all/forwarding", "1")
	return c
}

func defaultRoutes(h *Host, via4, via6 netip.Addr) {
	h.t.Helper()
	h.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), via4, "eth0")
	h.Route(netip.PrefixFrom(netip.IPv6Unspecified(), 0), via6, "eth0")
}
