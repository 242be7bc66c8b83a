package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/ipranges"
)

const (
	startRounds = 25
	// quiet is how long nothing must change for a table to be complete.
	quiet = 50 * time.Millisecond
	// startPatience is how long that may take.
	startPatience = 5 * time.Second
)

// start compares the daemon's cold start, without state or network, with nft:
// from the start of the process to the table being complete in the kernel.
func (b *bench) start() {
	h := b.net.Host("start")
	want := b.defaultRuleset(h)
	script := "/run/start.nft"
	if err := os.WriteFile(script, []byte(want.String()), 0o600); err != nil {
		b.t.Fatalf("%v", err)
	}
	var daemon, nft, uncached []time.Duration
	for round := range startRounds {
		cold := fmt.Sprintf("/run/start%d", round)
		contenders := []func(){
			func() {
				cmd := daemonCommand(b.cfwall, cold)
				daemon = append(daemon, b.untilTable(h, want, cmd))
				b.stop(cmd)
				b.remove(h)
			},
			func() {
				cmd := exec.Command("nft", "-f", script)
				nft = append(nft, b.untilTable(h, want, cmd))
				b.await(cmd)
				b.remove(h)
			},
		}
		contenders[round%2]()
		contenders[1-round%2]()

		b.evict(b.cfwall)
		cmd := daemonCommand(b.cfwall, cold+"-disk")
		uncached = append(uncached, b.untilTable(h, want, cmd))
		b.stop(cmd)
		b.remove(h)
	}
	compare("start to protected", milliseconds(daemon), milliseconds(nft), belowOne)
	_, median, _ := quartiles(milliseconds(uncached).values)
	figure("  with the program on disk alone", median, "ms", atMost(aimCold))
}

// aimCold is how long a start may take at boot, in milliseconds.
const aimCold = 100

// evict drops a file from the page cache, as it is at boot.
func (b *bench) evict(file string) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		err = errors.Join(unix.Fdatasync(int(f.Fd())), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	}
	if err != nil {
		b.t.Fatalf("dropping %s from the page cache: %v", file, err)
	}
}

// defaultRuleset is what the daemon enforces on a host without a config.
func (b *bench) defaultRuleset(h *lab.Host) firewall.Ruleset {
	var facts firewall.Host
	var err error
	h.Do(func() { facts, err = kernel.ReadHost() })
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	want, err := firewall.Build(config.Default().Policy, firewall.Lists{Cloudflare: ipranges.Embedded().List}, facts)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	return want
}

// daemonCommand starts the daemon with the default config and all its files
// below a directory.
func daemonCommand(cfwall, dir string) *exec.Cmd {
	cmd := exec.Command(cfwall, "run", "--config", dir+"/config.toml", "--state-dir", dir+"/state", "--runtime-dir", dir+"/runtime")
	cmd.Env = []string{} // not the caller's: SSH_CONNECTION and NOTIFY_SOCKET mean something
	return cmd
}

// stop ends the daemon.
func (b *bench) stop(cmd *exec.Cmd) {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Fatalf("%v", err)
	}
	b.await(cmd)
}

func (b *bench) await(cmd *exec.Cmd) {
	if err := cmd.Wait(); err != nil {
		b.t.Fatalf("%s: %v", cmd.Path, err)
	}
}

// untilTable starts a program on a host without a table and returns how long
// the table takes to be complete.
func (b *bench) untilTable(h *lab.Host, want firewall.Ruleset, cmd *exec.Cmd) (took time.Duration) {
	var err error
	h.Do(func() {
		var events int
		if events, err = subscribe(); err != nil {
			return
		}
		defer unix.Close(events)
		start := time.Now()
		h.Start(cmd)
		took, err = awaitTable(events, want, start)
	})
	if err != nil {
		b.t.Fatalf("%s: %v", cmd.Path, err)
	}
	return took
}

// subscribe opens a socket to which the kernel tells each change of any table.
// Waiting for that takes no processor time from those who are measured.
func subscribe() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	timeout := unix.NsecToTimeval(quiet.Nanoseconds())
	group := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}
	return fd, errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout), unix.Bind(fd, group))
}

// awaitTable waits for the table to be complete and returns when it was
// changed last, counted from start.
func awaitTable(events int, want firewall.Ruleset, start time.Time) (changed time.Duration, err error) {
	buffer := make([]byte, 64<<10)
	for time.Since(start) < startPatience {
		switch _, _, err := unix.Recvfrom(events, buffer, 0); {
		case err == nil:
			changed = time.Since(start)
		case errors.Is(err, unix.EINTR): // by a signal of the runtime's
		case !errors.Is(err, unix.EAGAIN):
			return 0, fmt.Errorf("waiting for the table: %w", err)
		case changed > 0:
			have, err := kernel.New().Read(context.Background(), want.Family)
			if err != nil {
				return 0, err
			}
			if have.Table != nil && firewall.MakePlan(have, want).Empty() {
				return changed, nil
			}
		}
	}
	return 0, fmt.Errorf("no complete table after %v", startPatience)
}
