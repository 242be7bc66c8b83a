package neighbours_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/neighbours"
)

// fake holds one chain and sets in which everything is found.
type fake struct {
	code []neighbours.Instruction
	size int
}

func (f fake) Rules(neighbours.Table, string) []neighbours.Rule {
	return []neighbours.Rule{{Handle: 1, Code: func() []neighbours.Instruction { return f.code }}}
}

func (f fake) Set(neighbours.Table, string) neighbours.Set {
	return neighbours.Set{KeySize: f.size, Find: func(key []byte) (neighbours.Element, neighbours.Answer) {
		return neighbours.Element{Data: key, Verdict: neighbours.Verdict{Code: unix.NFT_JUMP, Chain: "x"}}, neighbours.Yes
	}}
}

// ruleset has the code at every hook.
func (f fake) ruleset() (r neighbours.Ruleset) {
	for _, hook := range []neighbours.Hook{
		neighbours.Ingress, neighbours.Prerouting, neighbours.Input, neighbours.Forward,
		neighbours.Output, neighbours.Postrouting, neighbours.Egress,
	} {
		table := neighbours.Table{Family: unix.NFPROTO_INET, Name: "fake"}
		r.Chains = append(r.Chains, neighbours.BaseChain{Table: table, Name: string(hook), Hook: hook})
	}
	r.Source = f
	return r
}

func someTunnel() neighbours.Tunnel {
	eth0 := neighbours.Interface{Name: "eth0", Index: 2}
	return neighbours.Tunnel{
		Edge:      []neighbours.Peer{{Address: edge4, Interface: eth0}, {Address: edge6, Interface: eth0}},
		Resolvers: []neighbours.Peer{{Address: stub, Source: netip.MustParseAddr("127.0.0.1"), Interface: neighbours.Interface{Name: "lo", Index: 1}}},
		Ephemeral: firewall.PortRange{First: 32768, Last: 60999},
	}
}

var drop = neighbours.Decide{Verdict: neighbours.Verdict{Code: 0}}

// TestCgroup: a rule for a cgroup stops what runs below it, and what runs
// elsewhere passes. Whose cgroup is not known may pass.
func TestCgroup(t *testing.T) {
	const cgroupv2 = 3
	system := binary.NativeEndian.AppendUint64(nil, 77)
	rules := fake{code: []neighbours.Instruction{
		neighbours.Socket{Key: cgroupv2, Level: 1, To: 1},
		neighbours.Compare{Op: unix.NFT_CMP_EQ, From: 1, Data: system},
		drop,
	}}
	tests := map[string]struct {
		cgroups       []uint64
		stops, remark bool
	}{
		"below":     {[]uint64{1, 77, 78}, true, false},
		"elsewhere": {[]uint64{1, 76, 77}, false, false},
		"above":     {[]uint64{1}, false, false},
		"not known": {nil, false, true},
	}
	for name, tt := range tests {
		tunnel := someTunnel()
		tunnel.Resolvers, tunnel.Cgroups = nil, tt.cgroups
		findings, remarks := rules.ruleset().Judge(tunnel.Traffic())
		if (len(findings) > 0) != tt.stops || (len(remarks) > 0) != tt.remark {
			t.Errorf("%s: found %v, remarks %q", name, findings, remarks)
		}
	}
}

// FuzzMatch: no struct of iptables, whatever its size, ends the program.
func FuzzMatch(f *testing.F) {
	for _, name := range []string{"conntrack", "state", "owner", "tcp", "udp", "multiport", "mark", "connmark", "addrtype", "iprange", "rpfilter", "MARK", "CONNMARK", "CT", "REJECT", "DNAT", "?"} {
		for revision := range uint32(4) {
			f.Add(name, revision, []byte("\x01\x02\xff\xff\x00\x00"))
		}
	}
	f.Fuzz(func(t *testing.T, name string, revision uint32, info []byte) {
		for _, i := range []neighbours.Instruction{
			neighbours.Match{Name: name, Revision: revision, Info: info},
			neighbours.Target{Name: name, Revision: revision, Info: info},
		} {
			passing := fake{code: []neighbours.Instruction{i}}
			findings, _ := passing.ruleset().Judge(someTunnel().Traffic())
			for _, found := range findings {
				if found.Effect == neighbours.Drops {
					t.Errorf("%#v drops: %s", i, found)
				}
			}
			fake{code: []neighbours.Instruction{i, drop}}.ruleset().Judge(someTunnel().Traffic())
		}
	})
}
