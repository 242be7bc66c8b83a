package kernel

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/procfs"
)

// A Change is one that a program made to a table of our name, in this network namespace.
type Change struct {
	// Port is the netlink port that it came by, PID and Program who sent it, as
	// the first PID namespace numbers it.
	Port    uint32
	PID     int
	Program string
}

// A RulesWatch gathers changes of our table until they are taken. Those of other
// tables it says nothing of: a program may make thousands of them a second.
type RulesWatch struct {
	news chan struct{}

	mu      sync.Mutex
	changes []Change
	lost    bool

	touched bool // a table of ours, by the transaction that is being read
}

// News has a word when there is something to take. It is closed when the watch
// has ended: with its context, or because its socket failed.
func (w *RulesWatch) News() <-chan struct{} { return w.news }

// Take returns the changes since the last call. Lost says that there were more,
// of which nothing is known.
func (w *RulesWatch) Take() (changes []Change, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes, lost = w.changes, w.lost
	w.changes, w.lost = nil, false
	return changes, lost
}

// watchBuffer holds the events of a transaction of some 10,000 elements, in bytes.
const watchBuffer = 8 << 20

// WatchRules tells of changes of our table, whoever makes them, until the
// context ends.
func WatchRules(ctx context.Context) (*RulesWatch, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: receiveSize})
	if err != nil {
		return nil, classify("opening a netlink socket", err)
	}
	_ = c.SetReadBuffer(watchBuffer) // with less, more is lost
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		c.Close()
		return nil, classify("watching the ruleset", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	w := newRulesWatch()
	go func() {
		defer stop()
		defer c.Close()
		w.run(c)
	}()
	return w, nil
}

func newRulesWatch() *RulesWatch { return &RulesWatch{news: make(chan struct{}, 1)} }

// receiver is the part of a netlink connection that a watch needs.
type receiver interface {
	Receive() ([]netlink.Message, error)
}

// run reads until the socket fails. ENOBUFS is no failure: the kernel had more to
// tell than the socket could hold.
func (w *RulesWatch) run(c receiver) {
	defer close(w.news)
	for {
		messages, err := c.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		if err != nil {
			w.touched = false
			w.note(nil)
		}
		for _, m := range messages {
			w.message(m)
		}
	}
}

const endOfTransaction = netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN)

// message takes a part of what the kernel tells about a transaction: what was
// changed, object by object, and at its end who did it.
func (w *RulesWatch) message(m netlink.Message) {
	if m.Header.Type != endOfTransaction {
		w.touched = w.touched || isAboutOurs(m)
		return
	}
	if !w.touched {
		return
	}
	w.touched = false
	f := messageFields(m)
	w.note(&Change{
		Port: m.Header.PID, PID: int(f.number(unix.NFTA_GEN_PROC_PID)), Program: procfs.Printable(f.text(unix.NFTA_GEN_PROC_NAME)),
	})
}

// isAboutOurs looks for the name of the table alone: one transaction may have tens
// of thousands of messages, of which none is ours.
func isAboutOurs(m netlink.Message) bool {
	var broken bool
	for kind, value := range eachAttribute(m.Data[min(len(m.Data), sizeofNfgenmsg):], &broken) {
		if kind == tableAttribute {
			return string(bytes.TrimRight(value, "\x00")) == firewall.TableName
		}
	}
	return false
}

// mostChanges bounds what waits to be taken.
const mostChanges = 64

// note keeps a change, or that one was lost. It never waits: the kernel's buffer
// would fill up meanwhile.
func (w *RulesWatch) note(c *Change) {
	w.mu.Lock()
	if c == nil || len(w.changes) == mostChanges {
		w.lost = true
	} else {
		w.changes = append(w.changes, *c)
	}
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default: // there is a word that nobody has read yet
	}
}
