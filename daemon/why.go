package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/cfwall/cfwall/firewall"
)

// A Question asks what becomes of a packet from outside, or of one that this
// host sends.
type Question struct {
	Source   netip.Addr `json:"source"` // or where it goes
	Outgoing bool       `json:"outgoing,omitempty"`
	User     string     `json:"user,omitempty"` // who sends it; "": root
	Port     uint16     `json:"port"`           // 0: 443 if it is guarded, else the first guarded port
	Protocol string     `json:"protocol"`       // "tcp" or "udp"
}

// The verdicts of an Explanation.
const (
	Admitted   = "admitted"  // by an entry or a rule
	Dropped    = "dropped"   //
	NotGuarded = "unguarded" // cfwall does not look at this port
	Unknown    = "unknown"   // the table holds rules that this version does not know
	NoTable    = "no-table"  // nothing is guarded
	Audited    = "audit"     // it would be dropped, but audit = true lets everything pass
)

// An Explanation says what becomes of a packet, read from the kernel's table.
type Explanation struct {
	Question
	Verdict string `json:"verdict"`
	Text    string `json:"text"`
	Rule    string `json:"rule,omitempty"`  // the rule that decides
	Chain   string `json:"chain,omitempty"` // and its chain
	Set     string `json:"set,omitempty"`   // the set whose entry matches
	Entry   string `json:"entry,omitempty"`
}

// Why implements Service.
func (e *Engine) Why(ctx context.Context, q Question) (Explanation, error) {
	q = e.complete(q)
	want, host, err := e.Want(time.Now())
	if err != nil {
		return Explanation{}, err
	}
	have, err := e.table.Read(ctx, familyOf(host))
	if err != nil {
		return Explanation{}, err
	}
	x := Explanation{Question: q, Verdict: NoTable, Text: "no table of cfwall's is in the kernel: every port is open"}
	if have.Table == nil {
		return x, nil
	}
	p, err := e.packet(q)
	if err != nil {
		return x, err
	}
	d := have.Table.Decide(p)
	x.Chain, x.Rule = d.Chain, ruleText(d, want)
	if d.Set != "" {
		x.Set, x.Entry = d.Set, firewall.RangeString(d.Element.Range)
	}
	if d.WouldDrop {
		d.Verdict = firewall.Drop
	}
	if q.Outgoing {
		x.Verdict, x.Text = e.judgeOutgoing(q, d)
	} else {
		x.Verdict, x.Text = e.judge(q, d, p.Interface)
	}
	if d.WouldDrop && x.Verdict == Dropped {
		x.Verdict, x.Text = Audited, "it would be dropped, but audit = true lets everything pass: "+x.Text
	}
	return x, nil
}

// packet is the first one of the conversation in question.
func (e *Engine) packet(q Question) (firewall.Packet, error) {
	p := firewall.Packet{Source: q.Source, Protocol: q.Protocol, Port: q.Port, Opening: true}
	route, _ := e.routeTo(q.Source) // what no route leads to comes by no trusted interface
	p.Interface = route.Interface
	if !q.Outgoing {
		return p, nil
	}
	p.Source, p.Destination = netip.Addr{}, q.Source
	if q.User == "" {
		return p, nil
	}
	var err error
	if p.User, err = e.user(q.User); err != nil {
		return p, refuse(ExitUsage, "name a user of this host, or a number", "%w", err)
	}
	return p, nil
}

func (e *Engine) judgeOutgoing(q Question, d firewall.Decision) (verdict, text string) {
	switch {
	case !d.Certain:
		return Unknown, "the table holds rules that this version of cfwall does not know"
	case d.Chain == "":
		return NotGuarded, "what this host sends is not filtered: [outbound] policy is accept"
	case d.Verdict == firewall.Drop:
		return Dropped, fmt.Sprintf("[outbound] policy is drop, and neither the tunnel nor [outbound] allow lets %s use %s port %d of %s",
			cmp.Or(q.User, "root"), q.Protocol, q.Port, q.Source)
	default:
		return Admitted, "a rule admits it: " + d.Rule.Comment
	}
}

// complete fills in what the question leaves open.
func (e *Engine) complete(q Question) Question {
	q.Source = q.Source.Unmap()
	if q.Protocol == "" {
		q.Protocol = "tcp"
	}
	ports := e.config.Policy.TCP
	if q.Protocol == "udp" {
		ports = e.config.Policy.UDP
	}
	if q.Port == 0 {
		q.Port = 443
		if !firewall.PortsContain(ports, 443) && len(ports) > 0 {
			q.Port = ports[0].First
		}
	}
	return q
}

func (e *Engine) judge(q Question, d firewall.Decision, by string) (verdict, text string) {
	switch {
	case !d.Certain:
		return Unknown, "the table holds rules that this version of cfwall does not know"
	case d.Chain == "inbound" && d.Verdict == firewall.Drop:
		return Dropped, fmt.Sprintf("[inbound] policy is drop, and no entry of open lets %s use %s port %d", q.Source, q.Protocol, q.Port)
	case d.Verdict == firewall.Accept && d.Rule.Comment == "a trusted interface":
		return Admitted, fmt.Sprintf("it comes in by %s, which is trusted", by)
	case d.Chain == "inbound" && !d.Guarded:
		return Admitted, "a rule admits it: " + d.Rule.Comment
	case !d.Guarded:
		return NotGuarded, fmt.Sprintf("%s port %d is not guarded by cfwall", q.Protocol, q.Port)
	case d.Verdict == firewall.Drop && e.config.Policy.Mode == firewall.ModeTunnel:
		return Dropped, fmt.Sprintf("mode tunnel closes the port to everyone outside, and %s is in no allow entry", q.Source)
	case d.Verdict == firewall.Drop && q.Protocol == "udp":
		return Dropped, fmt.Sprintf("%s is in no allow entry, and Cloudflare reaches origins by TCP only", q.Source)
	case d.Verdict == firewall.Drop:
		return Dropped, fmt.Sprintf("%s is in none of Cloudflare's %d networks and in no allow entry", q.Source, e.book.Current.List.Len())
	case d.Set == "":
		return Admitted, "a rule admits it: " + d.Rule.Comment
	case d.Element.Expires.IsZero():
		return Admitted, fmt.Sprintf("%s (%s)", membership(q, d), origin(d.Set))
	default:
		return Admitted, fmt.Sprintf("%s (cfwall allow, until %s)", membership(q, d), d.Element.Expires.Format(time.RFC3339))
	}
}

func membership(q Question, d firewall.Decision) string {
	if entry := firewall.RangeString(d.Element.Range); entry != q.Source.String() {
		return fmt.Sprintf("%s is in %s", q.Source, entry)
	}
	return fmt.Sprintf("%s has an entry of its own", q.Source)
}

func origin(set string) string {
	switch set {
	case "cloudflare4", "cloudflare6":
		return "Cloudflare"
	default:
		return "[allow] from"
	}
}

// ruleText finds the words of a rule that was read from the kernel.
func ruleText(d firewall.Decision, want firewall.Ruleset) string {
	c, _ := want.Chain(d.Chain)
	for _, r := range c.Rules {
		if r.Equal(d.Rule) {
			return r.Text
		}
	}
	return d.Rule.Comment
}
