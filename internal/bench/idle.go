package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"
)

const (
	settling = 10 * time.Second // from the last fetch to the measurement
	watching = 20 * time.Second

	aimResident = 16 // MB
)

// idle measures the daemon when it has fetched the list and waits.
func (b *bench) idle() {
	h := b.net.Host("idle")
	cloudflare := h.Cloudflare(netip.MustParseAddr("127.0.0.1"))
	cmd := daemonCommand(b.cfwall, "/run/idle")
	cmd.Env = []string{"SSL_CERT_FILE=" + cloudflare.Certificate}
	h.Start(cmd)
	for deadline := time.Now().Add(startPatience); cloudflare.Asked() < 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the daemon fetches no list")
		}
	}
	time.Sleep(settling)
	pid := cmd.Process.Pid
	figure("idle daemon: resident memory", b.status(pid, "VmRSS")/1024, "MB", atMost(aimResident))
	figure("  of it not shared with the file", b.status(pid, "RssAnon")/1024, "MB", noAim)
	before := b.switches(pid)
	time.Sleep(watching)
	figure("  wake-ups per second", (b.switches(pid)-before)/watching.Seconds(), "", belowOne)
	b.stop(cmd)
}

// status reads a number of /proc/PID/status.
func (b *bench) status(pid int, field string) float64 {
	n, err := procField(fmt.Sprintf("/proc/%d/status", pid), field)
	if err != nil {
		b.t.Fatalf("%v", err)
	}
	return n
}

// switches counts how often any thread gave up the processor to wait: each is
// followed by a wake-up.
func (b *bench) switches(pid int) (n float64) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, file := range threads {
		if switches, err := procField(file, "voluntary_ctxt_switches"); err == nil { // else the thread has ended
			n += switches
		}
	}
	return n
}
