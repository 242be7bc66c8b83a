package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
	"github.com/cfwall/cfwall/internal/durable"
	"github.com/cfwall/cfwall/sshd"
)

// The daemon of the unit is not root. It does not see whose a socket is, who has
// logged in by SSH and who only knocks, and what of sshd's configuration only
// root may read. So root's commands tell it, and one of them is run before it.

// NewOrder is the order of whoever runs this process. What root sees of SSH goes
// with it.
func NewOrder() Order {
	o := Order{Session: OwnSession()}
	if os.Geteuid() == 0 {
		o.SSH, _ = lookAtSSH(o.Session) // without it the daemon looks for itself
	}
	return o
}

// mostSessions bounds an order: nobody needs to hear of more that would be cut.
const mostSessions = 4096

func lookAtSSH(own sshd.Session) (*sshd.Host, error) {
	listeners, errListeners := kernel.Listeners()
	connections, errConnections := kernel.Connections()
	found, errFiles := patiently(newPatient("the disk", sshPatience), "the files of sshd", func(context.Context) (sshd.Host, error) {
		return sshd.Find("", listeners, connections, own)
	})
	if err := errors.Join(errListeners, errConnections, errFiles); err != nil {
		return nil, fmt.Errorf("looking for SSH on this host: %w", err)
	}
	found.Sessions = found.Sessions[:min(len(found.Sessions), mostSessions)]
	return &found, nil
}

func (p Paths) rootView() string { return filepath.Join(p.Runtime, "ssh.json") }

// Survey leaves what root sees of SSH for a daemon that is about to start.
func Survey(p Paths) error {
	if err := untrusted(p.Runtime); err != nil {
		return err
	}
	found, err := lookAtSSH(sshd.Session{})
	if err != nil {
		return err
	}
	return durable.AsOwner(p.Runtime, func() error { return saveJSON(durable.OS{}, p.rootView(), found) })
}

// readSurvey takes what a survey has left, once: it is true for that start. Nil
// where none was made. Root sees for itself, and believes nothing that the daemon's
// user may have left.
func (e *Engine) readSurvey() *sshd.Host {
	var found *sshd.Host
	_, err := patiently(newPatient("the disk", startPatience), e.paths.rootView(), func(context.Context) (none struct{}, err error) {
		text, err := e.disk.Read(e.paths.rootView())
		if err != nil {
			return none, err
		}
		return none, errors.Join(json.Unmarshal(text, &found), e.disk.Remove(e.paths.rootView()))
	})
	if err != nil {
		return nil
	}
	return found
}

// sshFor is what is known of SSH for an order: what root has told, or else what
// this process sees.
func (e *Engine) sshFor(p firewall.Policy, o Order) (sshd.Host, error) {
	if o.SSH != nil {
		return *o.SSH, nil
	}
	return e.ssh(p, o.Session)
}
