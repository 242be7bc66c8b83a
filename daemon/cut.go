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
// not; without a table all pass. Where the context ends it lists those found.
func (e *Engine) doomed(ctx context.Context, before *firewall.Ruleset, after firewall.Ruleset) ([]kernel.Connection, []Cut, error) {
	connections, err := e.connections()
	if err != nil {
		return nil, nil, err
	}
	directions, err := e.directions()
	if err != nil {
		return nil, nil, err
	}
	judge := judge{e, before, after, after.TrustsInterfaces() || before != nil && before.TrustsInterfaces(), make(map[netip.Addr]string)}
	var ending []kernel.Connection
	cuts := make(map[Cut]int)
	for _, c := range connections {
		if ctx.Err() != nil {
			break // what is left comes next
		}
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
	own       map[netip.Addr]bool // addresses: what stays on this host is never filtered
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
	if err != nil {
		return directions{}, err
	}
	own, err := kernel.OwnAddresses()
	return directions{served, own, host.Ephemeral}, err
}

// of says that a connection came in where somebody listens at its port. Where
// nobody does and no client gets the port by chance, it is neither: a server may
// have ended before its sessions, and NFS chooses its port. Those are left alone.
func (d directions) of(c kernel.Connection) (incoming, outgoing bool) {
	if a := c.Remote.Addr(); a.IsLoopback() || d.own[a] {
		return false, false
	}
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
	trusts     bool                  // one of them trusts some interface
	interfaces map[netip.Addr]string // by the address they lead to
}

// ends reports whether a packet passed before and does not any more. By which
// interface it comes or goes is looked up only where it matters.
func (j judge) ends(p firewall.Packet) bool {
	if !dropped(&j.after, p) {
		return false
	}
	if peer := peerOf(p); j.trusts {
		if p.Interface = j.interfaceTo(peer); p.Interface == "" || !dropped(&j.after, p) {
			return false
		}
	}
	return j.before == nil || !dropped(j.before, p)
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
	if !known && !a.IsLinkLocalUnicast() { // that may be behind any
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

// Looking for connections and closing them holds up the loop, so that what others
// do to the table meanwhile stands. So there is little of it at a time; the next
// pass goes on. What is found is closed for a while even where finding took long.
const (
	longestCut   = time.Second            // to find them
	longestClose = 100 * time.Millisecond // to close them, one by one
	betweenCuts  = 200 * time.Millisecond
)

// An ending is the closing of connections that a change no longer admits, as
// far as it is not done. The rules drop most of their packets meanwhile: not
// where only what opens a connection is filtered, and not those of a connection
// that was tracked from an answer on, which makes the client's packets answers.
type ending struct {
	due    bool
	before *firewall.Ruleset
	after  firewall.Ruleset
	failed error // why connections may live that should not
}

// next adds a change to what is not done yet.
func (n *ending) next(before *firewall.Ruleset, after firewall.Ruleset) {
	if !n.due {
		n.before = before
	}
	n.due, n.after = true, after
}

// cut closes the connections that are due, so that programs hear of it at once,
// and reports how many it has closed.
func (e *Engine) cut(ctx context.Context) (closed int) {
	n := &e.ending
	if !n.due || e.trial.pending() { // what a trial ends, going back could not bring back
		return 0
	}
	looking, cancel := context.WithTimeout(ctx, longestCut)
	defer cancel()
	doomed, _, err := e.doomed(looking, n.before, n.after)
	all := looking.Err() == nil
	for began := time.Now(); closed < len(doomed) && err == nil; closed++ {
		if ctx.Err() != nil || time.Since(began) >= longestClose {
			return closed
		}
		if err = e.destroy(doomed[closed]); err != nil {
			break
		}
	}
	if !all && err == nil {
		return closed
	}
	n.due, n.failed = false, err
	e.logCut(closed, err)
	return closed
}

func (e *Engine) logCut(closed int, err error) {
	switch {
	case err != nil:
		e.log.Warn("not all connections that are no longer admitted could be closed", "closed", closed, "error", err)
	case closed > 0:
		e.log.Info("closed the connections that are no longer admitted", "connections", closed)
	}
}

func (n *ending) problems() []Problem {
	if n.failed == nil {
		return nil
	}
	return []Problem{{"connections-live", Warning,
		"connections that were open before the last change may live on: " + n.failed.Error(),
		"restart the services that have them, or this host; a kernel with CONFIG_INET_DIAG_DESTROY closes them"}}
}
