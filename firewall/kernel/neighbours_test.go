package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/neighbours"
)

// edgeTraffic is that of a host whose interface eth0 leads to Cloudflare.
func edgeTraffic() []neighbours.Traffic {
	eth0 := neighbours.Interface{Name: "eth0", Index: 2}
	return neighbours.Tunnel{
		Edge: []neighbours.Peer{
			{Address: netip.MustParseAddr("198.41.192.7"), Interface: eth0},
			{Address: netip.MustParseAddr("2606:4700:a0::1"), Interface: eth0},
		},
		Ephemeral: firewall.PortRange{First: 32768, Last: 60999},
	}.Traffic()
}

func (h host) neighbours(t *testing.T, judge func(neighbours.Ruleset)) {
	t.Helper()
	var err error
	h.Do(func() { err = h.kernel.Neighbours(context.Background(), judge) })
	if err != nil {
		t.Fatal(err)
	}
}

// TestNeighbourChains: base chains of all families are there, with their
// devices, but not ours and not those of dormant tables.
func TestNeighbourChains(t *testing.T) {
	h := newHost(t)
	h.nft(t, `
table inet cfwall { chain ours { type filter hook output priority 0; }
}
table inet asleep { flags dormant; chain a { type filter hook output priority 0; }
}
table ip a { chain helper { }
chain b { type nat hook postrouting priority 100; }
}
table ip6 a { chain c { type route hook output priority -5; policy drop; }
}
table inet a { chain d { type filter hook ingress device lo priority 7; }
}
table netdev a { chain e { type filter hook egress devices = { lo } priority 0; }
}`, "-f", "-")
	before := h.generation(t)
	var got []string
	h.neighbours(t, func(r neighbours.Ruleset) {
		for _, c := range r.Chains {
			got = append(got, fmt.Sprintf("%s %s %s %s %d %t %v", c.Table, c.Name, c.Kind, c.Hook, c.Priority, c.Drops, c.Devices))
		}
	})
	want := []string{
		"ip a b nat postrouting 100 false []", "ip6 a c route output -5 true []",
		"inet a d filter ingress 7 false [lo]", "netdev a e filter egress 0 false [lo]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if after := h.generation(t); after != before {
		t.Errorf("the ruleset changed from %d to %d: reading wrote", before, after)
	}
}

// TestNeighbourChangesMeanwhile: what was judged while others wrote is judged again.
func TestNeighbourChangesMeanwhile(t *testing.T) {
	h := newHost(t)
	tries, findings := 0, []neighbours.Finding(nil)
	h.neighbours(t, func(r neighbours.Ruleset) {
		if tries++; tries == 1 {
			h.nft(t, "table ip a { chain out { type filter hook output priority 0; policy drop; }\n}", "-f", "-")
		}
		findings, _ = r.Judge(edgeTraffic())
	})
	if tries != 2 || len(findings) != 1 {
		t.Errorf("judged %d times, found %v", tries, findings)
	}
}

// TestNeighbourGoesMeanwhile: a chain that is gone when it is read is no error either.
func TestNeighbourGoesMeanwhile(t *testing.T) {
	h := newHost(t)
	h.nft(t, "table ip a { chain out { type filter hook output priority 0; policy drop; }\n}", "-f", "-")
	tries := 0
	h.neighbours(t, func(r neighbours.Ruleset) {
		if tries++; tries == 1 {
			h.nft(t, "", "delete", "table", "ip", "a")
		}
		r.Judge(edgeTraffic())
	})
	if tries != 2 {
		t.Errorf("judged %d times", tries)
	}
}

// TestNeighbourFaults: an error of the connection is told.
func TestNeighbourFaults(t *testing.T) {
	k := &Kernel{dial: func() (conn, error) { return nil, unix.EPERM }}
	err := k.Neighbours(context.Background(), func(neighbours.Ruleset) { t.Error("something was judged") })
	if !errors.Is(err, ErrPermission) {
		t.Errorf("got %v", err)
	}
}

// TestManyNeighbours: of a host with 50,000 rules and a set of 50,000 networks
// only what a packet meets is read.
func TestManyNeighbours(t *testing.T) {
	h := newHost(t)
	var script strings.Builder
	script.WriteString("table ip services {\nset big { type ipv4_addr; flags interval; elements = {")
	for i := range 50_000 {
		fmt.Fprintf(&script, "%d.%d.%d.0/25,", 20+i>>16, i>>8&0xff, i&0xff)
	}
	script.WriteString("198.41.192.0/24 }\n}\n")
	for i := range 5000 {
		fmt.Fprintf(&script, "chain service%d {\n", i)
		for port := range 8 {
			fmt.Fprintf(&script, "ip daddr 10.%d.%d.1 tcp dport %d counter accept\n", i>>8, i&0xff, port+1)
		}
		script.WriteString("}\n")
	}
	script.WriteString("chain out { type filter hook output priority 0;\n")
	for i := range 5000 {
		fmt.Fprintf(&script, "ip daddr 10.%d.%d.1 jump service%d\nip daddr 10.%d.%d.2 counter\n", i>>8, i&0xff, i, i>>8, i&0xff)
	}
	script.WriteString("ip daddr @big drop\n}\n}\n")
	h.nft(t, script.String(), "-f", "-")
	start := time.Now()
	var findings []neighbours.Finding
	h.neighbours(t, func(r neighbours.Ruleset) { findings, _ = r.Judge(edgeTraffic()) })
	t.Logf("50,000 rules judged in %v", time.Since(start))
	if len(findings) != 1 || findings[0].Chain != "out" || len(findings[0].Traffic) != 2 {
		t.Errorf("found %v", findings)
	}
}

// anything holds one rule made of any bytes.
type anything struct{ expressions []byte }

func (a anything) Rules(neighbours.Table, string) []neighbours.Rule {
	return []neighbours.Rule{{Code: func() []neighbours.Instruction { return instructions(a.expressions) }}}
}

func (a anything) Set(neighbours.Table, string) neighbours.Set {
	return neighbours.Set{KeySize: len(a.expressions) % 80, Find: func(key []byte) (neighbours.Element, neighbours.Answer) {
		return mapElement(slices.Concat(a.expressions, key))
	}}
}

// FuzzInstructions judges rules of any bytes, and rules of any expression with
// any content.
func FuzzInstructions(f *testing.F) {
	for _, name := range []string{
		"meta", "payload", "ct", "exthdr", "socket", "fib", "cmp", "range", "bitwise", "byteorder", "lookup", "dynset", "limit",
		"quota", "objref", "match", "target", "immediate", "reject", "nat", "masq", "redir", "queue", "notrack", "fwd", "hash", "numgen", "rt",
	} {
		f.Add(name, []byte("\x08\x00\x01\x00\x00\x00\x00\x01\x08\x00\x02\x00\x00\x00\x00\x01"))
	}
	f.Fuzz(func(_ *testing.T, name string, data []byte) {
		one := attributes(func(e *netlink.AttributeEncoder) {
			e.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
				e.String(unix.NFTA_EXPR_NAME, name[:min(len(name), 64)])
				e.Bytes(unix.NFTA_EXPR_DATA, data[:min(len(data), 1<<12)])
				return nil
			})
		})
		for _, expressions := range [][]byte{data, one, slices.Concat(one, one)} {
			base := neighbours.BaseChain{Table: neighbours.Table{Family: unix.NFPROTO_INET, Name: "a"}, Name: "a", Hook: neighbours.Output}
			neighbours.Ruleset{Chains: []neighbours.BaseChain{base}, Source: anything{expressions}}.Judge(edgeTraffic())
		}
		baseChain(base(), &fields{values: map[uint16][]byte{}}, data)
	})
}

func base() neighbours.Table { return neighbours.Table{Family: unix.NFPROTO_NETDEV, Name: "a"} }
