package lab

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// T is what the lab needs of a *testing.T; the demo brings its own.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// A Net is a set of hosts and the cables between them. It goes with its test.
type Net struct{ t T }

// New makes an empty Net. Whatever fails in it or its hosts ends t.
func New(t T) *Net { return &Net{t} }

// A Host is a network namespace: it has its own links, routes, sysctls and
// rules, and shares everything else with this process.
type Host struct {
	t         T
	name      string
	ns        netns.NsHandle
	links     *netlink.Handle
	observers int
}

// Host makes a host with a loopback, without IPv6 duplicate address
// detection, so that addresses work at once, and without reverse path
// filtering, so that sources may come from anywhere.
func (n *Net) Host(name string) *Host {
	n.t.Helper()
	h := &Host{t: n.t, name: name}
	err := excursion(func() (err error) {
		h.ns, err = netns.New()
		return err
	})
	h.check(err, "making a network namespace")
	h.t.Cleanup(func() { h.ns.Close() })
	h.links, err = netlink.NewHandleAt(h.ns)
	h.check(err, "opening netlink")
	h.t.Cleanup(h.links.Close)
	for _, conf := range []string{"all", "default"} {
		h.Sysctl("net/ipv6/conf/"+conf+"/accept_dad", "0")
		h.Sysctl("net/ipv4/conf/"+conf+"/rp_filter", "0")
	}
	h.check(h.links.LinkSetUp(h.link("lo")), "setting lo up")
	return h
}

// String returns the host's name.
func (h *Host) String() string { return h.name }

// Do calls f inside the host. Sockets opened and programs started by f belong
// to the host for good; goroutines started by f run outside.
func (h *Host) Do(f func()) {
	h.t.Helper()
	err := excursion(func() error {
		if err := netns.Set(h.ns); err != nil {
			return err
		}
		f()
		return nil
	})
	h.check(err, "entering the network namespace")
}

// Sysctl sets a kernel parameter, named by its path below /proc/sys.
func (h *Host) Sysctl(name, value string) {
	h.t.Helper()
	var err error
	h.Do(func() { err = os.WriteFile("/proc/sys/"+name, []byte(value), 0) })
	h.check(err, "setting %s=%s", name, value)
}

// check ends the test if err is not nil.
func (h *Host) check(err error, doing string, args ...any) {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("%s: %s: %v", h.name, fmt.Sprintf(doing, args...), err)
	}
}

// excursion calls f on a thread that f may take to another network namespace,
// and brings the thread home even where f ends the test.
func excursion(f func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			// Still locked, so that no other goroutine runs on this thread.
			panic(fmt.Sprintf("lab: a thread cannot return to its network namespace: %v", err))
		}
		home.Close()
		runtime.UnlockOSThread()
	}()
	return f()
}
