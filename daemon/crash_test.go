package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/internal/lab"
)

// churnStandIn names the directory of a process that changes lists and configs as
// fast as it can, until it is killed.
const churnStandIn = "CFWALL_TEST_CHURN"

// churning are configs that all guard UDP port 443 and admit the guests there.
var churning = []wish{
	crowdWish,
	{from: crowdWish.from, ports: []string{"443", "8000-8010", "8443"}},
	{from: append([]string{"192.0.2.128/25", "10.0.0.0/8", "2001:db8:a::/48"}, crowdWish.from...)},
	{from: crowdWish.from, interfaces: []string{"wg*", "vpn0"}},
	{from: crowdWish.from, tunnel: true, more: notAsked},
	{from: crowdWish.from, drop: true, open: []string{"22/tcp", "8443/tcp from 192.0.2.0/24"}},
	{from: crowdWish.from, outboundDrop: true, allow: []string{"25/tcp"}},
}

func playChurn(dir string) {
	ctx, random := context.Background(), rand.New(rand.NewPCG(uint64(os.Getpid()), 7))
	table := kernel.New()
	err := table.Hold(ctx)
	e := NewEngine(pathsIn(dir), "test", slog.New(slog.DiscardHandler))
	e.table, e.resolvers, e.self.Running = table, testResolvers, true
	e.LoadState()
	e.LoadConfigOrFallback()
	for i := 0; err == nil; i++ {
		if _, err = e.Pass(ctx); i == 0 {
			fmt.Println("ready")
		}
		e.book.Current.List = listWith(randomNetworks(random, random.IntN(300))...)
		if random.IntN(2) == 0 && err == nil {
			err = durable.Write(durable.OS{}, e.paths.Config, []byte(churning[random.IntN(len(churning))].text()))
			if err == nil {
				_, err = e.Apply(ctx, Order{Force: true})
			}
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// randomNetworks are nobody's.
func randomNetworks(random *rand.Rand, n int) (networks []string) {
	for range n {
		networks = append(networks, fmt.Sprintf("100.%d.%d.0/24", random.IntN(256), random.IntN(256)), fmt.Sprintf("2a00:%x::/32", random.IntN(1<<16)))
	}
	return networks
}

// A process that changes everything all the time is killed again and again: the
// table is whole each time, and no packet is leaked or lost, neither by the kill
// nor by the next start, which adopts what it finds.
func TestKilledWhileItChanges(t *testing.T) {
	lab.Kernel(t)
	t.Parallel()
	s, dir := lab.NewSite(t), t.TempDir()
	writeFile(t, pathsIn(dir).Config, crowdWish.text())
	random := rand.New(rand.NewPCG(300, 2026))
	var c *crowd
	for i := range amount(300, 3000) {
		cmd := play(t, s.Web, "cfwall", churnStandIn+"="+dir, "ready")
		if i == 0 {
			c = newCrowd(t, s)
		}
		time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
		kill(t, cmd, syscall.SIGKILL)
		state := tableOf(t, s.Web)
		if state.Table == nil || state.Table.Hold != firewall.Orphan {
			t.Fatalf("after %d kills the table is %+v", i+1, state.Table)
		}
		expectWhole(t, *state.Table)
	}
	if leaked, lost := c.verdict(t); leaked != 0 || lost != 0 {
		t.Errorf("LEAKED %d, LOST %d", leaked, lost)
	}
}

// kill ends a process and waits for its end.
func kill(t *testing.T, cmd *exec.Cmd, signal syscall.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // by a signal: an error
}

// expectWhole wants what all policies of the churn have in common.
func expectWhole(t *testing.T, table firewall.Ruleset) {
	t.Helper()
	decide := func(a netip.Addr, protocol string) firewall.Decision {
		return table.Decide(firewall.Packet{Source: a, Protocol: protocol, Port: 443, Opening: true})
	}
	for i := range guests {
		for _, protocol := range []string{"tcp", "udp"} {
			if d := decide(guests[i], protocol); d.Verdict != firewall.Accept || !d.Certain {
				t.Errorf("a guest at %s port 443: %+v", protocol, d)
			}
			if d := decide(intruders[i], protocol); d.Verdict != firewall.Drop || !d.Certain {
				t.Errorf("an intruder at %s port 443: %+v", protocol, d)
			}
		}
	}
}

// The daemon is restarted, and its program replaced by another file, as packages
// do it: no packet is leaked or lost, and the table is adopted each time.
func TestRestartsAndUpgrades(t *testing.T) {
	lab.Kernel(t)
	t.Parallel()
	s, dir := lab.NewSite(t), t.TempDir()
	writeFile(t, pathsIn(dir).Config, crowdWish.text())
	program := filepath.Join(t.TempDir(), "cfwall")
	image := ownImage(t)
	var c *crowd
	for i := range amount(100, 1000) {
		replace(t, program, image)
		cmd := playProgram(t, s.Web, program, daemonStandIn+"="+dir, `msg="protected`)
		if i == 0 {
			c = newCrowd(t, s)
		}
		if hold := tableOf(t, s.Web).Table.Hold; hold != firewall.Foreign { // that of the daemon
			t.Errorf("after %d starts the table is %s", i+1, hold)
		}
		kill(t, cmd, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[i%2])
	}
	if leaked, lost := c.verdict(t); leaked != 0 || lost != 0 {
		t.Errorf("LEAKED %d, LOST %d", leaked, lost)
	}
}

// ownImage is the content of this program's file.
func ownImage(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replace puts a new file in a program's place, which may be running.
func replace(t *testing.T, program string, image []byte) {
	t.Helper()
	// A child that another test starts meanwhile would have the file open for
	// writing, and no program can be started that somebody may write to.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(program+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err == nil {
		_, err = io.Copy(f, bytes.NewReader(image))
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(program+".new", program)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A second daemon is told who holds the table, whatever directories it has, and
// the first goes on.
func TestSecondDaemonIsTold(t *testing.T) {
	lab.Kernel(t)
	s, dir := lab.NewSite(t), t.TempDir()
	client, first := startDaemonProcess(t, s.Web, dir, crowdWish)
	for name, other := range map[string]string{"the same directories": dir, "its own": t.TempDir()} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), daemonStandIn+"="+other)
		var out []byte
		var err error
		s.Web.Do(func() { out, err = cmd.Output() })
		if err == nil || !strings.Contains(string(out), fmt.Sprintf("(pid %d", first.Process.Pid)) {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	if status, err := client.Status(t.Context()); err != nil || !status.Table.Matches || status.Table.Ownership != firewall.Owned {
		t.Errorf("the first: %+v, %v", status.Table, err)
	}
}
