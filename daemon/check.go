package daemon

import (
	"fmt"

	"github.com/cfwall/cfwall/config"
	"github.com/cfwall/cfwall/firewall"
)

// Check reads the configuration file and says whether it can be in force on
// this host. Remarks name what works, but perhaps not as one would think.
func (e *Engine) Check() (c config.Config, remarks []string, err error) {
	c, _, err = e.readConfig()
	if err != nil {
		return c, nil, err
	}
	if err := e.conflict(c.Policy, false); err != nil {
		return c, nil, err
	}
	host, err := e.host()
	if err != nil {
		return c, nil, err
	}
	if risky := firewall.RepliesAt(c.Policy.TCP, host); len(risky) > 0 {
		remarks = append(remarks, fmt.Sprintf("[web] tcp %s: this host, or hosts behind it, also use these ports for connections of their own, so that only new connections are filtered there", firewall.JoinPorts(risky)))
	}
	return c, remarks, nil
}
