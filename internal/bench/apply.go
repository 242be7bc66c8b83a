package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

// rounds is how often each size is measured: enough for a median, few enough
// for patience.
var rounds = []struct{ networks, rounds int }{{22, 41}, {1000, 25}, {10_000, 15}, {100_000, 7}}

// The aims for applying a list, as parts of what nft needs.
const (
	aimTime   = 0.5
	aimMemory = 0.5
)

// build makes the ruleset of a host with IPv6 that forwards nothing.
func build(l ipranges.List) (firewall.Ruleset, error) {
	return firewall.Build(config.Default().Policy, firewall.Lists{Cloudflare: l}, firewall.Host{IPv6: true})
}

// apply compares ways to get a list into the kernel of a host without a table:
//
//   - nft -f reads the ruleset as text, and applies it;
//   - a process of ours reads the list as text, builds the ruleset, reads the
//     kernel, plans and applies;
//   - the daemon runs, and has the list already: the same from building on,
//     without reading back and comparing at the end, and with.
func (b *bench) apply() {
	h := b.net.Host("apply")
	for _, r := range rounds {
		list := networks(r.networks)
		if published := ipranges.Embedded().List; published.Len() == r.networks {
			list = published
		}
		b.applyList(h, list, r.rounds)
	}
}

func (b *bench) applyList(h *lab.Host, list ipranges.List, rounds int) {
	name := fmt.Sprintf("apply %d networks: own process", list.Len())
	listFile, scriptFile := b.files(list)
	nft := []string{"nft", "-f", scriptFile}
	ours := []string{"/proc/self/exe", applyCommand, listFile}
	verified := []string{"/proc/self/exe", verifyCommand, listFile}
	for _, program := range [][]string{nft, ours} {
		// Without root the socket buffers may be too small for both.
		if _, _, err := try(h, program); err != nil {
			fmt.Printf("%-37s not possible here: %v\n", name, err)
			return
		}
		b.remove(h)
	}

	var nftTimes, processTimes, daemonTimes, verifiedTimes []time.Duration
	turns := []func(){
		func() { nftTimes = append(nftTimes, b.took(h, nft)) },
		func() {
			took, inside := b.tookInside(h, ours)
			processTimes, daemonTimes = append(processTimes, took), append(daemonTimes, inside)
		},
		func() {
			_, inside := b.tookInside(h, verified)
			verifiedTimes = append(verifiedTimes, inside)
		},
	}
	for round := range rounds {
		for i := range turns {
			turns[(i+round)%len(turns)]() // nobody is always first
			b.remove(h)
		}
	}
	reference := milliseconds(nftTimes)
	compare(name, milliseconds(processTimes), reference, atMost(aimTime))
	compare("  its memory", b.peaks(h, ours), b.peaks(h, nft), atMost(aimMemory))
	compare("  in the running daemon", milliseconds(daemonTimes), reference, atMost(aimTime))
	compare("    and read back, and compared", milliseconds(verifiedTimes), reference, noAim)
}

// peaks measures memory, which hardly varies.
func (b *bench) peaks(h *lab.Host, program []string) sample {
	var peaks []int64
	for range 3 {
		peaks = append(peaks, b.peak(h, program))
		b.remove(h)
	}
	return megabytes(peaks)
}

// files writes what the contenders read.
func (b *bench) files(l ipranges.List) (list, script string) {
	ruleset, err := build(l)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	list, script = "/run/list", "/run/table.nft"
	for file, content := range map[string]string{list: l.String(), script: ruleset.String()} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			b.t.Fatalf("%v", err)
		}
	}
	return list, script
}

// remove empties the host. The kernel frees memory in the background; the
// second transaction waits for that.
func (b *bench) remove(h *lab.Host) {
	var err error
	h.Do(func() {
		for range 2 {
			err = errors.Join(err, kernel.New().Remove(context.Background(), firewall.FamilyINET))
		}
	})
	if err != nil {
		b.t.Fatalf("%v", err)
	}
}

// applyFile is what one pass of cfwall does on a host without a table. It
// prints how long that took when the list was read, in nanoseconds.
func applyFile(file string, verify bool) error {
	list, err := readList(file)
	if err != nil {
		return err
	}
	start := time.Now()
	want, err := build(list)
	if err != nil {
		return err
	}
	ctx, k := context.Background(), kernel.New()
	have, err := k.Read(ctx, want.Family)
	if err != nil {
		return err
	}
	if err := k.Apply(ctx, firewall.MakePlan(have, want)); err != nil {
		return err
	}
	if verify {
		have, err := k.Read(ctx, want.Family)
		if err != nil {
			return err
		}
		if plan := firewall.MakePlan(have, want); !plan.Empty() {
			return fmt.Errorf("the table is not what was applied: %q", plan.Summary())
		}
	}
	_, err = fmt.Print(time.Since(start).Nanoseconds())
	return err
}

// readList reads one network a line.
func readList(file string) (ipranges.List, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return ipranges.List{}, err
	}
	var networks []netip.Prefix
	for line := range strings.Lines(string(text)) {
		n, err := netip.ParsePrefix(strings.TrimSpace(line))
		if err != nil {
			return ipranges.List{}, err
		}
		networks = append(networks, n)
	}
	return ipranges.NewList(networks...), nil
}
