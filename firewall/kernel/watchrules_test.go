package kernel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

func (h host) watch(t *testing.T) *RulesWatch {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var w *RulesWatch
	var err error
	h.Do(func() { w, err = WatchRules(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		for range w.News() { // its end
		}
	})
	return w
}

// await waits until something was changed and says what.
func (w *RulesWatch) await(t *testing.T) (changes []Change, lost bool) {
	t.Helper()
	select {
	case _, open := <-w.News():
		if !open {
			t.Fatal("the watch has ended")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
	return w.Take()
}

func TestWatchRulesNamesWhoChangedWhat(t *testing.T) {
	h := newHost(t)
	w := h.watch(t)
	want := ordinary(t).Build(t)
	h.Do(func() {
		if err := h.kernel.Hold(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	h.kernel.best = firewall.Plain // so that others can change it
	t.Cleanup(func() { h.kernel.Close() })
	plan := firewall.MakePlan(h.read(t, want.Family), want)
	if err := h.apply(plan); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(plan.Steps); {
		changes, lost := w.await(t)
		for _, c := range changes {
			if lost || c.Port != h.kernel.Port() || c.PID == 0 || c.Program == "" {
				t.Errorf("our own change is %+v (lost: %t); the port is %d", c, lost, h.kernel.Port())
			}
		}
		n += len(changes)
	}
	for _, tt := range []struct {
		commands string
		ours     bool
	}{
		{"add table inet other", false},
		{"add rule inet cfwall guard accept", true},
		{"add element inet cfwall cloudflare4 { 198.51.100.0/24 }", true},
		{"delete element inet cfwall cloudflare4 { 198.51.100.0/24 }", true},
		{"add table inet cfwall { flags dormant; }", true},
		{"add table inet other2; flush chain inet cfwall closed", true},
		{"add chain inet other x; add rule inet other x counter", false},
		{"add counter inet cfwall x", true},
		{"add table ip6 third; add table ip6 fourth; delete table ip6 third", false},
	} {
		h.nft(t, tt.commands+"\n", "-f", "-")
		if !tt.ours {
			continue
		}
		changes, lost := w.await(t)
		if len(changes) != 1 || lost || changes[0].Program != "nft" || changes[0].Port == h.kernel.Port() {
			t.Errorf("%s: told %+v (lost: %t)", tt.commands, changes, lost)
		}
	}
	h.nft(t, "", "flush", "ruleset")
	if changes, _ := w.await(t); len(changes) != 1 {
		t.Errorf("flush ruleset: told %+v", changes)
	}
}

// More events than the socket holds are told as lost, and it goes on after that.
func TestWatchRulesSurvivesLostEvents(t *testing.T) {
	h := newHost(t)
	w := newRulesWatch()
	var c *netlink.Conn
	h.Do(func() {
		var err error
		if c, err = netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: receiveSize}); err == nil {
			err = errors.Join(c.SetReadBuffer(4096), c.JoinGroup(unix.NFNLGRP_NFTABLES))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	var elements []string
	for i := range 1000 { // an ordinary user may not send 3000 at once
		elements = append(elements, fmt.Sprintf("10.%d.%d.0/30", i/250, i%250))
	}
	h.nft(t, "add table inet other; add set inet other s { type ipv4_addr; flags interval; }; add element inet other s { "+strings.Join(elements, ", ")+" }\n", "-f", "-")
	ended := make(chan struct{})
	go func() { defer close(ended); w.run(c) }()
	t.Cleanup(func() { _ = c.SetReadDeadline(time.Unix(1, 0)); <-ended; c.Close() })
	for lost := false; !lost; {
		_, lost = w.await(t)
	}
	h.nft(t, "add table inet cfwall\n", "-f", "-")
	for {
		if changes, _ := w.await(t); len(changes) > 0 {
			return
		}
	}
}

// deaf is a socket that fails as it is told.
type deaf struct{ answers []error }

func (d *deaf) Receive() ([]netlink.Message, error) {
	err := d.answers[0]
	d.answers = d.answers[1:]
	return nil, err
}

func TestWatchRulesEndsWithItsSocket(t *testing.T) {
	w := newRulesWatch()
	w.run(&deaf{[]error{&netlink.OpError{Op: "receive", Err: unix.ENOBUFS}, &netlink.OpError{Op: "receive", Err: unix.EBADF}}})
	if _, lost := w.Take(); !lost {
		t.Error("lost events were not told")
	}
	<-w.News()
	if _, open := <-w.News(); open {
		t.Error("the end was not told")
	}
}

// What is done to other tables wakes nobody, however much it is, and hides nothing.
func TestWatchRulesIsSilentAboutOthers(t *testing.T) {
	h := newHost(t)
	w := h.watch(t)
	for i := range 2 * mostChanges {
		h.nft(t, fmt.Sprintf("add table inet other%d\n", i), "-f", "-")
	}
	h.nft(t, "add table inet cfwall\n", "-f", "-")
	changes, lost := w.await(t)
	if len(changes) != 1 || lost || changes[0].Program != "nft" {
		t.Errorf("told %+v (lost: %t)", changes, lost)
	}
}

// Whoever takes nothing for long hears that something was lost.
func TestWatchRulesIsBounded(t *testing.T) {
	w := newRulesWatch()
	for range 10 * mostChanges {
		w.note(&Change{})
	}
	if changes, lost := w.Take(); len(changes) != mostChanges || !lost {
		t.Errorf("%d changes, lost: %t", len(changes), lost)
	}
	w.note(&Change{})
	if changes, lost := w.Take(); len(changes) != 1 || lost {
		t.Errorf("then %d changes, lost: %t", len(changes), lost)
	}
}

func FuzzWatchRules(f *testing.F) {
	f.Add(uint16(endOfTransaction), []byte("\x00\x00\x00\x00\x08\x00\x01\x00\x00\x00\x00\x07\x08\x00\x02\x00\x00\x00\x00\x07\x08\x00\x03\x00nft\x00"))
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE), []byte("\x01\x00\x00\x00\x0b\x00\x01\x00cfwall\x00\x00"))
	f.Fuzz(func(_ *testing.T, kind uint16, data []byte) {
		w := newRulesWatch()
		w.message(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(kind)}, Data: data})
		w.Take()
	})
}
