package systemdtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// boots is how often a machine is switched on.
const boots = 20

// Strangers knock from before the machine has power until it is off, and a web
// server listens: nobody gets an answer, however the machine went off before.
func TestNobodyGetsInAtBoot(t *testing.T) {
	onEach(t, func(t *testing.T, suite string) {
		var ready durations
		t.Cleanup(func() { ready.report(t) })
		const disks = 2 // as many boots at once
		for n := range disks {
			t.Run(fmt.Sprintf("disk %d", n), func(t *testing.T) {
				t.Parallel()
				d := newDisk(t, suite)
				d.useEarlyNetwork(t)
				d.installCfwall(t)
				for i := range boots / disks {
					t.Run(fmt.Sprintf("boot %d", i), func(t *testing.T) {
						ready.add(sealedBoot(t, d, endings[i%len(endings)]))
						cutShort(t, d)
					})
				}
			})
		}
	})
}

// endings are ways of a machine to go off.
var endings = []func(*machine){(*machine).shutDown, (*machine).cut}

// installCfwall boots a machine for as long as the installation takes.
func (d *disk) installCfwall(t *testing.T, more ...func(*machine)) {
	t.Helper()
	t.Run("installation", func(t *testing.T) {
		m := boot(t, d, newSite(t))
		m.run("dpkg", "-i", d.deliver(t, "new"))
		for _, f := range more {
			f(m)
		}
		m.shutDown()
	})
}

// sealedBoot boots a machine that may answer Cloudflare and nobody else, at any
// time, and whose other units run, too. It returns how long cfwall took to be
// ready.
func sealedBoot(t *testing.T, d *disk, end func(*machine), units ...string) (ready time.Duration) {
	t.Helper()
	b := watchBoot(t, d, func(m *machine) {
		for _, u := range append(units, "cfwall.service") {
			if state := m.property(u, "ActiveState"); state != "active" {
				t.Errorf("%s is %s", u, state)
			}
		}
		end(m)
	})
	if b.leaked != 0 {
		t.Errorf("LEAKED %d answers to strangers", b.leaked)
	}
	if len(b.cycles) > 0 {
		t.Errorf("units wait for each other:\n%s", strings.Join(b.cycles, ""))
	}
	if b.ready > b.network {
		t.Errorf("cfwall was ready at %v, network-pre.target was reached at %v", b.ready, b.network)
	}
	return b.ready - b.began
}

// A watchedBoot is what was seen of a machine, from before it had power until
// it was off.
type watchedBoot struct {
	leaked                int      // answers to strangers
	cycles                []string // what systemd said about them
	began, ready, network time.Duration
}

func watchBoot(t *testing.T, d *disk, end func(*machine)) (b watchedBoot) {
	t.Helper()
	s := newSite(t)
	s.knock()
	m := boot(t, d, s)
	m.await("Cloudflare gets answers", func() bool { return s.edgesAnswered(t) > 0 })
	b.began, b.ready = m.when("cfwall.service", "ExecMainStart"), m.when("cfwall.service", "ActiveEnter")
	b.network = m.when("network-pre.target", "ActiveEnter")
	journal := m.run("journalctl", "-b", "-o", "cat")
	end(m)
	b.cycles = cycles(journal + m.console.String())
	b.leaked = s.strangersAnswered(t)
	return b
}

// cutShort takes the power away in the middle of a boot.
func cutShort(t *testing.T, d *disk) {
	t.Helper()
	s := newSite(t)
	s.knock()
	m := powerOn(t, d, s)
	time.Sleep(rand.N(time.Second))
	m.cut()
	if leaked := s.strangersAnswered(t); leaked != 0 {
		t.Errorf("LEAKED %d answers to strangers, in a boot that was cut short", leaked)
	}
}

// when is a time since the machine that all this runs on was booted.
func (m *machine) when(unit, event string) time.Duration {
	m.Helper()
	micros, err := strconv.ParseInt(m.property(unit, event+"TimestampMonotonic"), 10, 64)
	check(m.T, err)
	return time.Duration(micros) * time.Microsecond
}

// cycles are the lines in which systemd says that it cannot do as units want.
func cycles(log string) []string {
	var found []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "ordering cycle") {
			found = append(found, line)
		}
	}
	return found
}

// durations are those of one thing that is done again and again.
type durations struct {
	mu  sync.Mutex
	all []time.Duration
}

func (d *durations) add(took time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, took)
}

// report says how long cfwall took. The aim is a median of 150 ms; what is
// asked of the fastest holds on a machine that others keep busy, too.
func (d *durations) report(t *testing.T) {
	if len(d.all) == 0 {
		return // it has failed
	}
	slices.Sort(d.all)
	fastest, median, slowest := d.all[0], d.all[len(d.all)/2], d.all[len(d.all)-1]
	t.Logf("in %d boots cfwall was ready %v after its start (median; %v to %v)", len(d.all), median, fastest, slowest)
	if fastest > time.Second {
		t.Errorf("cfwall is never ready within a second")
	}
}
