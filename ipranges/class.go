package ipranges

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Class is the stable id of an outcome: it appears in the log, in the metrics
// and in `cfwall ranges`, and may be relied on by scripts.
type Class string

// What became of an answer that was read and understood.
const (
	ClassUnchanged      Class = "unchanged"       // the list in force is confirmed
	ClassAdded          Class = "added"           // networks were added
	ClassRemovalPending Class = "removal-pending" // networks are missing for the first time
	ClassRemoved        Class = "removed"         // networks were removed (and perhaps others added)
	ClassHeld           Class = "held"            // too large a change; waits for a human
	ClassDisagree       Class = "disagree"        // the API and the text pages differ
	ClassTextAlone      Class = "text-alone"      // networks are missing, but only the text pages say so
	ClassRolledBack     Class = "rolled-back"     // a human went back to the previous list
	ClassAccepted       Class = "accepted"        // a human accepted the held list
)

// Why there was no usable answer at all.
const (
	ClassBadSource Class = "bad-source" // the configured address is not an https URL
	ClassCanceled  Class = "canceled"   // cfwall itself gave up, because it stops
	ClassTimeout   Class = "timeout"    // not complete within the time allowed
	ClassDNS       Class = "dns"        // the host name did not resolve
	ClassNetwork   Class = "network"    // no connection, or it broke before the answer began
	ClassTLS       Class = "tls"        // the server could not prove who it is
	ClassRedirect  Class = "redirect"   // redirected too often, or away from the host or from https
	ClassStatus    Class = "http-status"
	ClassUnframed  Class = "unframed"  // the answer does not say how long it is, so a cut would not show
	ClassTooLarge  Class = "too-large" // the body is larger than any real list
	ClassTruncated Class = "truncated" // the answer ends too early
	ClassOther     Class = "error"     // none of these
)

// Why an answer was refused.
const (
	ClassEmpty            Class = "empty"
	ClassHTML             Class = "html" // an error, challenge or login page
	ClassBadJSON          Class = "bad-json"
	ClassNotSuccess       Class = "not-success" // the API says that the request failed
	ClassOneFamilyMissing Class = "one-family-missing"
	ClassWrongFamily      Class = "wrong-family" // IPv6 among IPv4 or the other way round
	ClassChinaMissing     Class = "china-network-missing"
	ClassBadCIDR          Class = "bad-cidr"
	ClassHostBits         Class = "host-bits" // "104.16.0.1/13", or a prefix length cut short
	ClassNotRoutable      Class = "not-routable"
	ClassTooWide          Class = "too-wide"
	ClassTooMany          Class = "too-many"
	ClassTooMuchSpace     Class = "too-much-space"
)

// Error is the refusal of an answer, or the reason why there was none.
type Error struct {
	Class Class
	Err   error
}

// Error is safe to print: what it quotes was said by whoever answered.
func (e *Error) Error() string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, e.Err.Error())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func refuse(class Class, format string, args ...any) error {
	return &Error{Class: class, Err: fmt.Errorf(format, args...)}
}

// classOf is the class of the outermost Error in a chain.
func classOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return ClassOther
}
