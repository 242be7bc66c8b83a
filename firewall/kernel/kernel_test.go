package kernel

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/internal/lab"
)

func TestMain(m *testing.M) {
	if order, ok := os.LookupEnv(lethal); ok {
		playLethal(order)
	}
	os.Exit(lab.Main(m))
}

// A host is a network namespace and the kernel as seen from there.
type host struct {
	*lab.Host
	kernel *Kernel
}

func newHost(t testing.TB) host {
	t.Helper()
	lab.Kernel(t)
	return host{lab.New(t).Host("web"), New()}
}

func (h host) read(t lab.T, family firewall.Family) (s firewall.State) {
	t.Helper()
	var err error
	h.Do(func() { s, err = h.kernel.Read(context.Background(), family) })
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	return s
}

func (h host) apply(plan firewall.Plan) (err error) {
	h.Do(func() { err = h.kernel.Apply(context.Background(), plan) })
	return err
}

func (h host) generation(t lab.T) (id uint32) {
	t.Helper()
	var err error
	h.Do(func() { id, err = h.kernel.Generation(context.Background()) })
	if err != nil {
		t.Fatalf("reading the generation: %v", err)
	}
	return id
}

// enforce reads, plans and applies until there is nothing to do, and returns
// how many plans that took.
func (h host) enforce(t lab.T, want firewall.Ruleset) (plans int) {
	t.Helper()
	for range 3 {
		plan := firewall.MakePlan(h.read(t, want.Family), want)
		if plan.Empty() {
			return plans
		}
		plans++
		if err := h.apply(plan); err != nil {
			t.Fatalf("%v\nplan:\n%s", err, plan)
		}
	}
	t.Fatalf("still not done:\n%s", firewall.MakePlan(h.read(t, want.Family), want))
	return plans
}

// expect fails the test unless the kernel holds what is wanted.
func (h host) expect(t lab.T, want firewall.Ruleset) {
	t.Helper()
	if plan := firewall.MakePlan(h.read(t, want.Family), want); !plan.Empty() {
		t.Fatalf("the kernel holds something else; the way from there:\n%s", plan)
	}
}

// nft runs the nft program in the host.
func (h host) nft(t lab.T, input string, args ...string) string {
	t.Helper()
	out, err := h.try(input, args...)
	if err != nil {
		t.Fatalf("nft %s: %v\n%s\n%s", strings.Join(args, " "), err, out, input)
	}
	return out
}

func (h host) try(input string, args ...string) (output string, err error) {
	cmd := exec.Command("nft", args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	h.Do(func() { err = cmd.Run() })
	return out.String(), err
}

// sameRanges compares the comparable type of netipx by ==.
var sameRanges = cmp.Comparer(func(a, b netipx.IPRange) bool { return a == b })

// ordinary is the default policy with a short list.
func ordinary(t testing.TB) cases.Situation {
	t.Helper()
	return cases.Load(t, "port-ranges").Situation
}
