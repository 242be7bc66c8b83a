package daemon

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/firewall/kernel"
)

// WouldBe lists what passes only because audit = true: the latest first.
type WouldBe struct {
	Dropped  []Stranger `json:"dropped"`
	Rejected []Rejected `json:"rejected"` // what this host sent
}

// A Stranger is somebody whose packets the policy does not admit.
type Stranger struct {
	Protocol string     `json:"protocol"`
	Source   netip.Addr `json:"source"`
	Port     uint16     `json:"port"` // of this host
	Packets  uint64     `json:"packets"`
	Last     time.Time  `json:"last"`
}

// addAudit lists what audit = true lets pass. That is no part of the verdict,
// so it may be missing.
func (e *Engine) addAudit(ctx context.Context, s *Status, h firewall.Host) {
	if !e.config.Policy.Audit {
		return
	}
	s.WouldBe = &WouldBe{Dropped: []Stranger{}, Rejected: []Rejected{}}
	family := familyOf(h)
	dropped, err := e.table.Remembered(ctx, family, firewall.WouldBeDropped+"4", firewall.WouldBeDropped+"6")
	rejected, errRejected := e.table.Remembered(ctx, family, firewall.WouldBeRejected+"4", firewall.WouldBeRejected+"6")
	if err := errors.Join(err, errRejected); err != nil {
		e.log.Warn("what audit lets pass could not be listed", "error", err)
	}
	for _, r := range dropped {
		s.WouldBe.Dropped = append(s.WouldBe.Dropped, Stranger{r.Protocol, r.Peer.Addr(), r.Peer.Port(), r.Packets, r.Last})
	}
	for _, r := range rejected {
		s.WouldBe.Rejected = append(s.WouldBe.Rejected, Rejected{r.Protocol, r.Peer, r.Packets, r.Last})
	}
}

func (e *Engine) auditProblems() []Problem {
	if !e.config.Policy.Audit {
		return nil
	}
	return []Problem{{"audit", Unprotected,
		"audit = true: nothing is dropped; what the policy would drop is counted, and passes",
		"set audit = false in " + e.paths.Config + ", then: cfwall reload"}}
}

// withoutAudit says what would keep a config that is being tried out from being
// put in force in earnest.
func (e *Engine) withoutAudit(ctx context.Context, c config.Config, o Order) []Problem {
	if !c.Policy.Audit {
		return nil
	}
	c.Policy.Audit = false
	_, err := e.refused(ctx, c, o)
	if err == nil || errors.Is(err, kernel.ErrPermission) {
		return nil
	}
	return []Problem{{"audit-hides", Warning, "without audit = true this config would be refused: " + err.Error(), cureOf(err)}}
}
