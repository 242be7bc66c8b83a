package daemon

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cfwall/cfwall/resolvers"
)

// A disk that does not answer is waited for once, and what it said before holds.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make(chan resolvers.Found)
		p := &patient{read: func() (resolvers.Found, error) { return <-answers, nil }}
		first := resolvers.Found{File: "first", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}
		go func() { answers <- first }()
		if got, err := p.resolvers(); err != nil || got.File != "first" {
			t.Fatalf("%v, %v", got, err)
		}
		for i, longest := range []time.Duration{longestRead, 0, 0} {
			start := time.Now()
			got, err := p.resolvers()
			if !errors.Is(err, errNoAnswer) || got.File != "first" || time.Since(start) > longest {
				t.Errorf("%d: %v, %v after %v", i, got, err, time.Since(start))
			}
		}
		answers <- resolvers.Found{File: "second"}
		synctest.Wait()
		if got, err := p.resolvers(); err != nil || got.File != "second" {
			t.Errorf("%v, %v", got, err)
		}
	})
}
