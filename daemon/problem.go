package daemon

import (
	"errors"
	"fmt"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// Severity grades a problem.
type Severity string

// The severities, in rising order. A Warning does not change the verdict.
const (
	Warning     Severity = "warning"
	Degraded    Severity = "degraded"
	Unprotected Severity = "unprotected"
)

// A Problem is something that is not as it should be, and what to do about it.
type Problem struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Cure     string   `json:"cure"`
}

// The exit codes of every command.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2 // usage or config
	ExitDegraded    = 3
	ExitUnprotected = 4
	ExitReverted    = 5 // reverted, or waiting for `cfwall confirm`
)

// A Refusal is an error that a user sees: what failed, what to do next, and
// the command's exit code.
type Refusal struct {
	Err  error
	Hint string
	Exit int
}

func (r *Refusal) Error() string { return r.Err.Error() }

func (r *Refusal) Unwrap() error { return r.Err }

func refuse(exit int, hint, format string, args ...any) *Refusal {
	return &Refusal{Err: fmt.Errorf(format, args...), Hint: hint, Exit: exit}
}

// refusalOf is the Refusal within an error, or one made of it.
func refusalOf(err error) *Refusal {
	var refusal *Refusal
	if !errors.As(Explain(err), &refusal) {
		refusal = &Refusal{Err: err, Exit: ExitError}
	}
	return refusal
}

// inShort is an error whose own words say more than a user needs.
type inShort struct {
	text string
	error
}

func (e inShort) Error() string { return e.text }

func (e inShort) Unwrap() error { return e.error }

// Explain adds to an error what a user can do about it. A nil error stays nil.
func Explain(err error) error {
	var refusal *Refusal
	var configErrors config.Errors
	switch {
	case err == nil, errors.As(err, &refusal):
		return err
	case errors.As(err, &configErrors):
		return &Refusal{err, "nothing was changed; mend the file and run `cfwall check`", ExitUsage}
	case errors.Is(err, firewall.ErrEphemeralUDP):
		return &Refusal{err, "reserve the port: sysctl -w net.ipv4.ip_local_reserved_ports=PORT, or take it out of [web] udp", ExitUsage}
	case errors.Is(err, kernel.ErrPermission):
		brief := inShort{"no permission to see or change the firewall (CAP_NET_ADMIN is missing)", err}
		return &Refusal{brief, "run it as root (sudo cfwall ...), or grant CAP_NET_ADMIN", ExitError}
	case errors.Is(err, kernel.ErrUnsupported):
		return &Refusal{err, "use a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET, CONFIG_NFT_FIB_INET; check with: modprobe nf_tables", ExitError}
	case errors.Is(err, kernel.ErrTooBig):
		return &Refusal{err, "raise the limit: sysctl -w net.core.wmem_max=8388608", ExitError}
	default:
		return err
	}
}
