package kernel

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/firewall"
)

// Flags and attributes that golang.org/x/sys/unix lacks
// (include/uapi/linux/netfilter/nf_tables.h).
const (
	tableOwner         = 7   // NFTA_TABLE_OWNER, Linux 5.12
	flagOwner          = 0x2 // NFT_TABLE_F_OWNER, Linux 5.12
	flagPersist        = 0x4 // NFT_TABLE_F_PERSIST, Linux 6.9
	holdFlags   uint32 = flagOwner | flagPersist
)

// holdFlagsOf are the flags of a table that is held so.
var holdFlagsOf = map[firewall.Hold]uint32{
	firewall.Orphan: flagPersist,
	firewall.Owned:  flagOwner | flagPersist,
}

// Hold makes this process the one that writes the table from now on, over one
// socket that stays open. Where the kernel can (Linux 6.9, or a back-port), plans
// then make the process the table's owner. The table survives it in any case.
//
// A process that is to hold the table should call this before it opens any other
// netlink socket: the first one has the process ID for its port, by which nft
// names the owner.
func (k *Kernel) Hold(ctx context.Context) error {
	c, err := k.dial()
	if err != nil {
		return classify("opening a netlink socket", err)
	}
	port, persists, err := probe(bound(ctx, c))
	if err != nil {
		c.Close()
		return err
	}
	k.writer, k.port, k.best = c, port, firewall.Plain
	if persists {
		k.best = firewall.Owned
	}
	return nil
}

// Outlive has plans make tables that the next owner can adopt, for a process
// that will not stay. Where the kernel cannot, they are plain.
func (k *Kernel) Outlive(ctx context.Context) error {
	c, err := k.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	_, persists, err := probe(c)
	if k.best = firewall.Plain; persists {
		k.best = firewall.Orphan
	}
	return err
}

// Port is the netlink port by which the process holds the table, 0 without Hold.
func (k *Kernel) Port() uint32 { return k.port }

// Close gives the table up; it stays as it is.
func (k *Kernel) Close() error {
	if k.writer == nil {
		return nil
	}
	return k.writer.Close()
}

// probe asks whether the kernel has tables that outlive their owners, and says
// which port the socket has. It sends a transaction without its end, as nft
// --check does: the kernel looks at it and does nothing.
func probe(c conn) (port uint32, persists bool, err error) {
	b := &batch{family: unix.NFPROTO_INET}
	b.bracket(unix.NFNL_MSG_BATCH_BEGIN, 0)
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Acknowledge, func(e *netlink.AttributeEncoder) {
		e.String(unix.NFTA_TABLE_NAME, firewall.TableName+"_probe")
		e.Uint32(unix.NFTA_TABLE_FLAGS, holdFlags)
	})
	sent, err := c.SendMessages(b.messages)
	if err != nil {
		return 0, false, classify("asking for tables with owners", err)
	}
	port = sent[0].Header.PID
	err = acknowledged(c, sent[1].Header.Sequence)
	// EINVAL before Linux 5.12, EOPNOTSUPP before 6.9, or without the family inet.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return port, false, nil
	}
	return port, err == nil, classify("asking for tables with owners", err)
}

// acknowledged waits for the answer to a message.
func acknowledged(c conn, sequence uint32) error {
	for {
		for m, err := range c.ReceiveIter() {
			if err != nil {
				return err
			}
			if m.Header.Type == netlink.Error && m.Header.Sequence == sequence {
				return nil
			}
		}
	}
}

// holdOf tells how a table with these flags is held.
func (k *Kernel) holdOf(flags, owner uint32) firewall.Hold {
	switch {
	case flags&flagOwner != 0 && owner == k.port && k.port != 0:
		return firewall.Owned
	case flags&flagOwner != 0:
		return firewall.Foreign
	case flags&flagPersist != 0:
		return firewall.Orphan
	default:
		return firewall.Plain
	}
}

// netfilterConn is a connection to the kernel that may be used again after a call failed.
type netfilterConn struct{ *netlink.Conn }

// Drain drops the answers that nobody has waited for: those to a transaction come
// one for each message that the kernel refused, and the first is enough to know.
func (c netfilterConn) Drain() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("draining a netlink socket: %w", err)
	}
	var dropped [1]byte
	return raw.Control(func(fd uintptr) {
		for err == nil || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
			_, _, err = unix.Recvfrom(int(fd), dropped[:], unix.MSG_DONTWAIT)
		}
	})
}
