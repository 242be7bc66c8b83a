package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cfwall/cfwall/internal/lab"
)

// A script is a web host and the Internet around it.
type script struct {
	site    *lab.Site
	sandbox string      // the directory of what the commands may not do, and have done
	notices chan string // what the daemon tells systemd

	metrics     *http.Server // of cloudflared
	connections atomic.Int32 // to Cloudflare

	terminals map[string]*terminal
}

// patience is for a busy machine; a condition that comes true ends the wait.
const patience = 20 * time.Second

type command = func(ts *testscript.TestScript, neg bool, args []string)

// commands are what scripts can call besides testscript's own:
//
//	exits CODE COMMAND...       runs a command, which must end with that exit code
//	[!] waitfor REGEXP COMMAND  runs a command until its output matches, or not
//	notified REGEXP             waits until the daemon has told systemd that
//	signal HUP|TERM             goes to the commands in the background
//	listen ADDR[/udp]...        serves an echo on the web host
//	[!] visit ADDR PORT[/udp]   somebody on the Internet gets an answer, or none
//	listserver DIR              serves DIR as Cloudflare would, by https
//	cloudflared N               answers at 127.0.0.1:20241 as cloudflared with N connections does
//	serve :PORT                 somebody on the Internet serves an echo at every address
//	[!] reach ADDR PORT         the web host gets an answer from there, or is refused at once
//	terminal NAME COMMAND...    starts a command on a terminal of its own
//	shows NAME REGEXP           waits until that stands on the terminal
//	interrupt NAME              presses Ctrl-C there
//	hangup NAME                 takes the terminal away
//	sigkill NAME                kills the command
//	[!] ended NAME [CODE]       it ends with that exit code, or has not ended
func (s *script) commands() map[string]command {
	return map[string]command{
		"exits": exits, "waitfor": waitFor, "notified": s.notified, "signal": signalAll,
		"listen": s.listen, "visit": s.visit, "listserver": s.listServer,
		"cloudflared": s.cloudflared, "serve": s.serve, "reach": s.reach,
		"terminal": s.onTerminal, "shows": s.shows, "interrupt": s.interrupt, "press": s.press, "hangup": s.hangUp, "sigkill": s.sigkill, "ended": s.ended,
	}
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...) // its exit code is not asked for
		if want.MatchString(ts.ReadFile("stdout")) != neg {
			return
		}
	}
	ts.Fatalf("%v were not enough", patience)
}

// listenForNotices reads what the daemon tells systemd as soon as it comes:
// the daemon waits while nobody does.
func (s *script) listenForNotices(e *testscript.Env) error {
	path := filepath.Join(e.WorkDir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	e.Defer(func() { socket.Close() })
	e.Setenv("NOTIFY_SOCKET", path)
	s.notices = make(chan string, 10000)
	go func() {
		notice := make([]byte, 4096)
		for {
			n, err := socket.Read(notice)
			if err != nil {
				return // closed at the end of the script
			}
			s.notices <- string(notice[:n])
		}
	}()
	return nil
}

func (s *script) notified(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile("(?m)" + args[0])
	late := time.After(patience)
	for {
		select {
		case notice := <-s.notices:
			ts.Logf("notice: %s", notice)
			if want.MatchString(notice) {
				return
			}
		case <-late:
			ts.Fatalf("after %v there is still no notice %q", patience, args[0])
		}
	}
}

func signalAll(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}
	for _, c := range ts.BackgroundCmds() {
		ts.Check(c.Process.Signal(signals[args[0]]))
	}
}

func (s *script) listen(_ *testscript.TestScript, _ bool, args []string) {
	for _, a := range args {
		address, isUDP := strings.CutSuffix(a, "/udp")
		if isUDP {
			s.site.Web.ListenUDP(address)
		} else {
			s.site.Web.ListenTCP(address)
		}
	}
}

func (s *script) visit(ts *testscript.TestScript, neg bool, args []string) {
	from := netip.MustParseAddr(args[0])
	text, isUDP := strings.CutSuffix(args[1], "/udp")
	port, err := strconv.ParseUint(text, 10, 16)
	ts.Check(err)
	probe := lab.Probe{Network: "tcp", From: from, To: netip.AddrPortFrom(lab.Web4, uint16(port)), Admit: !neg}
	if isUDP {
		probe.Network = "udp"
	}
	if from.Is6() {
		probe.To = netip.AddrPortFrom(lab.Web6, uint16(port))
	}
	if r := s.site.Client.DialMany([]lab.Probe{probe})[0]; !r.Expected() {
		ts.Fatalf("%v: %v", r.Probe, r.Err)
	}
}

// hosts lets the web host find the names that a list comes from.
const hosts = "192.0.2.1 api.cloudflare.com www.cloudflare.com mirror.example.org\n"

func (s *script) listServer(ts *testscript.TestScript, _ bool, args []string) {
	certificate, err := lab.SelfSigned(ts.MkAbs("ca.pem"), strings.Fields(hosts)[1:]...)
	ts.Check(err)
	ts.Setenv("SSL_CERT_FILE", ts.MkAbs("ca.pem"))
	ts.Check(os.WriteFile("/etc/hosts", []byte(hosts), 0o600))

	var l net.Listener
	s.site.Client.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(lab.Client4, 443).String()) })
	ts.Check(err)
	server := &http.Server{
		Handler:   http.FileServer(http.Dir(ts.MkAbs(args[0]))),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		ErrorLog:  log.New(io.Discard, "", 0), // clients that are not convinced
	}
	go func() { _ = server.ServeTLS(l, "", "") }() // ends with Close
	ts.Defer(func() { server.Close() })
}

// cloudflared is started once, and told then how many connections it has.
func (s *script) cloudflared(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseInt(args[0], 10, 32)
	ts.Check(err)
	if s.connections.Swap(int32(n)); s.metrics != nil {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:20241")
	ts.Check(err)
	s.metrics = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, status := s.connections.Load(), http.StatusOK
		if n == 0 {
			status = http.StatusServiceUnavailable
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d,"readyConnections":%d,"connectorId":"0d9a1c1e-5b7f-4f6e-9c3a-2b1d4e5f6a7b"}`, status, n)
	})}
	go func() { _ = s.metrics.Serve(l) }() // ends with Close
	ts.Defer(func() { s.metrics.Close() })
}

func (s *script) serve(_ *testscript.TestScript, _ bool, args []string) {
	s.site.Client.ListenTCP(args[0])
}

func (s *script) reach(ts *testscript.TestScript, neg bool, args []string) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(args[0], args[1]), patience)
	if err == nil {
		c.Close()
	}
	if (err == nil) == neg || errors.Is(err, os.ErrDeadlineExceeded) {
		ts.Fatalf("%v: %v", args, err)
	}
}
