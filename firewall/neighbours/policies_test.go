package neighbours_test

import (
	"os"
	"strings"
	"testing"

	"github.com/cfwall/cfwall/firewall/neighbours"
	"github.com/cfwall/cfwall/internal/lab"
)

// A policy is somebody else's ruleset.
type policy struct {
	name, rules string
	// where is what the first finding must name, and cure what its cure must hold.
	where, cure string
	// which chooses another tunnel: "container" or "stub".
	which string
}

// TestPoliciesThatBreak: every policy stops traffic, the right one is named,
// and what is found is what happens to real packets.
func TestPoliciesThatBreak(t *testing.T) {
	b := newBench(t)
	for _, p := range breaking {
		t.Run(p.name, func(t *testing.T) {
			skipOwner(t, p)
			b.load(t, p.rules)
			tunnel := b.choose(t, p)
			findings, _ := b.judge(t, tunnel.Traffic()...)
			if len(findings) == 0 {
				t.Fatalf("nothing was found\n%s", b.Web.NftList(t, "ruleset"))
			}
			if got := findings[0]; !strings.Contains(got.String(), p.where) || !strings.Contains(got.Cure, p.cure) {
				t.Errorf("found %s\ncure: %s\nwant %q, cured by %q", got, got.Cure, p.where, p.cure)
			}
			if b.try(t, tunnel) == 0 {
				t.Error("no conversation failed")
			}
		})
	}
	t.Logf("%d policies", len(breaking))
}

// TestHarmlessPolicies: no finding, and everything passes.
func TestHarmlessPolicies(t *testing.T) {
	b := newBench(t)
	for _, p := range harmless {
		t.Run(p.name, func(t *testing.T) {
			skipOwner(t, p)
			b.load(t, p.rules)
			tunnel := b.choose(t, p)
			findings, remarks := b.judge(t, tunnel.Traffic()...)
			if len(findings) != 0 {
				t.Errorf("found %s", findings)
			}
			b.try(t, tunnel)
			if (len(remarks) > 0) != (p.where != "") || p.where != "" && !strings.Contains(remarks[0], p.where) {
				t.Errorf("remarks %q, want %q", remarks, p.where)
			}
		})
	}
	t.Logf("%d policies", len(harmless))
}

// skipOwner: iptables' match owner works only in the first user namespace
// (owner_check), so only root can test it.
func skipOwner(t *testing.T, p policy) {
	t.Helper()
	if uids, _ := os.ReadFile("/proc/self/uid_map"); strings.Contains(p.rules, "-m owner") && !strings.Contains(string(uids), "4294967295") {
		lab.Unprivileged(t, "the kernel has iptables' match owner for root alone")
	}
}

func (b *bench) choose(t *testing.T, p policy) neighbours.Tunnel {
	t.Helper()
	switch p.which {
	case "container":
		return b.inContainer(t)
	case "stub":
		return b.withStub()
	default:
		return b.tunnel
	}
}
