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
	allowed []firewall.Temporary
	forced  []Forced
	off     Off
}

// Off says that `cfwall off` was called.
type Off struct {
	Since time.Time `json:"since,omitzero"` // zero: not off
	Until time.Time `json:"until,omitzero"` // zero: until `cfwall on`
}

func loadState(p Paths) (s state, err error) {
	errAllow, errOff := loadJSON(p.allow(), &s.allowed), loadJSON(p.off(), &s.off)
	if errOff != nil {
		s.off = Off{} // half of it would be worse than none: closed is safe
	}
	errForced := loadJSON(p.forced(), &s.forced)
	if errForced != nil {
		s.forced = nil // SSH is left open rather than closed for what cannot be read
	}
	err = errors.Join(errAllow, errOff, errForced)
	latest := time.Now().Add(longestAllow)
	for i, t := range s.allowed {
		if t.Expires.After(latest) {
			s.allowed[i].Expires = latest
		}
	}
	usable := slices.DeleteFunc(slices.Clone(s.allowed), func(t firewall.Temporary) bool { return !isNetwork(t.Network) })
	if len(usable) < len(s.allowed) {
		err = errors.Join(err, fmt.Errorf("reading %s: it holds what is no network", p.allow()))
	}
	s.allowed = usable
	return s, err
}

// isNetwork holds for what can be an entry: not for nothing, everybody, or an
// IPv4 network written as IPv6.
func isNetwork(n netip.Prefix) bool { return n.IsValid() && n.Bits() > 0 && !n.Addr().Is4In6() }

func loadJSON(path string, into any) error {
	b, err := durable.OS{}.Read(path)
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

func saveJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	return durable.Write(durable.OS{}, path, append(b, '\n'))
}

// current returns the entries that have not expired, sorted by network.
func (s state) current(now time.Time) []firewall.Temporary {
	left := append([]firewall.Temporary{}, s.allowed...) // in JSON an empty list, not null
	left = slices.DeleteFunc(left, func(t firewall.Temporary) bool { return !t.Expires.After(now) })
	slices.SortFunc(left, func(a, b firewall.Temporary) int { return a.Network.Compare(b.Network) })
	return left
}

func (s state) isOff(now time.Time) bool {
	return !s.off.Since.IsZero() && (s.off.Until.IsZero() || now.Before(s.off.Until))
}

// nextChange is when an entry expires or the firewall comes back on; zero if never.
func (s state) nextChange(now time.Time) time.Time {
	next := time.Time{}
	if s.isOff(now) {
		next = s.off.Until
	}
	for _, t := range s.current(now) {
		if next.IsZero() || t.Expires.Before(next) {
			next = t.Expires
		}
	}
	return next
}

func (s state) withAllowed(t firewall.Temporary, now time.Time) []firewall.Temporary {
	return append(without(s.current(now), t.Network), t)
}

func without(entries []firewall.Temporary, network netip.Prefix) []firewall.Temporary {
	return slices.DeleteFunc(slices.Clone(entries), func(t firewall.Temporary) bool { return t.Network == network })
}
