package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/cases"
	"github.com/cfwall/cfwall/internal/lab"
)

// A fault stands between the package and the real kernel.
type fault struct {
	conn
	// send changes what goes out, or refuses it.
	send func([]netlink.Message) error
	// receive changes what comes in.
	receive func(*netlink.Message) error
}

func (f fault) Send(m netlink.Message) (netlink.Message, error) {
	if f.send != nil {
		one := []netlink.Message{m}
		if err := f.send(one); err != nil {
			return netlink.Message{}, err
		}
		m = one[0]
	}
	return f.conn.Send(m)
}

func (f fault) SendMessages(all []netlink.Message) ([]netlink.Message, error) {
	if f.send != nil {
		if err := f.send(all); err != nil {
			return nil, err
		}
	}
	return f.conn.SendMessages(all)
}

func (f fault) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for m, err := range f.conn.ReceiveIter() {
			if err == nil && f.receive != nil {
				err = f.receive(&m)
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

// with puts a fault into every connection; which counts them from 1.
func (h host) with(f func(which int) fault) host {
	dialed := 0
	h.kernel = &Kernel{dial: func() (conn, error) {
		c, err := dialNetfilter()
		if err != nil {
			return nil, err
		}
		dialed++
		got := f(dialed)
		got.conn = c
		return got, nil
	}}
	return h
}

// steps is a host and a plan of three transactions for it, with every kind of operation.
func steps(t *testing.T) (h host, old, want firewall.Ruleset, plan firewall.Plan) {
	t.Helper()
	h = newHost(t)
	s := ordinary(t)
	old = s.Build(t)
	s.Lists.Cloudflare = list("104.24.0.0/14 2606:4700::/32")
	s.Policy.TCP, s.Policy.Allow = []firewall.PortRange{{First: 443, Last: 444}}, list("192.0.2.0/24")
	want = s.Build(t)
	h.enforce(t, old)
	h.nft(t, "delete rule inet cfwall closed handle "+fmt.Sprint(h.lastHandle(t))+"; add set inet cfwall x { type ipv4_addr; }; add chain inet cfwall y\n", "-f", "-")
	plan = firewall.MakePlan(h.read(t, want.Family), want)
	if len(plan.Steps) != 3 {
		t.Fatalf("the plan should have three steps:\n%s", plan)
	}
	return h, old, want, plan
}

func (h host) lastHandle(t lab.T) uint64 {
	t.Helper()
	closed, _ := h.read(t, firewall.FamilyINET).Table.Chain("closed")
	return closed.Rules[len(closed.Rules)-1].Handle
}

// TestRefusedAnywhere breaks every message of every transaction, one at a time.
func TestRefusedAnywhere(t *testing.T) {
	t.Run("create", func(t *testing.T) {
		h := newHost(t)
		want := ordinary(t).Build(t)
		testRefusedAnywhere(t, h, want, firewall.MakePlan(h.read(t, want.Family), want))
	})
	t.Run("change", func(t *testing.T) {
		h, _, want, plan := steps(t)
		testRefusedAnywhere(t, h, want, plan)
	})
}

func testRefusedAnywhere(t *testing.T, h host, want firewall.Ruleset, plan firewall.Plan) {
	for i, step := range plan.Steps {
		one := firewall.Plan{Family: plan.Family, Steps: []firewall.Step{step}}
		messages, err := encodeStep(plan.Family, step, 0)
		if err != nil {
			t.Fatal(err)
		}
		for broken := range messages[:len(messages)-1] {
			before := h.read(t, want.Family)
			bad := h.with(func(int) fault {
				return fault{send: func(all []netlink.Message) error {
					all[broken].Header.Type = unix.NFNL_SUBSYS_NFTABLES<<8 | 0xff
					return nil
				}}
			})
			if err := bad.apply(one); !errors.Is(err, ErrRefused) || !errors.Is(err, unix.EINVAL) {
				t.Errorf("step %d, message %d: %v", i+1, broken, err)
			}
			if after := h.read(t, want.Family); !sameState(before, after) {
				t.Fatalf("step %d, message %d: refused, but something changed", i+1, broken)
			}
		}
		if err := h.apply(one); err != nil {
			t.Fatal(err)
		}
	}
	h.expect(t, want)
}

func sameState(a, b firewall.State) bool {
	return a.Generation == b.Generation && (a.Table == nil) == (b.Table == nil) &&
		(a.Table == nil || cmp.Equal(*a.Table, *b.Table, sameRanges))
}

// TestLastMessageLost: without its end the kernel drops a transaction, but
// answers all the same. Only reading tells.
func TestLastMessageLost(t *testing.T) {
	h, _, want, plan := steps(t)
	before := h.read(t, want.Family)
	bad := h.with(func(int) fault {
		return fault{send: func(all []netlink.Message) error {
			all[len(all)-1].Header.Type = netlink.Noop
			return nil
		}}
	})
	plan.Steps = plan.Steps[:1]
	if err := bad.apply(plan); err != nil {
		t.Logf("Apply noticed: %v", err)
	}
	if after := h.read(t, want.Family); !sameState(before, after) {
		t.Error("something changed")
	}
	h.enforce(t, want)
}

// TestFaultsAfterTheCommit: the kernel has done it, but we are not told.
func TestFaultsAfterTheCommit(t *testing.T) {
	instead := func(errno unix.Errno) fault {
		return fault{receive: func(*netlink.Message) error {
			return &netlink.OpError{Op: "receive", Err: os.NewSyscallError("recvmsg", errno)}
		}}
	}
	tests := map[string]struct {
		fault fault
		want  error
	}{
		"ENOBUFS": {instead(unix.ENOBUFS), unix.ENOBUFS},
		"EINTR":   {instead(unix.EINTR), unix.EINTR},
		"EAGAIN":  {instead(unix.EAGAIN), unix.EAGAIN},
		"no answer": {fault{send: func(all []netlink.Message) error {
			all[len(all)-2].Header.Flags &^= netlink.Acknowledge
			return nil
		}}, os.ErrDeadlineExceeded},
		"an answer to something else": {fault{receive: func(m *netlink.Message) error {
			m.Header.Sequence++
			return nil
		}}, os.ErrDeadlineExceeded},
		"garbage": {fault{receive: func(*netlink.Message) error { return errors.New("garbage") }}, ErrUncertain},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			want := ordinary(t).Build(t)
			want.Chains = nil // so that there is one step
			plan := firewall.MakePlan(h.read(t, want.Family), want)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			var err error
			bad := h.with(func(int) fault { return tt.fault })
			h.Do(func() { err = bad.kernel.Apply(ctx, plan) })
			if !errors.Is(err, ErrUncertain) || !errors.Is(err, tt.want) {
				t.Errorf("got %v", err)
			}
			h.expect(t, want)
		})
	}
}

// TestFaultsBeforeTheCommit: nothing went out.
func TestFaultsBeforeTheCommit(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.EMSGSIZE: ErrTooBig,
		unix.ENOBUFS:  ErrUncertain,
		unix.ENOMEM:   ErrUncertain,
		unix.EPERM:    ErrPermission,
		unix.EINTR:    ErrUncertain,
	} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			h := newHost(t)
			ruleset := ordinary(t).Build(t)
			plan := firewall.MakePlan(h.read(t, ruleset.Family), ruleset)
			bad := h.with(func(int) fault {
				return fault{send: func([]netlink.Message) error {
					return &netlink.OpError{Op: "send-messages", Err: os.NewSyscallError("sendmsg", errno)}
				}}
			})
			if err := bad.apply(plan); !errors.Is(err, want) || !errors.Is(err, errno) {
				t.Errorf("got %v", err)
			}
			if table := h.read(t, ruleset.Family).Table; table != nil {
				t.Error("there is a table")
			}
		})
	}
}

// TestTransactionLargerThanTheBuffer has a real socket with a small buffer.
func TestTransactionLargerThanTheBuffer(t *testing.T) {
	h := newHost(t)
	s := ordinary(t)
	old := s.Build(t)
	h.enforce(t, old)
	s.Lists.Cloudflare = randomList(newRandom(), 3000)
	plan := firewall.MakePlan(h.read(t, old.Family), s.Build(t))
	small := h
	small.kernel = &Kernel{dial: func() (conn, error) {
		c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if err != nil {
			return nil, err
		}
		return netfilterConn{c}, c.SetWriteBuffer(8 << 10)
	}}
	if err := small.apply(plan); !errors.Is(err, ErrTooBig) || !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("got %v", err)
	}
	h.expect(t, old)
	h.enforce(t, s.Build(t))
}

// TestStalePlan: another program changed a table of its own since the state
// was read, or between two transactions.
func TestStalePlan(t *testing.T) {
	foreign := "add table inet other; delete table inet other; add table inet other\n"
	t.Run("before the first transaction", func(t *testing.T) {
		h, _, want, plan := steps(t)
		h.nft(t, foreign, "-f", "-")
		before := h.read(t, want.Family)
		if err := h.apply(plan); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v", err)
		}
		if !sameState(before, h.read(t, want.Family)) {
			t.Error("something changed")
		}
		h.enforce(t, want)
	})
	t.Run("between transactions", func(t *testing.T) {
		h, old, want, plan := steps(t)
		bad := h.with(func(which int) fault {
			if which == 3 {
				h.nft(t, foreign, "-f", "-")
			}
			return fault{}
		})
		if err := bad.apply(plan); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v", err)
		}
		table := h.read(t, want.Family).Table
		for _, p := range cases.Packets(true) {
			before, now, after := old.Decide(p), table.Decide(p), want.Decide(p)
			if before.Verdict == after.Verdict && now.Verdict != before.Verdict {
				t.Fatalf("half way, %+v is %d", p, now.Verdict)
			}
		}
		h.enforce(t, want)
	})
}

// TestInterruptedReads: a read that mixes two states is begun anew. One that only
// may have done so counts if the next finds the same.
func TestInterruptedReads(t *testing.T) {
	h := newHost(t)
	want := ordinary(t).Build(t)
	h.enforce(t, want)
	fail := func(err error) func(*netlink.Message) error { return func(*netlink.Message) error { return err } }
	edited := 0
	tests := map[string]func(*netlink.Message) error{
		"a dump says so": func(m *netlink.Message) error {
			if m.Header.Flags&netlink.Multi != 0 {
				m.Header.Flags |= netlink.DumpInterrupted
			}
			return nil
		},
		"EINTR":             fail(unix.EINTR),
		"ENOBUFS":           fail(unix.ENOBUFS),
		"EAGAIN":            fail(unix.EAGAIN),
		"an answer gone by": func(m *netlink.Message) error { m.Header.Sequence--; return nil },
		"a change in between": func(m *netlink.Message) error {
			if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE {
				h.nft(t, "add table inet other; delete table inet other; add table inet other\n", "-f", "-")
			}
			return nil
		},
		"a change of ours": func(m *netlink.Message) error {
			if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE {
				edited++
				h.nft(t, fmt.Sprintf("add counter inet cfwall edit%d\n", edited), "-f", "-")
			}
			return nil
		},
	}
	settled := []string{"a dump says so", "a change in between"}
	for name, bend := range tests {
		for _, times := range []int{1, readTries - 1} {
			reads := times + 1
			if slices.Contains(settled, name) {
				reads = 2
			}
			t.Run(fmt.Sprintf("%s, %d times", name, times), func(t *testing.T) {
				dialed := 0
				h.with(func(which int) fault {
					if dialed = which; which > times {
						return fault{}
					}
					return fault{receive: bend}
				}).read(t, want.Family)
				if dialed != reads {
					t.Errorf("read %d times", dialed)
				}
				h.enforce(t, want)
			})
		}
		t.Run(name+", always", func(t *testing.T) {
			var err error
			bad := h.with(func(int) fault { return fault{receive: bend} })
			h.Do(func() { _, err = bad.kernel.Read(t.Context(), want.Family) })
			if errors.Is(err, ErrBusy) == slices.Contains(settled, name) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestReadGivesUpWithItsContext(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	bad := h.with(func(which int) fault {
		if which == 3 {
			cancel()
		}
		return fault{receive: func(*netlink.Message) error { return unix.EINTR }}
	})
	var err error
	h.Do(func() { _, err = bad.kernel.Read(ctx, firewall.FamilyINET) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestReadsBesideWrites reads while another socket goes to and fro between two
// lists: what is read is one or the other. What the kernel clears up after a change
// may be missing from a set for a moment: then the next read shows it.
func TestReadsBesideWrites(t *testing.T) {
	h := newHost(t)
	s := ordinary(t)
	s.Lists.Cloudflare = randomList(newRandom(), 300)
	one := s.Build(t)
	s.Lists.Cloudflare = list("0.0.0.0/1 2001:db8::/32")
	two := s.Build(t)
	h.enforce(t, one)
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error)
	go func() {
		var err error
		for i := 0; ctx.Err() == nil && err == nil; i++ {
			h.Do(func() { err = write(h.kernel, []firewall.Ruleset{two, one}[i%2]) })
			time.Sleep(5 * time.Millisecond)
		}
		written <- err
	}()
	seen := [2]int{}
	for tries := 0; tries < 1000 && min(seen[0], seen[1]) < 20; tries++ {
		state := h.read(t, one.Family)
		switch {
		case firewall.MakePlan(state, one).Empty():
			seen[0]++
		case firewall.MakePlan(state, two).Empty():
			seen[1]++
		default:
			again := h.read(t, one.Family)
			if again.Generation == state.Generation && !firewall.MakePlan(again, one).Empty() && !firewall.MakePlan(again, two).Empty() {
				t.Errorf("read a mixture:\n%s", firewall.MakePlan(again, one))
			}
		}
	}
	stop()
	if err := <-written; err != nil {
		t.Error(err)
	}
	if min(seen[0], seen[1]) < 20 {
		t.Errorf("saw the lists %v times", seen)
	}
}

func write(k *Kernel, want firewall.Ruleset) error {
	state, err := k.Read(context.Background(), want.Family)
	if err != nil {
		return err
	}
	return k.Apply(context.Background(), firewall.MakePlan(state, want))
}

// TestWithoutCapability takes CAP_NET_ADMIN from the thread for a while.
func TestWithoutCapability(t *testing.T) {
	h := newHost(t)
	want := ordinary(t).Build(t)
	calls := map[string]func() error{
		"Read":       func() error { _, err := h.kernel.Read(t.Context(), want.Family); return err },
		"Generation": func() error { _, err := h.kernel.Generation(t.Context()); return err },
		"Remove":     func() error { return h.kernel.Remove(t.Context(), want.Family) },
		"Apply":      func() error { return h.kernel.Apply(t.Context(), firewall.MakePlan(firewall.State{}, want)) },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			var err error
			h.Do(func() { err = withoutCapability(call) })
			if !errors.Is(err, ErrPermission) || !errors.Is(err, fs.ErrPermission) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// withoutCapability is for a locked thread: capabilities belong to threads.
func withoutCapability(call func() error) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	less := all
	less[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	if err := unix.Capset(&header, &less[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	err := call()
	return errors.Join(err, unix.Capset(&header, &all[0]))
}

func TestNoNfTables(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		k := &Kernel{dial: func() (conn, error) { return nil, os.NewSyscallError("socket", errno) }}
		if _, err := k.Read(t.Context(), firewall.FamilyINET); !errors.Is(err, ErrUnsupported) || !errors.Is(err, errno) {
			t.Errorf("%v: got %v", errno, err)
		}
	}
}

// TestRefusalOfALongList: the kernel sends the message that it refuses back,
// 60 KB of it.
func TestRefusalOfALongList(t *testing.T) {
	h := newHost(t)
	s := ordinary(t)
	s.Lists.Cloudflare = list("0.0.0.0/32 2001:db8::/32")
	h.enforce(t, s.Build(t))
	before := h.read(t, firewall.FamilyINET)
	s.Lists.Cloudflare = randomList(newRandom(), 8000).Union(list("0.0.0.0/8"))
	long, _ := s.Build(t).Set("cloudflare4")
	plan := firewall.Plan{Family: firewall.FamilyINET, Steps: []firewall.Step{{firewall.AddElements{Set: long, Elements: long.Elements}}}}
	if err := h.apply(plan); !errors.Is(err, ErrRefused) || !errors.Is(err, unix.EEXIST) {
		t.Errorf("got %v", err)
	}
	if !sameState(before, h.read(t, firewall.FamilyINET)) {
		t.Error("something changed")
	}
}

func TestClassify(t *testing.T) {
	tests := []struct {
		err  error
		want error
	}{
		{unix.EPERM, ErrPermission},
		{unix.EACCES, ErrPermission},
		{unix.ERESTART, ErrBusy},
		{unix.EBUSY, ErrBusy},
		{unix.EOPNOTSUPP, ErrUnsupported},
		{unix.EAFNOSUPPORT, ErrUnsupported},
		{unix.EMSGSIZE, ErrTooBig},
		{unix.ENOBUFS, ErrUncertain},
		{unix.ENOMEM, ErrUncertain},
		{unix.EINTR, ErrUncertain},
		{os.ErrDeadlineExceeded, ErrUncertain},
		{errors.New("something else"), ErrUncertain},
		{unix.ENOENT, ErrRefused},
		{unix.EEXIST, ErrRefused},
		{unix.EINVAL, ErrRefused},
	}
	all := []error{ErrPermission, ErrBusy, ErrUnsupported, ErrTooBig, ErrUncertain, ErrRefused}
	for _, tt := range tests {
		err := classify("trying", &netlink.OpError{Op: "receive", Err: tt.err})
		if !errors.Is(err, tt.err) {
			t.Errorf("%v has lost %v", err, tt.err)
		}
		for _, sentinel := range all {
			if errors.Is(err, sentinel) != (errors.Is(sentinel, tt.want)) {
				t.Errorf("%v: is %q: %t", tt.err, sentinel, errors.Is(err, sentinel))
			}
		}
	}
	if err := classify("trying", nil); err != nil {
		t.Errorf("nothing became %v", err)
	}
}

// TestNoWayToWrite: what has no encoding is not sent at all.
func TestNoWayToWrite(t *testing.T) {
	h := newHost(t)
	before := h.generation(t)
	chain := firewall.Chain{Name: "x", Rules: []firewall.Rule{{Code: []firewall.Expr{firewall.Unknown{Name: "limit"}}}}}
	plan := firewall.Plan{Family: firewall.FamilyINET, Steps: []firewall.Step{
		{firewall.AddTable{}, firewall.AddChain{Chain: chain}, firewall.SetRules{Chain: chain}},
	}}
	if err := h.apply(plan); err == nil || !strings.Contains(err.Error(), "no way to write") {
		t.Errorf("got %v", err)
	}
	if after := h.generation(t); after != before {
		t.Error("something was written")
	}
}
