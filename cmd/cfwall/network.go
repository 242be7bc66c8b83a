package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
)

const networkHint = "such as: 203.0.113.9, 198.51.100.0/24, 2001:db8::/48"

func onlyNetwork(cmd *cobra.Command, args []string) (netip.Prefix, error) {
	if err := arguments(1, 1, "one ADDR or NETWORK")(cmd, args); err != nil {
		return netip.Prefix{}, err
	}
	return parseNetwork(args[0])
}

// parseNetwork reads an address or a network. One whose address does not go
// with its length is as likely a slip in the one as in the other.
func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return n, usage(networkHint, "%q is neither an address nor a network", s)
	case n.Addr().Is4In6():
		return n, usage(networkHint, "%q is an IPv4 network written as IPv6", s)
	case n != n.Masked():
		return n, usage(fmt.Sprintf("the network is %s, the address alone %s", n.Masked(), n.Addr()), "%q is an address within a network", s)
	}
	return n, nil
}

// networkText prints a network, or a single address without its length.
func networkText(n netip.Prefix) string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.String()
}
