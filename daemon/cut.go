package daemon

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// A Cut is live TCP connections that a change ends.
type Cut struct {
	Port        uint16 `json:"port"`     // at this host, or of outgoing connections at the other end
	Outgoing    bool   `json:"outgoing"` // they were opened from here
	Connections int    `json:"connections"`
}

// doomed lists the live connections that one table lets pass and the next does
// not; without a table all pass.
func (e *Engine) doomed(before *firewall.Ruleset, after firewall.Ruleset) ([]kernel.Connection, []Cut, error) {
	connections, err := e.connections()
	if err != nil {
		return nil, nil, err
	}
	directions, err := e.directions()
	if err != nil {
		return nil, nil, err
	}
	judge := judge{e, before, after, make(map[netip.Addr]string)}
	var ending []kernel.Connection
	cuts := make(map[Cut]int)
	for _, c := range connections {
		incoming, outgoing := directions.of(c)
		switch {
		case incoming && judge.ends(packetOf(c, false)):
			cuts[Cut{Port: c.Local.Port()}]++
		case outgoing && judge.ends(packetOf(c, true)):
			cuts[Cut{Port: c.Remote.Port(), Outgoing: true}]++
		default:
			continue
		}
		ending = append(ending, c)
	}
	return ending, sortedCuts(cuts), nil
}

// directions tells connections that came in from those that were opened here.
type directions struct {
	served    map[uint16]bool
	ephemeral []firewall.PortRange
}

func (e *Engine) directions() (directions, error) {
	host, err := e.host()
	if err != nil {
		return directions{}, err
	}
	listeners, err := kernel.Listeners()
	served := make(map[uint16]bool)
	for _, l := range listeners {
		served[l.Address.Port()] = served[l.Address.Port()] || l.Protocol == "tcp"
	}
	return directions{served, host.Ephemeral}, err
}

// of says that a connection came in where somebody listens at its port. Where
// nobody does and no client gets the port by chance, it is neither: a server may
// have ended before its sessions, and NFS chooses its port. The rules have those.
func (d directions) of(c kernel.Connection) (incoming, outgoing bool) {
	incoming = d.served[c.Local.Port()]
	return incoming, !incoming && firewall.PortsContain(d.ephemeral, c.Local.Port())
}

// packetOf is a packet that would open a connection again.
func packetOf(c kernel.Connection, outgoing bool) firewall.Packet {
	p := firewall.Packet{Protocol: "tcp", Opening: true}
	if outgoing {
		p.Destination, p.SourcePort, p.Port, p.User = c.Remote.Addr(), c.Local.Port(), c.Remote.Port(), c.UID
		return p
	}
	p.Source, p.SourcePort, p.Port = c.Remote.Addr(), c.Remote.Port(), c.Local.Port()
	return p
}

// A judge compares what two tables do with a packet.
type judge struct {
	engine     *Engine
	before     *firewall.Ruleset
	after      firewall.Ruleset
	interfaces map[netip.Addr]string // by the address they lead to
}

// ends reports whether a packet passed before and does not any more. By which
// interface it comes or goes is looked up only where it matters.
func (j judge) ends(p firewall.Packet) bool {
	if !dropped(&j.after, p) {
		return false
	}
	p.Interface = j.interfaceTo(peerOf(p))
	return p.Interface != "" && dropped(&j.after, p) && (j.before == nil || !dropped(j.before, p))
}

func dropped(r *firewall.Ruleset, p firewall.Packet) bool {
	d := r.Decide(p)
	return d.Certain && d.Verdict == firewall.Drop
}

func peerOf(p firewall.Packet) netip.Addr {
	if p.Destination.IsValid() {
		return p.Destination
	}
	return p.Source
}

func (j judge) interfaceTo(a netip.Addr) string {
	name, known := j.interfaces[a]
	if !known {
		route, _ := j.engine.routeTo(a) // none where it is not known: then nothing is cut
		name = route.Interface
		j.interfaces[a] = name
	}
	return name
}

func sortedCuts(counts map[Cut]int) []Cut {
	cuts := []Cut{}
	for c, n := range counts {
		c.Connections = n
		cuts = append(cuts, c)
	}
	slices.SortFunc(cuts, func(a, b Cut) int {
		if a.Outgoing != b.Outgoing {
			return map[bool]int{false: -1, true: 1}[a.Outgoing]
		}
		return int(a.Port) - int(b.Port)
	})
	return cuts
}

// longestCut bounds how long connections are closed one by one. The rules drop
// their packets meanwhile, so nothing passes where it is not enough.
const longestCut = time.Second

// cut closes the connections that a change ends, so that programs hear of it at
// once. It also ends those that the rules let live: where replies come in, only
// what opens a connection is filtered.
func (e *Engine) cut(ctx context.Context, before *firewall.Ruleset, after firewall.Ruleset) int {
	ending, _, err := e.doomed(before, after)
	if err != nil {
		e.log.Warn("connections that are no longer admitted could not be closed; their packets are dropped", "error", err)
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, longestCut)
	defer cancel()
	closed := 0
	for _, c := range ending {
		if err = e.destroy(c); err != nil || ctx.Err() != nil {
			break
		}
		closed++
	}
	switch {
	case closed < len(ending):
		e.log.Warn("not all connections that are no longer admitted could be closed; their packets are dropped", "closed", closed, "of", len(ending), "error", err)
	case closed > 0:
		e.log.Info("closed the connections that are no longer admitted", "connections", closed)
	}
	return closed
}
