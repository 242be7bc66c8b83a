package neighbours_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/firewall/neighbours"
	"github.com/cfwall/cfwall/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// A bench is a site whose web host runs the tunnel: the client plays the edge
// and the resolvers.
type bench struct {
	*lab.Site
	container *lab.Host
	tunnel    neighbours.Tunnel
}

var (
	edge4 = netip.MustParseAddr("198.41.192.7")
	edge6 = netip.MustParseAddr("2606:4700:a0::1")
	stub  = netip.MustParseAddr("127.0.0.53")
)

func newBench(t *testing.T) *bench {
	t.Helper()
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Client.Addr("lo", netip.PrefixFrom(edge4, 32))
	s.Client.Addr("lo", netip.PrefixFrom(edge6, 128))
	b := &bench{Site: s, container: s.Container()}
	s.Client.Route(netip.PrefixFrom(lab.Container4, 16).Masked(), lab.Web4, "eth0")
	s.Client.Route(netip.PrefixFrom(lab.Container6, 64).Masked(), lab.Web6, "eth0")
	s.Client.ListenTCP(":7844", ":53")
	s.Client.ListenUDP(":7844", ":53")
	s.Web.ListenTCP("127.0.0.53:53")
	s.Web.ListenUDP("127.0.0.53:53")
	uplink := neighbours.Interface{Name: "eth0", Index: index(t, s.Web, "eth0")}
	peer := func(a, source netip.Addr) neighbours.Peer {
		return neighbours.Peer{Address: a, Source: source, Interface: uplink}
	}
	root := uint32(0)
	b.tunnel = neighbours.Tunnel{
		Edge:      []neighbours.Peer{peer(edge4, lab.Web4), peer(edge6, lab.Web6)},
		Resolvers: []neighbours.Peer{peer(lab.Client4, lab.Web4), peer(lab.Client6, lab.Web6)},
		Ephemeral: firewall.PortRange{First: 32768, Last: 60999},
		UID:       &root, GID: &root,
	}
	return b
}

// inContainer is the tunnel's traffic where cloudflared is in the container.
func (b *bench) inContainer(t *testing.T) neighbours.Tunnel {
	t.Helper()
	return neighbours.Tunnel{Edge: b.tunnel.Edge, Ephemeral: b.tunnel.Ephemeral, Container: &neighbours.Container{
		Bridge: neighbours.Interface{Name: "docker0", Index: index(t, b.Web, "docker0")},
		IPv4:   lab.Container4, IPv6: lab.Container6,
	}}
}

// withStub is that of a host with a resolver of its own.
func (b *bench) withStub() neighbours.Tunnel {
	tunnel := b.tunnel
	lo := neighbours.Interface{Name: "lo", Index: 1}
	tunnel.Resolvers = []neighbours.Peer{{Address: stub, Source: netip.MustParseAddr("127.0.0.1"), Interface: lo}}
	return tunnel
}

// load makes the rules of a policy the only ones: lines that begin with
// "iptables" or "ip6tables" are commands, all else is for nft.
func (b *bench) load(t *testing.T, policy string) {
	t.Helper()
	b.Web.Nft(t, "flush ruleset")
	var script strings.Builder
	for line := range strings.Lines(policy) {
		if words := strings.Fields(line); len(words) > 0 && strings.HasSuffix(words[0], "tables") {
			b.run(t, words[0]+"-nft", words[1:]...)
		} else {
			script.WriteString(line)
		}
	}
	ends := strings.NewReplacer("; }", ";\n}", "} }", "}\n}") // nft wants rules and chains to end with a line
	b.Web.Nft(t, ends.Replace(ends.Replace(script.String())))
}

func (b *bench) run(t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	b.Web.Do(func() { err = cmd.Run() })
	if err != nil {
		t.Fatalf("%s %s: %v %s (the package iptables has the program)", program, strings.Join(args, " "), err, out.String())
	}
}

// accepts loads a policy if nft takes it.
func (b *bench) accepts(policy string) bool {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader("flush ruleset\n" + policy)
	var err error
	b.Web.Do(func() { err = cmd.Run() })
	return err == nil
}

// judge has the kernel's rulesets judged.
func (b *bench) judge(t *testing.T, traffic ...neighbours.Traffic) (findings []neighbours.Finding, remarks []string) {
	t.Helper()
	var err error
	b.Web.Do(func() {
		err = kernel.New().Neighbours(context.Background(), func(r neighbours.Ruleset) { findings, remarks = r.Judge(traffic) })
	})
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	return findings, remarks
}

// try makes real connections and compares how they went with what was found.
func (b *bench) try(t *testing.T, tunnel neighbours.Tunnel) (stopped int) {
	t.Helper()
	from := b.Web
	if tunnel.Container != nil {
		from = b.container
	}
	var tries sync.WaitGroup
	var count atomic.Int64
	for _, traffic := range tunnel.Traffic() {
		findings, _ := b.judge(t, traffic)
		if len(findings) > 0 {
			count.Add(1)
		}
		tries.Go(func() {
			if err := converse(from, traffic, len(findings) == 0); (err == nil) != (len(findings) == 0) {
				t.Errorf("%s: found %v; the conversation: %v\n%s", traffic.Name, findings, err, b.Web.NftList(t, "ruleset"))
			}
		})
	}
	tries.Wait()
	return int(count.Load())
}

// converse asks twice and wants two answers: rules may let only the first
// packets pass.
func converse(from *lab.Host, traffic neighbours.Traffic, passes bool) error {
	p, patience := traffic.Packets[0], 250*time.Millisecond
	if passes {
		patience = 3 * time.Second
	}
	deadline := time.Now().Add(patience)
	var c net.Conn
	var err error
	from.Do(func() {
		c, err = net.DialTimeout(p.Protocol, netip.AddrPortFrom(p.Destination, p.DestinationPorts.First).String(), patience)
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	for range 2 {
		if _, err := c.Write([]byte("word")); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
			return err
		}
	}
	return nil
}

func index(t *testing.T, h *lab.Host, link string) uint32 {
	t.Helper()
	var i *net.Interface
	var err error
	h.Do(func() { i, err = net.InterfaceByName(link) })
	if err != nil {
		t.Fatal(err)
	}
	return uint32(i.Index)
}
