package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/internal/durable"
)

// state is what must survive a reboot besides the list: temporary entries, what
// was closed by force, and whether an administrator has switched the firewall off.
type state struct {
	allowed []entry
	forced  []Forced
	off     offSwitch

	counted bool // from now on by the clock of this boot, and that is not on disk yet
}

// An entry is a network that is let in for a while.
type entry struct {
	Network netip.Prefix `json:"network"`
	Expires deadline     `json:"expires"`
}

// offSwitch says that `cfwall off` was called.
type offSwitch struct {
	Since time.Time `json:"since,omitzero"` // zero: not off
	Until deadline  `json:"until,omitzero"` // zero: until `cfwall on`
}

// Off says that `cfwall off` was called.
type Off struct {
	Since time.Time `json:"since,omitzero"` // zero: not off
	Until time.Time `json:"until,omitzero"` // zero: until `cfwall on`
}

func (o offSwitch) at(m moment) Off { return Off{o.Since, o.Until.at(m)} }

func loadState(d durable.Disk, p Paths, m moment) (s state, err error) {
	errAllow, errOff := loadJSON(d, p.allow(), &s.allowed), loadJSON(d, p.off(), &s.off)
	if errOff != nil {
		s.off = offSwitch{} // half of it would be worse than none: closed is safe
	}
	errForced := loadJSON(d, p.forced(), &s.forced)
	if errForced != nil {
		s.forced = nil // SSH is left open rather than closed for what cannot be read
	}
	s.counted = s.off.Until.elsewhere(m) || slices.ContainsFunc(s.allowed, func(e entry) bool { return e.Expires.elsewhere(m) })
	s.off.Until = s.off.Until.here(m)
	usable := slices.DeleteFunc(slices.Clone(s.allowed), func(e entry) bool { return !isNetwork(e.Network) })
	err = errors.Join(errAllow, errOff, errForced)
	if len(usable) < len(s.allowed) {
		err = errors.Join(err, fmt.Errorf("reading %s: it holds what is no network", p.allow()))
	}
	for i, e := range usable {
		if usable[i].Expires = e.Expires.here(m); e.Expires.left(m) > longestAllow {
			usable[i].Expires = m.in(longestAllow)
		}
	}
	s.allowed = usable
	return s, err
}

// isNetwork holds for what can be an entry: not for nothing, everybody, or an
// IPv4 network written as IPv6.
func isNetwork(n netip.Prefix) bool { return n.IsValid() && n.Bits() > 0 && !n.Addr().Is4In6() }

func loadJSON(d durable.Disk, path string, into any) error {
	b, err := d.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

func saveJSON(d durable.Disk, path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	return durable.Write(d, path, append(b, '\n'))
}

// current returns the entries that have not expired, sorted by network.
func (s state) current(m moment) []firewall.Temporary {
	left := []firewall.Temporary{} // in JSON an empty list, not null
	for _, e := range s.live(m) {
		left = append(left, firewall.Temporary{Network: e.Network, Expires: e.Expires.at(m)})
	}
	slices.SortFunc(left, func(a, b firewall.Temporary) int { return a.Network.Compare(b.Network) })
	return left
}

func (s state) live(m moment) []entry {
	return slices.DeleteFunc(slices.Clone(s.allowed), func(e entry) bool { return e.Expires.left(m) <= 0 })
}

func (s state) isOff(m moment) bool {
	return !s.off.Since.IsZero() && (s.off.Until.isZero() || s.off.Until.left(m) > 0)
}

// nextChange is how long it is until an entry expires or the firewall comes back
// on; forever if neither does.
func (s state) nextChange(m moment) time.Duration {
	next := forever
	if s.isOff(m) && !s.off.Until.isZero() {
		next = s.off.Until.left(m)
	}
	for _, e := range s.live(m) {
		next = min(next, e.Expires.left(m))
	}
	return next
}

// forever is longer than any machine runs.
const forever = 100 * 365 * 24 * time.Hour

func (s state) withAllowed(e entry, m moment) []entry {
	return append(without(s.live(m), e.Network), e)
}

func without(entries []entry, network netip.Prefix) []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.Network == network })
}
