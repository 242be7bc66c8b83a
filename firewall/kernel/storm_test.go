package kernel

import (
	"context"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// storm commits a change of another table again and again.
func (h host) storm(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var c conn
	var err error
	h.Do(func() { c, err = dialNetfilter() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		defer c.Close()
		for i := 0; ctx.Err() == nil; i++ {
			b := &batch{family: unix.NFPROTO_INET}
			b.bracket(unix.NFNL_MSG_BATCH_BEGIN, 0)
			kind, flags := unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Acknowledge
			if i%2 == 1 {
				kind, flags = unix.NFT_MSG_DELTABLE, netlink.Acknowledge
			}
			b.add(kind, flags, func(e *netlink.AttributeEncoder) { e.String(unix.NFTA_TABLE_NAME, "other") })
			b.bracket(unix.NFNL_MSG_BATCH_END, 0)
			sent, err := c.SendMessages(b.messages)
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(time.Second))
				err = acknowledged(c, sent[1].Header.Sequence)
			}
			if err != nil {
				t.Error(err)
				return
			}
			time.Sleep(200 * time.Microsecond)
		}
	}()
	t.Cleanup(func() { stop(); <-ended })

}

// Programs that change their tables without rest keep nobody from reading ours,
// and from changing it.
func TestOthersThatNeverRest(t *testing.T) {
	h := newHost(t).holding(t)
	want := drifter(t)
	h.enforce(t, want)
	h.storm(t)
	for range 20 {
		h.expect(t, want)
	}
	want.Chains[0].Rules = want.Chains[0].Rules[:len(want.Chains[0].Rules)-1]
	plan := firewall.MakePlan(h.read(t, want.Family), want)
	plan.Generation = 0
	if err := h.apply(plan); err != nil {
		t.Fatal(err)
	}
	h.expect(t, want)
}
