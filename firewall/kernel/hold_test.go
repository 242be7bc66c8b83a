package kernel

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// holding is a host whose table this process holds, as the daemon does.
func (h host) holding(t *testing.T) host {
	t.Helper()
	h.kernel = New()
	var err error
	h.Do(func() { err = h.kernel.Hold(context.Background()) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.kernel.Close() })
	return h
}

// leave ends the process's hold as its end would.
func (h host) leave(t *testing.T) {
	t.Helper()
	if err := h.kernel.Close(); err != nil {
		t.Fatal(err)
	}
	h.kernel.writer, h.kernel.port = nil, 0
}

func (h host) holds(t *testing.T) firewall.Hold {
	t.Helper()
	return h.read(t, firewall.FamilyINET).Table.Hold
}

// A daemon may have nothing to do for long: the limit of what it did last is not
// that of what it does next.
func TestHeldTableAfterAPause(t *testing.T) {
	h := newHost(t).holding(t)
	h.enforce(t, drifter(t))
	time.Sleep(silence + 50*time.Millisecond)
	want := drifter(t)
	want.Chains[0].Rules = want.Chains[0].Rules[:len(want.Chains[0].Rules)-1]
	h.enforce(t, want)
	h.expect(t, want)
}

// What others can do to a table of ours is refused while we hold it, every edit
// of it, and a flush of all tables passes it by.
func TestOwnedTableCannotBeChanged(t *testing.T) {
	h := newHost(t).holding(t)
	want := drifter(t)
	h.enforce(t, want)
	if got := h.holds(t); got != firewall.Owned {
		t.Fatalf("the table is %s", got)
	}
	before := h.read(t, want.Family)
	for _, name := range slices.Sorted(maps.Keys(edits)) {
		if out, err := h.edit(t, edits[name]); err == nil || !strings.Contains(out, "not permitted") && !strings.Contains(out, "Could not process rule") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	if after := h.read(t, want.Family); !sameState(before, after) {
		t.Error("something changed")
	}
	h.nft(t, "add table inet other\n", "-f", "-")
	h.nft(t, "", "flush", "ruleset")
	if got := h.nft(t, "", "list", "tables"); got != "table inet cfwall\n" {
		t.Errorf("after a flush of all tables: %q", got)
	}
	h.expect(t, want)
}

// A table outlives its owner, and the next adopts it, without a moment in which
// it is not there.
func TestAdoption(t *testing.T) {
	h := newHost(t)
	want := drifter(t)
	first := h.holding(t)
	first.enforce(t, want)
	first.leave(t)
	if got := h.holds(t); got != firewall.Orphan {
		t.Fatalf("left behind, the table is %s", got)
	}
	h.expect(t, want)
	h.nft(t, "flush chain inet cfwall closed\n", "-f", "-") // an orphan can be changed
	second := h.holding(t)
	if plans := second.enforce(t, want); plans != 1 {
		t.Errorf("took %d plans", plans)
	}
	if got := second.holds(t); got != firewall.Owned {
		t.Errorf("adopted, the table is %s", got)
	}
}

// What a command makes without a daemon, the daemon can adopt.
func TestOutlive(t *testing.T) {
	h := newHost(t)
	want := drifter(t)
	var err error
	h.Do(func() { err = h.kernel.Outlive(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	h.enforce(t, want)
	if got := h.holds(t); got != firewall.Orphan {
		t.Errorf("the table is %s", got)
	}
	d := h.holding(t)
	d.enforce(t, want)
	if got := d.holds(t); got != firewall.Owned {
		t.Errorf("adopted, the table is %s", got)
	}
}

// A plain table is made anew, owned, with the counts that it had.
func TestTakeOver(t *testing.T) {
	for _, change := range []bool{false, true} {
		h := newHost(t)
		old, want := drifter(t), drifter(t)
		if change {
			want = ordinary(t).Build(t)
		}
		h.enforce(t, old)
		h.nft(t, "delete counter inet cfwall admitted_allowed6; add counter inet cfwall admitted_allowed6 { packets 7 bytes 420 }\n", "-f", "-")
		d := h.holding(t)
		if plans := d.enforce(t, want); plans != 1 {
			t.Errorf("took %d plans", plans)
		}
		if got := d.holds(t); got != firewall.Owned {
			t.Errorf("taken over, the table is %s", got)
		}
		if got := d.counters(t)["admitted_allowed6"]; got != 7 {
			t.Errorf("a counter of 7 is %d", got)
		}
	}
}

// A second process is told who holds the table, and can change nothing.
func TestForeignTable(t *testing.T) {
	h := newHost(t)
	want := drifter(t)
	first := h.holding(t)
	first.enforce(t, want)
	second := h.holding(t)
	state := second.read(t, want.Family)
	if state.Table.Hold != firewall.Foreign || state.Owner != first.kernel.Port() {
		t.Errorf("the table is %s, of port %d", state.Table.Hold, state.Owner)
	}
	if !firewall.MakePlan(state, want).Empty() {
		t.Error("what is right already is to be changed")
	}
	var owner Owner
	h.Do(func() { owner = OwnerAt(state.Owner) })
	if owner.PID != os.Getpid() || owner.Program == "" {
		t.Errorf("the owner is %+v, but it is %d", owner, os.Getpid())
	}
	before := h.read(t, want.Family)
	for _, step := range []firewall.Step{{firewall.AddTable{Hold: firewall.Owned}}, {firewall.TakeOver{}}, {firewall.DeleteTable{}}, {firewall.SetRules{Chain: firewall.Chain{Name: "guard"}}}} {
		if err := second.apply(firewall.Plan{Family: want.Family, Steps: []firewall.Step{step}}); !errors.Is(err, ErrPermission) {
			t.Errorf("%s: %v", step[0], err)
		}
	}
	if after := h.read(t, want.Family); !sameState(before, after) {
		t.Error("something changed")
	}
}

// A kernel that knows no such owners gets a plain table, by either answer.
func TestOldKernel(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EINVAL, unix.EOPNOTSUPP} {
		h := newHost(t)
		h = h.with(func(which int) fault {
			if which > 1 {
				return fault{}
			}
			return fault{receive: func(*netlink.Message) error { return &netlink.OpError{Op: "receive", Err: errno} }}
		})
		k := h.kernel
		var err error
		h.Do(func() { err = k.Hold(t.Context()) })
		if err != nil || k.best != firewall.Plain {
			t.Errorf("%v: %v, the best is %q", errno, err, k.best)
		}
		k.writer = netfilterConn{k.writer.(fault).conn.(netfilterConn).Conn}
		h.enforce(t, drifter(t))
		if got := h.holds(t); got != firewall.Plain {
			t.Errorf("%v: the table is %s", errno, got)
		}
		k.Close()
	}
}

// To ask what the kernel can leaves no trace, not even a number.
func TestProbeChangesNothing(t *testing.T) {
	h := newHost(t)
	before := h.generation(t)
	h.holding(t)
	if after := h.generation(t); after != before {
		t.Errorf("the generation went from %d to %d", before, after)
	}
	if got := h.nft(t, "", "list", "tables"); got != "" {
		t.Errorf("tables: %q", got)
	}
}

// Answers that nobody waited for do not spoil the next change: the kernel refuses
// each of many messages, and the first refusal is enough to know.
func TestHeldSocketSurvivesRefusals(t *testing.T) {
	h := newHost(t).holding(t)
	want := drifter(t)
	h.enforce(t, want)
	gone := firewall.Set{Name: "cloudflare4", Type: firewall.TypeIPv4}
	var step firewall.Step
	for _, e := range []string{"gone1", "gone2", "gone3"} {
		step = append(step, firewall.DeleteChain{Name: e}, firewall.DeleteElements{Set: gone, Elements: networksOf("203.0.113.0/24")})
	}
	for range 20 {
		if err := h.apply(firewall.Plan{Family: want.Family, Steps: []firewall.Step{step}}); !errors.Is(err, ErrRefused) {
			t.Fatalf("got %v", err)
		}
		h.enforce(t, want)
		h.enforce(t, ordinary(t).Build(t))
	}
}

// mute is a connection whose answers get lost.
type mute struct{ conn }

func (mute) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		yield(netlink.Message{}, &netlink.OpError{Op: "receive", Err: os.ErrDeadlineExceeded})
	}
}

// A change whose answer was lost has been made; the socket works on.
func TestHeldSocketSurvivesLostAnswers(t *testing.T) {
	h := newHost(t).holding(t)
	want := drifter(t)
	heard := h.kernel.writer
	h.kernel.writer = mute{heard}
	plan := firewall.MakePlan(h.read(t, want.Family), want)
	for i := range plan.Steps {
		if err := h.apply(firewall.Plan{Family: want.Family, Steps: plan.Steps[i : i+1]}); !errors.Is(err, ErrUncertain) {
			t.Errorf("got %v", err)
		}
	}
	h.kernel.writer = heard
	h.expect(t, want)
	h.enforce(t, ordinary(t).Build(t))
}

// An answer that got lost costs half a second, not ten.
func TestSilence(t *testing.T) {
	h := newHost(t).holding(t)
	want := drifter(t)
	plan := firewall.MakePlan(h.read(t, want.Family), want)
	h.kernel.writer = fault{conn: h.kernel.writer, send: func(all []netlink.Message) error {
		all[len(all)-2].Header.Flags &^= netlink.Acknowledge
		return nil
	}}
	began := time.Now()
	if err := h.apply(plan); !errors.Is(err, ErrUncertain) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took < 2*silence || took > timeout/2 {
		t.Errorf("gave up after %v", took)
	}
	h.kernel.writer = h.kernel.writer.(fault).conn // it answers again
	h.enforce(t, want)
}

// A process that gets no processor for a while finds the answer at its second look.
func TestSecondLook(t *testing.T) {
	h := newHost(t)
	want := ordinary(t).Build(t)
	h.enforce(t, want)
	dialed := 0
	h.kernel = &Kernel{dial: func() (conn, error) {
		dialed++
		c, err := dialNetfilter()
		return &drowsy{conn: c}, err
	}}
	h.expect(t, want)
	if dialed != 1 {
		t.Errorf("read over %d sockets", dialed)
	}
}

// drowsy is a connection whose first look for each answer comes too late.
type drowsy struct {
	conn
	looked bool
}

func (d *drowsy) ReceiveIter() iter.Seq2[netlink.Message, error] {
	if d.looked = !d.looked; d.looked {
		return mute{}.ReceiveIter()
	}
	return d.conn.ReceiveIter()
}

// A read whose answer got lost is done again, once.
func TestSilentRead(t *testing.T) {
	h := newHost(t)
	want := ordinary(t).Build(t)
	h.enforce(t, want)
	for lost, ok := range map[int]bool{1: true, 2: false} {
		deaf := h.with(func(which int) fault {
			if which > lost {
				return fault{}
			}
			return fault{send: func(all []netlink.Message) error {
				all[0].Header.Type = netlink.Noop // which nobody answers
				return nil
			}}
		})
		var err error
		h.Do(func() { _, err = deaf.kernel.Read(t.Context(), want.Family) })
		if (err == nil) != ok || !ok && !errors.Is(err, ErrUncertain) {
			t.Errorf("%d answers lost: %v", lost, err)
		}
	}
}

// The socket that holds the table may have any number: some libraries cannot wait
// on descriptors above 1023.
func TestHoldWithManyDescriptors(t *testing.T) {
	lab.Kernel(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 2048 {
		t.Fatalf("this process may open %d descriptors (%v)", limit.Cur, err)
	}
	for range 1100 {
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}
	h := newHost(t).holding(t)
	h.enforce(t, drifter(t))
	if diff := cmp.Diff(firewall.Owned, h.holds(t)); diff != "" {
		t.Error(diff)
	}
}

func networksOf(networks ...string) (elements []firewall.Element) {
	for _, n := range networks {
		elements = append(elements, firewall.Element{Range: netipx.RangeOfPrefix(netip.MustParsePrefix(n))})
	}
	return elements
}
