package kernel

import (
	"context"
	"errors"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// hostGroups are the rtnetlink groups that tell of what ReadHost reads:
// interfaces, addresses and forwarding.
var hostGroups = []uint32{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
}

// WatchHost tells when something about the host may have changed, until the
// context ends; the channel is closed then. Several changes may become one
// word, and a word may be about nothing that matters: read the host again.
func WatchHost(ctx context.Context) (<-chan struct{}, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{MessageBufferSize: receiveSize})
	if err != nil {
		return nil, classify("opening a netlink socket", err)
	}
	for _, group := range hostGroups {
		if err := c.JoinGroup(group); err != nil {
			c.Close()
			return nil, classify("watching interfaces", err)
		}
	}
	changed := make(chan struct{}, 1)
	// A deadline in the past ends the read that waits.
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	go func() {
		defer stop()
		defer c.Close()
		defer close(changed)
		watch(ctx, c, changed)
	}()
	return changed, nil
}

// watch passes on that something came, not what. ENOBUFS says that events were
// lost, which is an event.
func watch(ctx context.Context, c *netlink.Conn, changed chan<- struct{}) {
	for ctx.Err() == nil {
		if _, err := c.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}
