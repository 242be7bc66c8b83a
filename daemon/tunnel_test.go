package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
)

// A modeTable can lose parts of itself too, as a change of the mode has it.
type modeTable struct{ *fakeTable }

func (f modeTable) Apply(ctx context.Context, p firewall.Plan) error {
	var lost []firewall.Op
	steps := p.Steps
	p.Steps = nil
	for _, step := range steps {
		p.Steps = append(p.Steps, slices.DeleteFunc(slices.Clone(step), func(op firewall.Op) bool {
			switch op.(type) {
			case firewall.DeleteChain, firewall.DeleteSet, firewall.DeleteCounter:
				lost = append(lost, op)
				return true
			}
			return false
		}))
	}
	err := f.fakeTable.Apply(ctx, p)
	for _, op := range lost {
		switch op := op.(type) {
		case firewall.DeleteChain:
			f.table.Chains = slices.DeleteFunc(slices.Clone(f.table.Chains), func(c firewall.Chain) bool { return c.Name == op.Name })
		case firewall.DeleteSet:
			f.table.Sets = slices.DeleteFunc(slices.Clone(f.table.Sets), func(s firewall.Set) bool { return s.Name == op.Name })
		case firewall.DeleteCounter:
			f.table.Counters = slices.DeleteFunc(slices.Clone(f.table.Counters), func(c firewall.Counter) bool { return c.Name == op.Name })
		}
	}
	return err
}

// instances are answers of cloudflared, by how many connections each has; -1 is
// no answer.
func instances(connections ...int) []cloudflared.Instance {
	var all []cloudflared.Instance
	for i, n := range connections {
		one := cloudflared.Instance{Address: fmt.Sprintf("127.0.0.1:%d", 20241+i), Ready: n > 0, Connections: max(n, 0)}
		if n < 0 {
			one.Problem = "nobody listens at " + one.Address
		} else {
			one.Connector = connector
		}
		all = append(all, one)
	}
	return all
}

const connector = "0b0c0d0e-1111-4222-8333-444455556666"

// newTunnelEngine has a table in mode cloudflare, a config for mode tunnel and
// instances; asked counts how often they were asked.
func newTunnelEngine(t *testing.T, ready string, connections ...int) (e *Engine, table *fakeTable, asked *int) {
	t.Helper()
	e, table, _ = newTestEngine(t)
	e.table, asked = modeTable{table}, new(int)
	if _, err := e.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.ready = func(context.Context, config.Ready) []cloudflared.Instance { *asked++; return instances(connections...) }
	e.probe = func(context.Context, []netip.Addr) []cloudflared.ProbeResult { return nil }
	writeFile(t, e.paths.Config, tunnelConfig(ready))
	return e, table, asked
}

func tunnelConfig(ready string) string {
	return fmt.Sprintf("mode = \"tunnel\"\n[tunnel]\nready = %s\n", ready)
}

func has(all []Problem, code, text string) bool {
	return slices.ContainsFunc(all, func(p Problem) bool { return p.Code == code && strings.Contains(p.Text, text) })
}

func TestTunnelMustBeUpBeforeThePortsClose(t *testing.T) {
	for _, c := range []struct {
		name        string
		ready       string
		connections []int
		says        string // "" where it is taken
	}{
		{"nobody answers", `"auto"`, nil, "no cloudflared answers at 127.0.0.1:20241"},
		{"one without connections", `"auto"`, []int{0}, "cloudflared at 127.0.0.1:20241 runs, but is not connected to Cloudflare"},
		{"several without", `"auto"`, []int{0, 0}, "127.0.0.1:20242 runs, but is not connected"},
		{"an address where nobody is", `"127.0.0.1:20241"`, []int{-1}, "nobody listens at 127.0.0.1:20241"},
		{"nobody, and one without", `["127.0.0.1:20241", "127.0.0.1:20242"]`, []int{-1, 0}, "nobody listens at 127.0.0.1:20241; cloudflared at 127.0.0.1:20242 runs, but is not connected"},
		{"connected", `"auto"`, []int{4}, ""},
		{"by one connection", `"127.0.0.1:20241"`, []int{1}, ""},
		{"one of several", `"auto"`, []int{0, -1, 4}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, table, _ := newTunnelEngine(t, c.ready, c.connections...)
			own := Order{}
			checked, err := e.Check(t.Context(), own, false)
			if err != nil || has(checked.Problems, "apply-refuses", c.says) != (c.says != "") {
				t.Errorf("check: %v, %v", checked.Problems, err)
			}
			plan, err := e.Plan(t.Context(), own)
			if err != nil || (plan.Refused == "") != (c.says == "") || plan.Empty {
				t.Errorf("plan: %q, %v", plan.Refused, err)
			}
			d := &Daemon{engine: e, opts: Options{Log: e.log, Level: &slog.LevelVar{}}}
			_, reload := d.reload(t.Context(), own)
			_, apply := e.Apply(t.Context(), own)
			for way, err := range map[string]error{"apply": apply, "reload": reload, "plan": planned(plan)} {
				expectNotReady(t, way, err, c.says)
			}
			if closed := !table.admits("104.16.0.1", 443); closed != (c.says == "") {
				t.Errorf("closed to Cloudflare: %t", closed)
			}
			if _, err := e.Apply(t.Context(), Order{Force: true}); err != nil || table.admits("104.16.0.1", 443) {
				t.Errorf("--force: %v", err)
			}
		})
	}
}

func planned(p PlanReport) error {
	if p.Refused == "" {
		return nil
	}
	return &Refusal{errors.New(p.Refused), p.Hint, ExitUsage}
}

func expectNotReady(t *testing.T, way string, err error, says string) {
	t.Helper()
	var refused *Refusal
	switch {
	case says == "" && err != nil:
		t.Errorf("%s: %v", way, err)
	case says == "":
	case !errors.As(err, &refused) || refused.Exit != ExitUsage:
		t.Errorf("%s: %v", way, err)
	case !strings.Contains(refused.Error(), says) || !strings.Contains(refused.Error(), "closes the web ports for everyone"):
		t.Errorf("%s: %v, want %q", way, err, says)
	case !strings.Contains(refused.Hint, "start cloudflared") || !strings.Contains(refused.Hint, "--force"):
		t.Errorf("%s: the hint is %q", way, refused.Hint)
	}
}

// Where nothing would close nobody is asked.
func TestTunnelIsNotAskedInVain(t *testing.T) {
	e, table, asked := newTunnelEngine(t, `"off"`, 0)
	if _, err := e.Apply(t.Context(), Order{}); err != nil || table.admits("104.16.0.1", 443) {
		t.Errorf("ready off: %v", err)
	}
	if s, err := e.Status(t.Context()); err != nil || s.Tunnel == nil || s.Tunnel.Asked || has(s.Problems, "tunnel-down", "") {
		t.Errorf("ready off: %+v, %v", s.Tunnel, err)
	}
	if *asked != 0 {
		t.Error("asked though ready is off")
	}
	writeFile(t, e.paths.Config, tunnelConfig(`"auto"`)+"[web]\ntcp = [8443]\n")
	if plan, err := e.Plan(t.Context(), Order{}); err != nil || plan.Refused != "" {
		t.Errorf("plan in mode tunnel: %q, %v", plan.Refused, err)
	}
	if _, err := e.Apply(t.Context(), Order{}); err != nil || table.admits("104.16.0.1", 8443) {
		t.Errorf("apply in mode tunnel: %v", err)
	}
	if *asked != 0 {
		t.Error("asked though the ports are closed already")
	}
	if err := os.WriteFile(e.paths.Config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Apply(t.Context(), Order{}); err != nil || *asked != 0 || !table.admits("104.16.0.1", 443) {
		t.Errorf("back to mode cloudflare: %v, asked %d times", err, *asked)
	}
}

// Closed is safe: a daemon that starts, or finds the table gone, does not wait
// for cloudflared.
func TestTunnelDownAtTheStart(t *testing.T) {
	e, table, _ := newTunnelEngine(t, `"auto"`)
	table.table = nil
	d := &Daemon{engine: e, opts: Options{Log: e.log, Level: &slog.LevelVar{}}}
	if err := d.start(t.Context()); err != nil || table.admits("104.16.0.1", 443) || !table.admits("104.16.0.1", 22) {
		t.Errorf("the ports are open: %v", err)
	}
	s, err := e.Status(t.Context())
	if err != nil || s.Verdict != VerdictDegraded || !has(s.Problems, "tunnel-down", "no cloudflared answers") {
		t.Errorf("%s, %v, %v", s.Verdict, s.Problems, err)
	}
	table.table = nil
	if _, err := e.Pass(t.Context()); err != nil || table.admits("104.16.0.1", 443) {
		t.Errorf("the table is not put back: %v", err)
	}
}

func TestTunnelStatus(t *testing.T) {
	e, _, _ := newTunnelEngine(t, `"auto"`, 4, 0, 2)
	flow := cloudflared.Flow{Protocol: "udp", Remote: netip.MustParseAddrPort("198.41.192.7:7844"), Process: "cloudflared", Answered: true, Packets: 7}
	e.flows = func(context.Context) ([]cloudflared.Flow, error) { return []cloudflared.Flow{flow}, nil }
	if s, err := e.Status(t.Context()); err != nil || s.Tunnel != nil {
		t.Errorf("in mode cloudflare: %+v, %v", s.Tunnel, err)
	}
	if _, err := e.Apply(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	s, err := e.Status(t.Context())
	if err != nil || s.Tunnel == nil || s.Mode != firewall.ModeTunnel {
		t.Fatalf("%s, %+v, %v", s.Mode, s.Tunnel, err)
	}
	if s.Tunnel.Connections != 6 || len(s.Tunnel.Instances) != 3 || s.Tunnel.Instances[0].Connector != connector || !slices.Equal(s.Tunnel.Flows, []cloudflared.Flow{flow}) {
		t.Errorf("%+v", s.Tunnel)
	}
	for _, counter := range []string{"tunnel_tcp", "tunnel_udp"} {
		if _, ok := s.Counters[counter]; !ok {
			t.Errorf("no counter %s", counter)
		}
	}
	probed := 0
	e.probe = func(context.Context, []netip.Addr) []cloudflared.ProbeResult {
		probed++
		return []cloudflared.ProbeResult{{Protocol: "udp", Family: "IPv4", Address: netip.MustParseAddr("198.41.192.7"), Problem: "no route to it"}}
	}
	for _, c := range []struct {
		connections []int
		down        bool
		probes      int
	}{{[]int{4}, false, 0}, {nil, true, 0}, {[]int{0}, true, 1}} {
		probed = 0
		e.ready = func(context.Context, config.Ready) []cloudflared.Instance { return instances(c.connections...) }
		s, err := e.Status(t.Context())
		if err != nil || has(s.Problems, "tunnel-down", "no tunnel is up") != c.down || has(s.Problems, "edge-unreachable", "port 7844 of Cloudflare: udp 198.41.192.7: no route") != (c.probes > 0) {
			t.Errorf("%v connections: %v, %v", c.connections, s.Problems, err)
		}
		if probed != c.probes {
			t.Errorf("%v connections: %d probes, want %d", c.connections, probed, c.probes)
		}
	}
	e.flows = func(context.Context) ([]cloudflared.Flow, error) { return nil, errDown }
	if s, err := e.Status(t.Context()); err != nil || !has(s.Problems, "flows-unknown", errDown.Error()) {
		t.Errorf("%v, %v", s.Problems, err)
	}
}

// serveTunnel is a daemon in mode tunnel.
func serveTunnel(t *testing.T) (*Client, *Daemon, *fakeTable) {
	t.Helper()
	c, d, table, _ := serveTest(t)
	err := d.do(t.Context(), func(context.Context) { d.engine.table = modeTable{table} })
	writeFile(t, d.engine.paths.Config, tunnelConfig(`"auto"`))
	if err == nil {
		_, err = c.Reload(t.Context(), Order{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, d, table
}

// What does not answer holds up who asked, and nobody else.
func TestTunnelThatHangs(t *testing.T) {
	c, d, table := serveTunnel(t)
	hanging, release := make(chan struct{}, 1), make(chan struct{})
	if err := d.do(t.Context(), func(context.Context) {
		d.engine.ready = func(context.Context, config.Ready) []cloudflared.Instance {
			hanging <- struct{}{}
			<-release
			return instances(0)
		}
		d.engine.probe = func(context.Context, []netip.Addr) []cloudflared.ProbeResult { <-release; return nil }
	}); err != nil {
		t.Fatal(err)
	}
	answered := make(chan Status, 1)
	go func() {
		s, err := c.Status(context.WithoutCancel(t.Context()))
		if err != nil {
			t.Error(err)
		}
		answered <- s
	}()
	<-hanging
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	writeFile(t, d.engine.paths.Config, tunnelConfig(`"auto"`)+"[web]\ntcp = [8443]\n")
	if r, err := c.Reload(ctx, Order{}); err != nil || !r.Changed || table.admits("104.16.0.1", 8443) {
		t.Errorf("reload meanwhile: %v", err)
	}
	if p, err := c.Plan(ctx, Order{}); err != nil || !p.Empty {
		t.Errorf("plan meanwhile: %v", err)
	}
	if _, err := c.Why(ctx, Question{Source: netip.MustParseAddr("104.16.0.1")}); err != nil {
		t.Errorf("why meanwhile: %v", err)
	}
	select {
	case <-answered:
		t.Error("the status did not wait")
	default:
	}
	close(release)
	if s := <-answered; !has(s.Problems, "tunnel-down", "") {
		t.Errorf("%v", s.Problems)
	}
}

func TestTunnelMetrics(t *testing.T) {
	c, d, _ := serveTunnel(t)
	get := func() string {
		r := httptest.NewRecorder()
		d.metricsHandler().ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
		return r.Body.String()
	}
	text := get()
	for _, want := range []string{"\ncfwall_tunnel_connections 4\n", `mode="tunnel",ownership=""} 1`, `cfwall_packets_total{counter="tunnel_udp"} 0`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	for _, ready := range []string{tunnelConfig(`"off"`), "mode = \"cloudflare\"\n"} {
		writeFile(t, d.engine.paths.Config, ready)
		if _, err := c.Reload(t.Context(), Order{}); err != nil {
			t.Fatal(err)
		}
		if text := get(); strings.Contains(text, "cfwall_tunnel_connections") {
			t.Errorf("there is a number of connections with %s", ready)
		}
	}
}

// standIns play cloudflared at 127.0.0.1 of a host, each with a number of connections.
type standIns []atomic.Int64

func (s standIns) serve(t *testing.T, h *lab.Host, i int) {
	t.Helper()
	var l net.Listener
	var err error
	h.Do(func() { l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20241+i)) })
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := s[i].Load()
		if n == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, `{"status":200,"readyConnections":%d,"connectorId":%q}`, n, connector)
	})}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }()
}

// A real daemon asks real servers, closes, and stays closed when they go down.
func TestTunnelOfARealDaemon(t *testing.T) {
	s := newScene(t)
	dir := t.TempDir()
	c, process := startDaemonProcess(t, s.Web, dir, wish{})
	writeFile(t, pathsIn(dir).Config, tunnelConfig(`"auto"`))
	refused := func(says string) {
		t.Helper()
		_, err := c.Reload(t.Context(), Order{})
		expectNotReady(t, "reload", err, says)
	}
	answers := make(standIns, 2)
	refused("no cloudflared answers")
	answers.serve(t, s.Web, 0)
	refused("127.0.0.1:20241 runs, but is not connected")
	answers[1].Store(4)
	answers.serve(t, s.Web, 1)
	edge, tunnel := s.converse(t, "edge 443"), s.converse(t, "to tunnel 7844")
	if r, err := c.Reload(t.Context(), Order{}); err != nil || r.Cut != len(edge) {
		t.Errorf("%d connections are cut, %v", r.Cut, err)
	}
	for _, e := range edge {
		if !e.ended(t) {
			t.Errorf("%s has not ended", e.name)
		}
	}
	st, err := c.Status(t.Context())
	if err != nil || st.Tunnel == nil || st.Tunnel.Connections != 4 || len(st.Tunnel.Instances) != 2 || len(st.Tunnel.Flows) != len(tunnel) || has(st.Problems, "tunnel-down", "") {
		t.Errorf("%+v, %v, %v", st.Tunnel, st.Problems, err)
	}
	s.Client.Anycast(netip.MustParsePrefix("198.41.128.0/17")) // where a probe hears at once that nobody listens
	s.Client.Anycast(netip.MustParsePrefix("2606:4700::/32"))
	answers[1].Store(0)
	st, err = c.Status(t.Context())
	if err != nil || st.Verdict != VerdictDegraded || !has(st.Problems, "tunnel-down", "20242 runs, but is not connected") || len(st.Tunnel.Probes) != 4 {
		t.Errorf("%s, %+v, %v, %v", st.Verdict, st.Tunnel, st.Problems, err)
	}
	if err := errors.Join(process.Process.Signal(syscall.SIGTERM), process.Wait()); err != nil {
		t.Fatal(err)
	}
	s.Web.Nft(t, "delete table inet cfwall") // as after a boot
	startDaemonIn(t, s.Web, dir, wish{tunnel: true})
	if err := s.Client.Dial("tcp", callers["edge"][0], netip.AddrPortFrom(lab.Web4, 443), 200*time.Millisecond); !errors.Is(err, lab.ErrSilent) {
		t.Errorf("after the start port 443 is open: %v", err)
	}
	for _, c := range tunnel {
		if err := c.exchange(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
