package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// conn is a netlink connection; tests put faults between it and the kernel.
type conn interface {
	Send(netlink.Message) (netlink.Message, error)
	SendMessages([]netlink.Message) ([]netlink.Message, error)
	ReceiveIter() iter.Seq2[netlink.Message, error]
	SetDeadline(time.Time) error
	Drain() error
	Close() error
}

// Kernel is the nf_tables of one network namespace: that of the thread which
// calls. Every call opens a connection of its own, so no answer of an earlier
// call that failed can be taken for its own; but after Hold, changes go over one
// that stays open.
type Kernel struct {
	dial   func() (conn, error)
	writer conn // after Hold
	port   uint32
	best   firewall.Hold
}

// New returns the kernel's nf_tables.
func New() *Kernel { return &Kernel{dial: dialNetfilter} }

const (
	// timeout bounds one exchange with the kernel, which takes a second for lists
	// of 100,000 networks.
	timeout = 10 * time.Second
	// silence is how long to wait for the next message of an answer. The kernel
	// works while it takes a request, or while the answer is read, so what has not
	// come by then was lost; or this process had no processor for as long, and so
	// it looks a second time.
	silence = 250 * time.Millisecond
	// receiveSize holds the largest datagram that the kernel makes: 32 KiB of
	// a dump, or an error with the request in it (see listLimit).
	receiveSize = 64 << 10
	// socketBuffer takes a transaction of 100,000 networks and the answers to it.
	socketBuffer = 16 << 20
)

func dialNetfilter() (conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: receiveSize})
	if err != nil {
		return nil, err
	}
	// Without them the calls work too: errors then say less, or a large
	// transaction is refused with EMSGSIZE. NETLINK_CAP_ACK stays off: the
	// library cannot read extended errors without the whole request in them.
	_ = c.SetOption(netlink.ExtendedAcknowledge, true)
	_ = c.SetWriteBuffer(socketBuffer)
	_ = c.SetReadBuffer(socketBuffer)
	return netfilterConn{c}, nil
}

// open dials and bounds the exchange.
func (k *Kernel) open(ctx context.Context) (conn, error) {
	c, err := k.dial()
	if err != nil {
		return nil, classify("opening a netlink socket", err)
	}
	return bound(ctx, c), nil
}

// ask is for questions to other parts of the kernel that are answered at once.
func ask(family int, question netlink.Message) ([]netlink.Message, error) {
	answers, err := askOnce(family, question)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return askOnce(family, question)
	}
	return answers, err
}

func askOnce(family int, question netlink.Message) ([]netlink.Message, error) {
	c, err := netlink.Dial(family, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(silence)); err != nil {
		return nil, err
	}
	return c.Execute(question)
}

// A boundConn ends an exchange with its context, when it takes too long, or when
// the kernel says nothing any more.
type boundConn struct {
	conn
	until time.Time
}

func bound(ctx context.Context, c conn) boundConn {
	until := time.Now().Add(timeout)
	if d, ok := ctx.Deadline(); ok && d.Before(until) {
		until = d
	}
	return boundConn{c, until}
}

// renew gives the kernel time for its next word. Where that fails the socket is
// closed, and so the next read fails.
func (c boundConn) renew() {
	next := time.Now().Add(silence)
	if c.until.Before(next) {
		next = c.until
	}
	_ = c.SetDeadline(next)
}

func (c boundConn) Send(m netlink.Message) (netlink.Message, error) {
	c.renew()
	return c.conn.Send(m)
}

func (c boundConn) SendMessages(all []netlink.Message) ([]netlink.Message, error) {
	c.renew()
	return c.conn.SendMessages(all)
}

func (c boundConn) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		for range 2 {
			c.renew()
			silent := false
			for m, err := range c.conn.ReceiveIter() {
				if silent = errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(c.until); silent {
					break
				}
				c.renew()
				if !yield(m, err) {
					return
				}
			}
			if !silent {
				return
			}
		}
		yield(netlink.Message{}, errSilent)
	}
}

var errSilent = fmt.Errorf("the kernel says nothing: %w", os.ErrDeadlineExceeded)

// familyNumber is the NFPROTO_* of a table's family.
func familyNumber(f firewall.Family) byte {
	if f == firewall.FamilyIP {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_INET
}

// request makes a message of the nf_tables subsystem: struct nfgenmsg, then attributes.
func request(kind int, flags netlink.HeaderFlags, family byte, attributes []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind),
			Flags: netlink.Request | flags,
		},
		Data: append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...),
	}
}

// attributes encodes with network byte order, as nf_tables wants all numbers.
func attributes(fill func(*netlink.AttributeEncoder)) []byte {
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	fill(e)
	b, err := e.Encode()
	if err != nil {
		panic("kernel: encoding attributes: " + err.Error()) // only an attribute over 64 KiB; those are split before
	}
	return b
}
