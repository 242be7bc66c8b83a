package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/ipranges"
)

const (
	noopRounds = 200
	aimNoop    = 1 // ms
)

// noop measures what the daemon does every minute: it reads the table and
// finds that there is nothing to do.
func (b *bench) noop() {
	h := b.net.Host("noop")
	want, err := build(ipranges.Embedded().List)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	h.Nft(b.t, want.String())
	_, output := b.output(h, []string{"/proc/self/exe", noopCommand})
	var times []time.Duration
	for word := range strings.FieldsSeq(output) {
		times = append(times, b.duration(word))
	}
	alone("pass with nothing to do", milliseconds(times), atMost(aimNoop))
}

// repeatNoop prints how long each round took, in nanoseconds. It is a process
// of its own because goroutines that are bound to a thread, as in the lab,
// are slower than the daemon's.
func repeatNoop() error {
	want, err := build(ipranges.Embedded().List)
	if err != nil {
		return err
	}
	for range noopRounds {
		start := time.Now()
		have, err := kernel.New().Read(context.Background(), want.Family)
		plan := firewall.MakePlan(have, want)
		took := time.Since(start)
		if err != nil {
			return err
		}
		if !plan.Empty() {
			return fmt.Errorf("there is something to do: %q", plan.Summary())
		}
		fmt.Println(took.Nanoseconds())
	}
	return nil
}
