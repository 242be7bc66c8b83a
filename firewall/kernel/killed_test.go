package kernel

import (
	"context"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
)

// lethal names in the environment after how many messages of its pass, sent and
// received, this program kills itself: it is then the daemon of TestKilledAnywhere.
const lethal = "CFWALL_TEST_LETHAL"

// A lethalConn kills this process when its time has come.
type lethalConn struct {
	conn
	left *int
}

func (c lethalConn) tick() {
	if *c.left--; *c.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (c lethalConn) Send(m netlink.Message) (netlink.Message, error) {
	sent, err := c.conn.Send(m)
	c.tick()
	return sent, err
}

func (c lethalConn) SendMessages(all []netlink.Message) ([]netlink.Message, error) {
	sent, err := c.conn.SendMessages(all)
	c.tick()
	return sent, err
}

func (c lethalConn) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for m, err := range c.conn.ReceiveIter() {
			c.tick()
			if !yield(m, err) {
				return
			}
		}
	}
}

// playLethal makes one pass to the ruleset that is named, as the daemon does.
func playLethal(order string) {
	var after int
	var name string
	_, err := fmt.Sscan(order, &after, &name)
	k := &Kernel{dial: func() (conn, error) {
		c, err := dialNetfilter()
		return lethalConn{c, &after}, err
	}}
	ctx := context.Background()
	if err == nil {
		err = k.Hold(ctx)
	}
	if err == nil {
		err = write(k, lethalGoals()[name])
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// lethalGoals are what a pass may lead to. They differ in lists, ports and chains.
func lethalGoals() map[string]firewall.Ruleset {
	ports := func(last uint16) []firewall.PortRange {
		return []firewall.PortRange{{First: 80, Last: 80}, {First: 443, Last: last}}
	}
	return map[string]firewall.Ruleset{
		"one": goal(firewall.Policy{Mode: firewall.ModeCloudflare, TCP: ports(443), UDP: ports(443)}, "104.16.0.0/13 104.24.0.0/14 2606:4700::/32"),
		"two": goal(firewall.Policy{Mode: firewall.ModeCloudflare, TCP: ports(450), Allow: list("192.0.2.0/24")}, "104.24.0.0/14 173.245.48.0/20 2606:4700::/33"),
	}
}

func goal(p firewall.Policy, published string) firewall.Ruleset {
	r, err := firewall.Build(p, firewall.Lists{Cloudflare: list(published)}, firewall.Host{IPv6: true})
	if err != nil {
		panic(err)
	}
	return r
}

// TestKilledAnywhere kills a process after each message of a pass. The kernel then
// holds a table that drops what both the old and the new policy drop, and admits
// what both admit; the next process adopts it and goes on.
func TestKilledAnywhere(t *testing.T) {
	goals := lethalGoals()
	want := goals["two"]
	for name, hold := range map[string]firewall.Hold{
		"an orphan":             firewall.Orphan,
		"a table that is plain": firewall.Plain,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			kills := 0
			for survived := false; !survived; kills++ {
				h.become(t, goals["one"], hold)
				survived = h.lethalPass(t, kills+1, "two")
				h.expectBetween(t, goals["one"], want)
				next := h.holding(t)
				next.enforce(t, want)
				if got := next.holds(t); got != firewall.Owned {
					t.Errorf("adopted, the table is %s", got)
				}
				next.leave(t)
			}
			t.Logf("killed %d times", kills-1)
			if kills < 10 {
				t.Errorf("the pass has only %d messages", kills-1)
			}
		})
	}
	t.Run("no table", func(t *testing.T) {
		h := newHost(t)
		for kills, survived := 1, false; !survived; kills++ {
			h.remove(t, want.Family)
			survived = h.lethalPass(t, kills, "two")
			table := h.read(t, want.Family).Table
			for _, p := range cases.Packets(true) { // open, or as it is to be
				if now := decide(table, p); now != firewall.Accept && now != want.Decide(p).Verdict {
					t.Fatalf("after %d messages %+v is %d", kills, p, now)
				}
			}
			next := h.holding(t)
			next.enforce(t, want)
			next.leave(t)
		}
	})
}

// become makes a host hold a ruleset, left behind as said.
func (h host) become(t *testing.T, r firewall.Ruleset, hold firewall.Hold) {
	t.Helper()
	h.remove(t, r.Family)
	h.kernel = New()
	if hold == firewall.Orphan {
		h.Do(func() {
			if err := h.kernel.Outlive(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
	h.enforce(t, r)
}

// lethalPass reports whether a process survived its pass.
func (h host) lethalPass(t *testing.T, after int, goal string) bool {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", lethal, after, goal))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	h.Do(func() { err = cmd.Run() })
	if err != nil && !strings.Contains(err.Error(), "killed") {
		t.Fatalf("after %d messages: %v %s", after, err, out.String())
	}
	return err == nil
}

func decide(table *firewall.Ruleset, p firewall.Packet) firewall.VerdictKind {
	if table == nil {
		return firewall.Accept
	}
	return table.Decide(p).Verdict
}

// expectBetween wants every packet treated as by one of two policies.
func (h host) expectBetween(t *testing.T, old, want firewall.Ruleset) {
	t.Helper()
	table := h.read(t, want.Family).Table
	if table == nil {
		t.Fatal("there is no table")
	}
	for _, p := range cases.Packets(true) {
		before, now, after := old.Decide(p), table.Decide(p), want.Decide(p)
		if before.Verdict == after.Verdict && now.Verdict != before.Verdict {
			t.Fatalf("half way, %+v is %d, before and after it is %d", p, now.Verdict, before.Verdict)
		}
	}
}
