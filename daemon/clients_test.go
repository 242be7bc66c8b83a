package daemon

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// listenLimited accepts as the daemon does, and calls every other client a reader.
func listenLimited(t *testing.T, most func(int) (string, int)) (accepted chan net.Conn, dial func() net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c := limit(l, most)
	accepted = make(chan net.Conn, 1000)
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	return accepted, func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// Readers without number leave room for root; who leaves makes room.
func TestReadersCannotLockRootOut(t *testing.T) {
	kind := make(chan bool, 1000) // who comes next is root
	accepted, dial := listenLimited(t, func(int) (string, int) {
		if isRoot := <-kind; isRoot {
			return controlLimit(0)
		}
		return controlLimit(4242)
	})
	come := func(isRoot bool) net.Conn { kind <- isRoot; return dial() }
	for range 500 {
		come(false)
	}
	come(true)
	var in []net.Conn
	for range mostOfReaders + 1 {
		in = append(in, <-accepted)
	}
	in[0].Close()
	in[0].Close() // twice is once
	come(false)
	<-accepted
	refused := come(false)
	if err := refused.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := refused.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("one too many is let in: %d, %v", n, err)
	}
}

func TestControlLimitKnowsWhoItIs(t *testing.T) {
	accepted, dial := listenLimited(t, controlLimit)
	dial()
	conn := <-accepted
	if uid := peer(withPeer(t.Context(), conn)); uid != os.Getuid() {
		t.Errorf("the peer is %d", uid)
	}
	for uid, most := range map[int]int{0: mostOfRoot, os.Getuid(): mostOfRoot, 4242: mostOfReaders, -1: mostOfReaders} {
		if _, got := controlLimit(uid); got != most {
			t.Errorf("user %d: %d, want %d", uid, got, most)
		}
	}
}

// Clients that say nothing, or do not read their answer, cost a bounded number
// of descriptors, and others are served.
func TestClientsThatHang(t *testing.T) {
	c, d, table, _ := serveTest(t)
	address := freeAddress(t)
	writeFile(t, d.engine.paths.Config, "[metrics]\nlisten = \""+address+"\"\n")
	if _, err := c.Reload(t.Context(), Order{}); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	dialed := 0
	say := func(network, address, what string) {
		conn, err := net.Dial(network, address)
		if err != nil {
			return // the backlog is full
		}
		dialed++
		t.Cleanup(func() { conn.Close() })
		_, _ = conn.Write([]byte(what)) // it may be closed already
	}
	const ask = "POST /v1/status HTTP/1.1\r\nHost: cfwall\r\nContent-Length: 2\r\n\r\n{}"
	for range mostOfRoot - 4 { // this test is the daemon's own user: it leaves room for itself
		say("unix", d.engine.paths.socket(), ask)
	}
	for range 300 {
		say("tcp", address, "")
		say("tcp", address, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
	}
	writeFile(t, d.engine.paths.Config, "[web]\ntcp = [8443]\n[metrics]\nlisten = \""+address+"\"\n")
	if _, err := c.Reload(t.Context(), Order{}); err != nil || table.admits("198.51.100.7", 8443) {
		t.Errorf("reload: %v", err)
	}
	if most := before + dialed + mostOfRoot + mostScrapers + 10; descriptors(t) > most {
		t.Errorf("%d descriptors are open, %d before, %d of them clients'", descriptors(t), before, dialed)
	}
}

// descriptors counts the open ones of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A verb of a client that has gone before the loop came to it is not carried out.
func TestClientThatHasGone(t *testing.T) {
	c, d, table, _ := serveTest(t)
	busy, free := make(chan struct{}), make(chan struct{})
	go func() { _ = d.do(t.Context(), func(context.Context) { close(busy); <-free }) }()
	<-busy
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := c.Off(ctx, 0); gone <- err }()
	waitFor(t, "the request to wait for the loop", func() bool { return requests(t, d) > 0 })
	cancel()
	if err := <-gone; err == nil {
		t.Error("it was carried out while the loop was busy")
	}
	waitFor(t, "the request to be given up", func() bool { return requests(t, d) == 0 })
	close(free)
	if s, err := c.Status(t.Context()); err != nil || s.Off != nil || table.table == nil {
		t.Errorf("off was carried out for nobody: %+v, %v", s.Off, err)
	}
}

// requests counts the connections of clients.
func requests(t *testing.T, d *Daemon) int {
	t.Helper()
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " "+d.engine.paths.socket()+"\n") - 1 // the listener
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for range 3000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

// A config that is a pipe which nobody writes to is refused, and no disk is
// said to hang.
func TestConfigIsAPipeThatNobodyWritesTo(t *testing.T) {
	c, d, table, _ := serveTest(t)
	path := d.engine.paths.Config
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reload(t.Context(), Order{}); err == nil || refusalOf(err).Hint == "" {
		t.Errorf("reload: %v", err)
	}
	s, err := c.Status(t.Context())
	if err != nil || !has(s.Problems, "config-refused", path) || has(s.Problems, "disk-hangs", "") || s.Verdict == VerdictUnprotected || table.admits("198.51.100.7", 443) {
		t.Errorf("status: %v, %v", s.Problems, err)
	}
}
