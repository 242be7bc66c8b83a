package kernel

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

func readHost(t *testing.T, h *lab.Host) (host firewall.Host) {
	t.Helper()
	var err error
	h.Do(func() { host, err = ReadHost() })
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// A bridge is trusted by its name only where a container engine would have
// made it, and only if it is a bridge.
func TestContainerBridges(t *testing.T) {
	lab.Kernel(t)
	n := lab.New(t)
	web, other := n.Host("web"), n.Host("other")
	engines := []string{"docker0", "docker_gwbridge", "br-0123456789ab", "podman1", "cni-podman0", "cni0"}
	for _, name := range slices.Concat(engines, []string{"br0", "br-lan", "br-0123456789a", "br-0123456789aX", "docker1", "vmbr0", "podman"}) {
		web.Bridge(name)
	}
	n.Connect(web, "cni7", other, "eth0") // named like one, but no bridge
	slices.Sort(engines)
	if diff := cmp.Diff(engines, readHost(t, web).Bridges); diff != "" {
		t.Errorf("bridges of container engines (-want +got):\n%s", diff)
	}
	web.Remove("docker0")
	if slices.Contains(readHost(t, web).Bridges, "docker0") {
		t.Error("a bridge that went is still there")
	}
}

func TestForwards(t *testing.T) {
	lab.Kernel(t)
	for _, key := range []string{
		"net/ipv4/conf/all/forwarding", "net/ipv4/conf/lo/forwarding",
		"net/ipv6/conf/all/forwarding", "net/ipv6/conf/lo/forwarding",
	} {
		web := lab.New(t).Host("web")
		for _, key := range []string{"net/ipv4/conf/all/forwarding", "net/ipv4/conf/default/forwarding", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding"} {
			web.Sysctl(key, "0")
		}
		if h := readHost(t, web); h.Forwards || h.Routes {
			t.Errorf("%s: a host that forwards nothing is said to forward: %+v", key, h)
		}
		web.Bridge("br0")
		if h := readHost(t, web); !h.Forwards || h.Routes {
			t.Errorf("%s: a host with a bridge is %+v", key, h)
		}
		web.Sysctl(key, "1")
		if h := readHost(t, web); !h.Forwards || !h.Routes {
			t.Errorf("%s: a host that routes is %+v", key, h)
		}
	}
}

func TestEphemeralPorts(t *testing.T) {
	lab.Kernel(t)
	web := lab.New(t).Host("web")
	web.Sysctl("net/ipv4/ip_local_port_range", "40000 50000")
	web.Sysctl("net/ipv4/ip_local_reserved_ports", "8080,41000-41999,50000")
	want := []firewall.PortRange{{First: 40000, Last: 40999}, {First: 42000, Last: 49999}}
	if diff := cmp.Diff(want, readHost(t, web).Ephemeral); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	web.Sysctl("net/ipv4/ip_local_reserved_ports", "\n")
	if got := readHost(t, web); len(got.Ephemeral) != 1 || !got.IPv6 {
		t.Errorf("got %+v", got)
	}
}

func TestWatchHost(t *testing.T) {
	lab.Kernel(t)
	web := lab.New(t).Host("web")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var changed <-chan struct{}
	var err error
	web.Do(func() { changed, err = WatchHost(ctx) })
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(){
		"a bridge came":            func() { web.Bridge("docker0") },
		"IPv4 forwarding changed":  func() { web.Sysctl("net/ipv4/conf/all/forwarding", "1") },
		"IPv6 forwarding changed":  func() { web.Sysctl("net/ipv6/conf/all/forwarding", "1") },
		"another bridge came, too": func() { web.Bridge("cni0") },
	} {
		quiet(changed)
		change()
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Errorf("not told that %s", what)
		}
	}
	cancel()
	for range changed { // ends when the channel is closed
	}
}

// quiet waits until nothing has been told for a while.
func quiet(changed <-chan struct{}) {
	for {
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}
