package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// The few ways in which the kernel fails us; callers use errors.Is.
var (
	// ErrPermission: the process has no CAP_NET_ADMIN. It is fs.ErrPermission.
	ErrPermission = fmt.Errorf("no permission to change the firewall (CAP_NET_ADMIN is missing): %w", fs.ErrPermission)
	// ErrForeign: another process holds the table, so that nobody else can change it.
	ErrForeign = errors.New("the table inet cfwall is held by another process")
	// ErrBusy: other programs changed the ruleset meanwhile; read again and
	// make a new plan.
	ErrBusy = errors.New("the ruleset changed meanwhile")
	// ErrUnsupported: this kernel lacks nf_tables or something that rules need.
	ErrUnsupported = errors.New("this kernel lacks a part of nf_tables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_FIB_INET)")
	// ErrUncertain: the kernel did not answer, or not clearly. What was sent
	// may have been carried out; only reading tells.
	ErrUncertain = errors.New("the kernel gave no clear answer")
	// ErrTooBig: one transaction is larger than the socket's send buffer may be.
	ErrTooBig = errors.New("the change is larger than the socket buffer (net.core.wmem_max)")
	// ErrRefused: the kernel refused the transaction; nothing was changed.
	ErrRefused = errors.New("the kernel refused the change")
)

// classify turns what a system call or the kernel answered into one of the
// errors above. A nil error stays nil.
func classify(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", doing, sentinel(err), err)
}

func sentinel(err error) error {
	var errno unix.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrUncertain
	case !errors.As(err, &errno):
		return ErrUncertain
	}
	switch errno {
	case unix.EPERM, unix.EACCES:
		return ErrPermission
	case unix.ERESTART, unix.EBUSY:
		return ErrBusy
	case unix.EOPNOTSUPP, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EPFNOSUPPORT:
		return ErrUnsupported
	case unix.EMSGSIZE:
		return ErrTooBig
	case unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EAGAIN:
		return ErrUncertain
	default:
		return ErrRefused
	}
}
