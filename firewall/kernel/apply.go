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
	c, release, err := k.writing(ctx)
	if err != nil {
		return err
	}
	defer release()
	sent, err := c.SendMessages(messages)
	if err != nil {
		return classify("sending the change", err)
	}
	return classify("changing the ruleset", acknowledged(c, sent[len(sent)-2].Header.Sequence))
}

// writing returns the connection for changes: the one that is held, or a new one.
func (k *Kernel) writing(ctx context.Context) (c conn, release func(), err error) {
	if k.writer == nil {
		c, err = k.open(ctx)
		if err != nil {
			return nil, nil, err
		}
		return c, func() { c.Close() }, nil
	}
	if err := k.writer.Drain(); err != nil {
		return nil, nil, fmt.Errorf("using the socket that holds the table: %w", err)
	}
	return bound(ctx, k.writer), func() {}, nil
}

// Remove deletes our table, whatever is in it.
func (k *Kernel) Remove(ctx context.Context, family firewall.Family) error {
	err := k.Apply(ctx, firewall.Plan{Family: family, Steps: []firewall.Step{{firewall.DeleteTable{}}}})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
