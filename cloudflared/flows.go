package cloudflared

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/procfs"
)

// Port is that of Cloudflare's side of a tunnel, TCP and UDP.
const Port = 7844

// A Flow is a conversation with a server on Port, in which a tunnel may run.
type Flow struct {
	Protocol string         `json:"protocol"` // "tcp" or "udp"
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"`
	// Process is the name of the program, such as "cloudflared", or "container
	// or host ADDRESS" for what this host forwards; "" where it is not known.
	Process string `json:"process,omitempty"`
	PID     int    `json:"pid,omitempty"`
	// Forwarded is true of what a container or another host sends.
	Forwarded bool `json:"forwarded,omitempty"`
	// UID is the user of the socket; nil where it is not known.
	UID *uint32 `json:"uid,omitempty"`
	// Answered is true where packets have come back: always with TCP.
	Answered bool `json:"answered"`
	// Packets are those of both directions; 0 where the kernel does not count.
	Packets uint64 `json:"packets,omitempty"`

	inode uint32 // of the socket, 0 where it is not known
}

// Flows lists the TCP connections of this host to Port, and the UDP flows of
// this host and those behind it that the kernel tracks. Where there is an error
// it lists those found nevertheless: TCP needs no rights, UDP needs
// CAP_NET_ADMIN. Errors are those of package kernel.
func Flows(ctx context.Context) ([]Flow, error) {
	connections, err := kernel.Connections()
	if err != nil {
		return nil, err
	}
	flows := connected(connections)
	tracked, err := kernel.New().Flows(ctx, "udp", Port)
	if err == nil && len(tracked) > 0 {
		var datagrams []Flow
		datagrams, err = attribute(tracked)
		flows = append(flows, datagrams...)
	}
	nameProcesses(flows)
	slices.SortFunc(flows, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Remote.Compare(b.Remote), a.Local.Compare(b.Local))
	})
	return flows, err
}

func connected(connections []kernel.Connection) []Flow {
	var flows []Flow
	for _, c := range connections {
		if c.Remote.Port() == Port {
			flows = append(flows, Flow{Protocol: "tcp", Local: c.Local, Remote: c.Remote, UID: &c.UID, Answered: true, inode: c.Inode})
		}
	}
	return flows
}

// attribute finds the sockets of UDP flows, and leaves out what comes in.
func attribute(tracked []kernel.Flow) ([]Flow, error) {
	own, err := kernel.OwnAddresses()
	if err != nil {
		return nil, err
	}
	listeners, err := kernel.Listeners()
	var flows []Flow
	for _, t := range tracked {
		if own[t.Destination.Addr()] {
			continue
		}
		f := Flow{Protocol: t.Protocol, Local: t.Source, Remote: t.Destination, Answered: t.Replied, Packets: t.Packets}
		if !own[t.Source.Addr()] {
			f.Process, f.Forwarded = fmt.Sprintf("container or host %s", t.Source.Addr()), true
		} else if i := slices.IndexFunc(listeners, func(l kernel.Listener) bool { return sends(l, t.Source) }); i >= 0 {
			f.UID, f.inode = &listeners[i].UID, listeners[i].Inode
		} else if err == nil {
			continue // its socket is closed, and the kernel will forget the flow
		}
		flows = append(flows, f)
	}
	return flows, err
}

// sends reports whether datagrams with a source may be those of a socket.
// cloudflared's sockets are not connected and have no address (connection/quic.go
// in its source); one of IPv6 sends IPv4 too.
func sends(l kernel.Listener, source netip.AddrPort) bool {
	if l.Protocol != "udp" || l.Address.Port() != source.Port() {
		return false
	}
	a := l.Address.Addr()
	return a == source.Addr() || a.IsUnspecified() && (a.Is6() || source.Addr().Is4())
}

func nameProcesses(flows []Flow) {
	const root = "/"
	inodes := make(map[uint32]bool)
	for _, f := range flows {
		if f.inode != 0 {
			inodes[f.inode] = true
		}
	}
	found := holders(root, inodes)
	for i := range flows {
		if pid, ok := found[flows[i].inode]; ok {
			flows[i].PID, flows[i].Process = pid, procfs.Name(root, pid)
		}
	}
}
