package neighbours_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// What random rules are made of: all of it can be told for sure.
var (
	conditions = []string{
		"", "counter", "meta l4proto udp", "udp dport 7844", "tcp dport 1024-65535", "udp dport != { 53, 67 }", "tcp flags & (syn | ack) == syn",
		"ct state new", "ct state established", "ct state vmap { invalid : drop, untracked : continue, new : continue, established : continue }", "ct direction reply", "ct direction original",
		"ip daddr 198.41.0.0/16", "ip daddr != { 192.0.2.0/24, 10.0.0.0/8 }", "ip6 daddr 2606:4700::/32", "ip6 saddr 2001:db8::/32", "meta nfproto ipv4",
		"oifname eth0", "iifname eth0", "oif lo", "tcp sport { 53, 7844 }", "udp sport 7844", "fib daddr type local", "fib saddr type != local",
		"meta mark 1", "meta mark != 0", "ct mark 1", "meta mark & 0x3 == 0x2",
		"meta mark set 1", "ct mark set 1", "meta mark set ct mark", "ct mark set mark", "meta mark set mark or 2",
		"ip protocol . th dport { tcp . 53, udp . 7844, tcp . 7840-7850 }",
	}
	verdicts = []string{"", "", "", "accept", "accept", "accept", "drop", "reject", "return", "jump helper", "jump helper", "goto helper"}
	hooks    = []string{"output priority mangle", "output priority filter", "output priority raw", "postrouting priority 10", "prerouting priority mangle", "prerouting priority raw", "input priority filter", "input priority 5"}
)

func randomRules(r *rand.Rand, verdicts []string) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		pick := func(from []string) string { return from[r.IntN(len(from))] }
		verdict := pick(verdicts)
		fmt.Fprintf(&b, "%s %s %s\n", pick(conditions), pick(conditions), verdict)
	}
	return b.String()
}

func randomPolicy(r *rand.Rand) string {
	const others = "meta l4proto != { tcp, udp } accept\n" // neighbour discovery is none of the test's business
	var b strings.Builder
	for table := range 2 {
		fmt.Fprintf(&b, "table inet t%d {\nchain helper {\n%s}\n", table, randomRules(r, verdicts[:9]))
		for chain := range 2 {
			policy := []string{"accept", "drop"}[min(r.IntN(8)/7, 1)]
			hook := hooks[r.IntN(len(hooks))]
			allowed := verdicts
			if strings.Contains(hook, "postrouting") {
				allowed = verdicts[:7] // no reject there, nor in what it leads to
			}
			fmt.Fprintf(&b, "chain c%d {\ntype filter hook %s; policy %s;\n%s%s}\n", chain, hook, policy, others, randomRules(r, allowed))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// TestRandomPolicies compares what is found with what becomes of packets.
func TestRandomPolicies(t *testing.T) {
	b := newBench(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	stopped, all := 0, 0
	for range 40 {
		policy := randomPolicy(r)
		if !b.accepts(policy) {
			continue // nft knows that some conditions cannot meet, or a verdict that a hook does not have
		}
		stopped += b.try(t, b.tunnel)
		all += len(b.tunnel.Traffic())
		if t.Failed() {
			t.Fatal(policy)
		}
	}
	t.Logf("%d of %d conversations were stopped", stopped, all)
	if stopped < all/8 || stopped > all*7/8 {
		t.Error("that tells little")
	}
}
