package daemon

import (
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A limited listener bounds its connections, for each kind of client by
// itself: those who may only read cannot keep root out. What is over the bound
// is closed at once, so that it costs no descriptor.
type limited struct {
	net.Listener
	most func(uid int) (kind string, most int)

	mu  sync.Mutex
	now map[string]int
}

const (
	mostOfRoot    = 32 // commands of root at once
	mostOfReaders = 8  // of all other users together: each waits for the loop
	mostScrapers  = 16 // connections for metrics
)

func limit(l net.Listener, most func(uid int) (string, int)) *limited {
	return &limited{Listener: l, most: most, now: make(map[string]int)}
}

// controlLimit bounds the connections of the control socket by who it is.
func controlLimit(uid int) (string, int) {
	if writing(nil).admits(uid) {
		return "root", mostOfRoot
	}
	return "readers", mostOfReaders
}

func metricsLimit(int) (string, int) { return "scrapers", mostScrapers }

// Accept implements net.Listener.
func (c *limited) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid := peerOfSocket(conn)
		kind, most := c.most(uid)
		if c.enters(kind, most) {
			return &member{Conn: conn, uid: uid, leave: sync.OnceFunc(func() { c.leaves(kind) })}, nil
		}
		conn.Close()
	}
}

func (c *limited) enters(kind string, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now[kind] >= most {
		return false
	}
	c.now[kind]++
	return true
}

func (c *limited) leaves(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now[kind]--
}

// A member is a connection that counts until it is closed.
type member struct {
	net.Conn
	uid   int // of the user at the other end
	leave func()
}

func (m *member) Close() error {
	defer m.leave()
	return m.Conn.Close()
}

// peerOfSocket is the user at the other end (SO_PEERCRED, unix(7)).
func peerOfSocket(c net.Conn) int {
	uid := unknown
	local, ok := c.(*net.UnixConn)
	if !ok {
		return uid
	}
	if raw, err := local.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				uid = int(cred.Uid)
			}
		})
	}
	return uid
}

// The bounds of a server's time. An answer may wait for a fetch and for the loop.
const (
	longestRequest = 5 * time.Second
	longestAnswer  = clientTimeout + longestRequest
)
