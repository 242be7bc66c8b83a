package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// Apply carries out a plan, one transaction for each step. Each is refused
// with ErrBusy if another program has changed any table since the state was
// read that the plan was made from. Steps before one that failed stay: each
// leaves the ports guarded, and the next plan goes on from there.
//
// An error does not mean that nothing changed (see ErrUncertain): read.
func (k *Kernel) Apply(ctx context.Context, plan firewall.Plan) error {
	for i, step := range plan.Steps {
		generation := plan.Generation
		if generation != 0 {
			generation += uint32(i)
		}
		messages, err := encodeStep(plan.Family, step, generation)
		if err != nil {
			return err
		}
		if err := k.commit(ctx, messages); err != nil {
			return fmt.Errorf("transaction %d of %d: %w", i+1, len(plan.Steps), err)
		}
	}
	return nil
}

// commit sends one transaction and waits for its outcome.
func (k *Kernel) commit(ctx context.Context, messages []netlink.Message) error {
	c, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	sent, err := c.SendMessages(messages)
	if err != nil {
		return classify("sending the change", err)
	}
	acknowledged := sent[len(sent)-2].Header.Sequence
	for {
		for m, err := range c.ReceiveIter() {
			if err != nil {
				return classify("changing the ruleset", err)
			}
			if m.Header.Type == netlink.Error && m.Header.Sequence == acknowledged {
				return nil
			}
		}
	}
}

// Remove deletes our table, whatever is in it.
func (k *Kernel) Remove(ctx context.Context, family firewall.Family) error {
	err := k.Apply(ctx, firewall.Plan{Family: family, Steps: []firewall.Step{{firewall.DeleteTable{}}}})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
