package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// exchanges bounds each exchange with the kernel in time. An answer that got
// lost would hold up the loop for as long as the largest table may take; so each
// gets a little more than the last took, and what was given up is tried anew.
type exchanges struct {
	Table
	slowest time.Duration // of the last exchanges that went well
}

func bounded(t Table) *exchanges { return &exchanges{Table: t} }

const (
	// shortestExchange is many times what a usual table takes: 2 ms.
	shortestExchange = 400 * time.Millisecond
	// longestExchange is for a table that has grown, or a kernel that is busy.
	longestExchange = 5 * time.Second
	// longestPass bounds all exchanges of a pass. With the half of WatchdogSec=30s
	// that may pass before it begins, the watchdog is fed in time.
	longestPass = 10 * time.Second
)

// Read implements Table. It changes nothing, so it is tried a second time.
func (x *exchanges) Read(ctx context.Context, f firewall.Family) (firewall.State, error) {
	s, err := timed(ctx, x, x.usual(), func(ctx context.Context) (firewall.State, error) { return x.Table.Read(ctx, f) })
	if gaveUp(err) && ctx.Err() == nil {
		return timed(ctx, x, longestExchange, func(ctx context.Context) (firewall.State, error) { return x.Table.Read(ctx, f) })
	}
	return s, err
}

// Apply implements Table. What became of a change that was given up, reading tells.
func (x *exchanges) Apply(ctx context.Context, p firewall.Plan) error {
	_, err := timed(ctx, x, x.usual(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, x.Table.Apply(ctx, p)
	})
	if gaveUp(err) {
		return fmt.Errorf("%w: %w", kernel.ErrUncertain, err)
	}
	return err
}

// Remembered implements Table. It is for status alone.
func (x *exchanges) Remembered(ctx context.Context, f firewall.Family, sets ...string) ([]kernel.Remembered, error) {
	ctx, cancel := context.WithTimeout(ctx, shortestExchange)
	defer cancel()
	return x.Table.Remembered(ctx, f, sets...)
}

// usual is the time for an exchange that goes well.
func (x *exchanges) usual() time.Duration {
	return min(max(shortestExchange, 3*x.slowest), longestExchange)
}

func timed[T any](ctx context.Context, x *exchanges, longest time.Duration, exchange func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	begin := time.Now()
	v, err := exchange(ctx)
	if err == nil {
		x.slowest = max(time.Since(begin), x.slowest/2)
	}
	return v, err
}

// gaveUp says that an exchange was ended by its time.
func gaveUp(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
