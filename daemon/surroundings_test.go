package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/lab"
	"github.com/cfwall/cfwall/sshd"
)

// This program is also what tests start in a host: a server that listens at the
// addresses in one variable, or the daemon with its files in the directory that
// another names.
const (
	serverStandIn = "CFWALL_TEST_LISTENS"
	daemonStandIn = "CFWALL_TEST_DAEMON"
	plainStandIn  = "CFWALL_TEST_PLAIN" // as on a kernel without owners of tables
)

func TestMain(m *testing.M) {
	if file, ok := os.LookupEnv(bootStandIn); ok {
		playBoot(file)
	}
	if dir, ok := os.LookupEnv(tryStandIn); ok {
		playTry(dir)
	}
	if addresses, ok := os.LookupEnv(serverStandIn); ok {
		playServer(strings.Fields(addresses))
	}
	if dir, ok := os.LookupEnv(daemonStandIn); ok {
		playDaemon(dir)
	}
	if dir, ok := os.LookupEnv(callerStandIn); ok {
		playCaller(dir)
	}
	if dir, ok := os.LookupEnv(churnStandIn); ok {
		playChurn(dir)
	}
	os.Exit(lab.Main(m))
}

// playServer echoes at "NETWORK=ADDRESS" what comes in, until a signal ends it.
func playServer(addresses []string) {
	for _, a := range addresses {
		network, address, _ := strings.Cut(a, "=")
		l, err := net.Listen(network, address)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		go echoAll(l)
	}
	fmt.Println("ready")
	select {}
}

func echoAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(c, c) }()
	}
}

func playDaemon(dir string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	o := Options{Paths: pathsIn(dir), Log: log, Level: &slog.LevelVar{}}
	if _, plain := os.LookupEnv(plainStandIn); plain {
		o.wrap = func(t Table) Table { return plainTable{t} }
	}
	if err := Run(ctx, o); err != nil {
		log.Error(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// plainTable is the table as on a kernel without owners of tables.
type plainTable struct{ Table }

func (t plainTable) Read(ctx context.Context, f firewall.Family) (firewall.State, error) {
	s, err := t.Table.Read(ctx, f)
	s.Best = firewall.Plain
	return s, err
}

func pathsIn(dir string) Paths {
	return Paths{Config: filepath.Join(dir, "config.toml"), State: filepath.Join(dir, "state"), Runtime: filepath.Join(dir, "run")}
}

// play starts this program in a host, under a name, and waits for a word.
func play(t *testing.T, h *lab.Host, name, variable, word string, more ...string) *exec.Cmd {
	t.Helper()
	program := filepath.Join(t.TempDir(), name) // a process is named after the link
	if err := os.Symlink("/proc/self/exe", program); err != nil {
		t.Fatal(err)
	}
	return playProgram(t, h, program, variable, word, more...)
}

// playProgram starts this program from a file of its own.
func playProgram(t *testing.T, h *lab.Host, program, variable, word string, more ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Env = slices.Concat(os.Environ(), []string{variable}, more)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Start(cmd)
	var said []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if said = append(said, lines.Text()); strings.Contains(lines.Text(), word) {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return cmd
		}
	}
	t.Fatalf("%s ends without %q:\n%s", program, word, strings.Join(said, "\n"))
	return nil
}

func startServer(t *testing.T, h *lab.Host, name, addresses string) {
	t.Helper()
	play(t, h, name, serverStandIn+"="+addresses, "ready")
}

// newLabEngine makes an engine that looks at the host that it is used in. The
// Internet is not there, and the DNS servers are not this machine's.
func newLabEngine(t *testing.T, w wish) *Engine {
	t.Helper()
	e := NewEngine(pathsIn(t.TempDir()), "test", slog.New(slog.DiscardHandler))
	e.fetcher = &fakeFetcher{answer: down}
	e.resolvers = testResolvers
	e.LoadState()
	writeFile(t, e.paths.Config, w.text())
	return e
}

// applyIn applies a wish in a host.
func applyIn(t *testing.T, h *lab.Host, e *Engine, w wish, o Order) (r Report, err error) {
	t.Helper()
	writeFile(t, e.paths.Config, w.text())
	h.Do(func() { r, err = e.Apply(t.Context(), o) })
	return r, err
}

// dial connects from an address of a host, or any.
func dial(t *testing.T, h *lab.Host, from netip.Addr, to string) *net.TCPConn {
	t.Helper()
	dialer := net.Dialer{Timeout: 3 * time.Second}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	var c net.Conn
	var err error
	h.Do(func() { c, err = dialer.Dial("tcp", to) })
	if err != nil {
		t.Fatalf("%s to %s: %v", from, to, err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// echoes reports whether what one end sends comes back to it.
func echoes(c *net.TCPConn) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// newSite is a site with a VPN, wg0, whose client has the addresses of everybody.
func newSite(t *testing.T) *lab.Site {
	t.Helper()
	lab.Kernel(t)
	s := lab.NewSite(t)
	s.Net.Connect(s.Client, "wg0", s.Web, "wg0")
	for i, h := range []*lab.Host{s.Web, s.Client} {
		h.Addr("wg0", netip.MustParsePrefix(fmt.Sprintf("10.8.0.%d/24", i+1)))
		h.Addr("wg0", netip.MustParsePrefix(fmt.Sprintf("fd00:8::%d/64", i+1)))
	}
	for _, caller := range []string{"edge", "stranger", "friend", "tunnel"} {
		for _, a := range callers[caller] {
			s.Client.Addr("lo", netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return s
}

// callers are those that connect to the web host, and that it connects to.
var callers = map[string][]netip.Addr{
	"edge":     {netip.MustParseAddr("104.16.0.1"), netip.MustParseAddr("2606:4700::1")},
	"tunnel":   {netip.MustParseAddr("198.41.192.7"), netip.MustParseAddr("2606:4700:a0::1")},
	"stranger": {netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:bad::7")},
	"friend":   {netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8:f::7")},
	"vpn":      {netip.MustParseAddr("10.8.0.2"), netip.MustParseAddr("fd00:8::2")},
}

// What the kernel says of real servers and real sessions.
func TestLockoutOnARealHost(t *testing.T) {
	web := func(port int) string { return fmt.Sprintf("192.0.2.2:%d", port) }
	web6 := func(port int) string { return fmt.Sprintf("[2001:db8::2]:%d", port) }
	for _, c := range []struct {
		name            string
		program, listen string
		caller, to      string // of a session
		wish            wish
		port            uint16 // that is refused, 0: none
		says            string
	}{
		{"on 443", "sshd", "tcp4=0.0.0.0:443", "", "", wish{}, 443, takeOut},
		{"on 443 in mode tunnel", "sshd", "tcp=:443", "stranger", web(443), wish{tunnel: true}, 443, takeOut},
		{"sslh on a guarded port", "sslh-ev", "tcp=:8443", "", "", wish{ports: []string{"8000-9000"}}, 8443, "sslh-ev"},
		{"on 2222, and 22 open", "sshd", "tcp=:2222", "", "", wish{drop: true, open: []string{"22/tcp"}}, 2222, add + `"2222/tcp"`},
		{"dropbear on 2222", "dropbear", "tcp6=[::]:2222", "", "", wish{drop: true, open: []string{"2222/udp"}}, 2222, "dropbear"},
		{"by IPv6 alone, from IPv4", "sshd", "tcp6=[::]:2222", "", "", wish{drop: true, open: []string{"2222/tcp from 192.0.2.0/24"}}, 2222, add},
		{"systemd listens on 22", "systemd", "tcp=:22", "", "", wish{drop: true}, 22, add + `"22/tcp"`},
		{"a session from elsewhere", "sshd", "tcp=:22", "stranger", web(22), wish{drop: true, open: []string{"22/tcp from 203.0.113.0/24"}}, 22, "an SSH session from 198.51.100.7"},
		{"a session by IPv6", "sshd", "tcp=:22", "stranger", web6(22), wish{drop: true, open: []string{"22/tcp from 198.51.100.0/24"}}, 22, `"22/tcp from 2001:db8:bad::7"`},
		{"a session by an interface that is not trusted", "sshd", "tcp=:22", "vpn", "10.8.0.1:22", wish{drop: true, open: []string{"22/tcp from 203.0.113.0/24"}}, 22, `"22/tcp from 10.8.0.2"`},
		{"a session by a trusted interface", "sshd", "tcp=:22", "vpn", "10.8.0.1:22", wish{drop: true, tunnel: true, interfaces: []string{"wg0"}}, 0, ""},
		{"on loopback", "sshd", "tcp4=127.0.0.1:443", "", "", wish{drop: true}, 0, ""},
		{"a web server", "nginx", "tcp=:443", "", "", wish{tunnel: true}, 0, ""},
		{"a session that may stay", "sshd", "tcp=:2222", "friend", web6(2222), wish{drop: true, open: []string{"2222/tcp from 2001:db8:f::/48"}, outboundDrop: true}, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			startServer(t, s.Web, c.program, c.listen)
			c.wish.more = "[tunnel]\nready = \"off\"\n"
			e := newLabEngine(t, c.wish)
			var session *net.TCPConn
			if c.to != "" {
				session = dial(t, s.Client, sameFamily(c.caller, c.to), c.to)
			}
			var check error
			s.Web.Do(func() { _, check = e.Check(t.Context(), Order{}, false) })
			r, apply := applyIn(t, s.Web, e, c.wish, Order{})
			for way, err := range map[string]error{"check": check, "apply": apply} {
				if c.port != 0 {
					expectRefusal(t, way, err, c.port, c.says)
				} else if err != nil {
					t.Errorf("%s: %v", way, err)
				}
			}
			if (c.port == 0) != r.Changed {
				t.Errorf("the table has changed: %v", r.Changed)
			}
			if session != nil {
				if err := echoes(session); err != nil {
					t.Errorf("the session: %v", err)
				}
			}
		})
	}
}

// sameFamily is a caller's address of the family of a target.
func sameFamily(caller, target string) netip.Addr {
	if netip.MustParseAddrPort(target).Addr().Is4() {
		return callers[caller][0]
	}
	return callers[caller][1]
}

// What is forced is done: the session ends. The next command is not forced.
func TestLockoutByForceOnARealHost(t *testing.T) {
	s := newSite(t)
	startServer(t, s.Web, "sshd", "tcp=:2222")
	w := wish{drop: true, open: []string{"22/tcp"}}
	e := newLabEngine(t, w)
	c := dial(t, s.Client, callers["stranger"][0], "192.0.2.2:2222")
	own := sshd.Session{Local: addrPort(c.RemoteAddr()), Remote: addrPort(c.LocalAddr())}
	_, err := applyIn(t, s.Web, e, w, Order{Session: own})
	expectRefusal(t, "apply", err, 2222, "your SSH session from 198.51.100.7")
	if err := echoes(c); err != nil {
		t.Errorf("the session: %v", err)
	}
	if r, err := applyIn(t, s.Web, e, w, Order{Session: own, Force: true}); err != nil || r.Cut != 1 {
		t.Errorf("--force: %d connections are cut, %v", r.Cut, err)
	}
	if err := echoes(c); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the session was to end, and not to hang: %v", err)
	}
	r, err := applyIn(t, s.Web, e, w, Order{})
	expectRefusal(t, "the next", err, 2222, add)
	if r.Changed {
		t.Error("it has changed the table")
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	p := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// A daemon that starts where SSH listens on a guarded port leaves that open.
func TestLockoutAtTheStartOnARealHost(t *testing.T) {
	s := newSite(t)
	startServer(t, s.Web, "sshd", "tcp=:443 tcp=:80")
	w := wish{ports: []string{"80", "443", "8443"}, drop: true, open: []string{"5432/tcp"}}
	startServer(t, s.Web, "nginx", "tcp=:8443 tcp=:25")
	client := startDaemonIn(t, s.Web, t.TempDir(), w)
	st, err := client.Status(t.Context())
	if err != nil || st.Guarded.TCP != "8443" || st.Verdict != VerdictDegraded {
		t.Errorf("guarded %s, %s, %v", st.Guarded.TCP, st.Verdict, err)
	}
	var probes []lab.Probe
	for _, a := range callers["stranger"] {
		for port, admit := range map[uint16]bool{443: true, 80: true, 8443: false, 25: false} {
			to := netip.AddrPortFrom(lab.Web4, port)
			if a.Is6() {
				to = netip.AddrPortFrom(lab.Web6, port)
			}
			probes = append(probes, lab.Probe{Network: "tcp", From: a, To: to, Admit: admit})
		}
	}
	for _, r := range lab.Unexpected(s.Client.DialMany(probes)) {
		t.Errorf("%s: %v", r.Probe, r.Err)
	}
}

// startDaemonIn starts a daemon in a host and finds it.
func startDaemonIn(t *testing.T, h *lab.Host, dir string, w wish) *Client {
	t.Helper()
	client, _ := startDaemonProcess(t, h, dir, w)
	return client
}

func startDaemonProcess(t *testing.T, h *lab.Host, dir string, w wish) (*Client, *exec.Cmd) {
	t.Helper()
	writeFile(t, pathsIn(dir).Config, w.text())
	cmd := play(t, h, "cfwall", daemonStandIn+"="+dir, `msg="protected`)
	client, err := Dial(pathsIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	return client, cmd
}

func TestSinceBoot(t *testing.T) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	seconds, _, _ := strings.Cut(string(text), " ")
	uptime, err := time.ParseDuration(seconds + "s")
	if after := sinceBoot() - uptime; err != nil || after < 0 || after > time.Minute {
		t.Errorf("%v, and /proc/uptime says %q (%v)", sinceBoot(), text, err)
	}
}
