package daemon

import (
	"errors"
	"sync"
	"time"

	"github.com/cfwall/cfwall/resolvers"
)

// A patient reader waits a second for files that may lie on a disk or network
// which does not answer, and remembers what they said before.
type patient struct {
	read func() (resolvers.Found, error)

	mu      sync.Mutex
	pending chan nameservers // of a reading that is not done, nil: none
	late    bool             // it was waited for already
	last    nameservers
}

type nameservers struct {
	found resolvers.Found
	err   error
}

const longestRead = time.Second

var errNoAnswer = errors.New("the files that name DNS servers cannot be read: the disk does not answer")

func (p *patient) resolvers() (resolvers.Found, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending == nil {
		pending := make(chan nameservers, 1)
		p.pending = pending
		go func() {
			found, err := p.read()
			pending <- nameservers{found, err}
		}()
	}
	if !p.arrives() {
		p.late = true
		return p.last.found, errNoAnswer
	}
	p.pending, p.late = nil, false
	return p.last.found, p.last.err
}

// arrives waits for the pending reading, if it was not waited for before.
func (p *patient) arrives() bool {
	if p.late {
		select {
		case p.last = <-p.pending:
			return true
		default:
			return false
		}
	}
	select {
	case p.last = <-p.pending:
		return true
	case <-time.After(longestRead):
		return false
	}
}
