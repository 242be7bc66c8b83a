package daemon

import (
	"context"
	"time"

	"github.com/cfwall/cfwall/cloudflared"
	"github.com/cfwall/cfwall/firewall"
	"github.com/cfwall/cfwall/systemd"
)

// A tunnelWatch is what was last seen of the tunnel, so that the log can tell when
// it goes down, and when it is up again.
type tunnelWatch struct {
	asking bool
	next   time.Time // when to look again
	up     bool
	missed int // looks in a row that found nobody connected
}

// missedLooks is after how many the tunnel counts as down: at boot it comes up
// after the daemon, and cloudflared may be on its way to another version.
const missedLooks = 2

// watchTunnel asks cloudflared now and then, outside of the loop.
func (d *Daemon) watchTunnel(ctx context.Context) {
	c, now := d.engine.config, time.Now()
	if c.Policy.Mode != firewall.ModeTunnel || c.Tunnel.Ready.Off {
		d.tunnel = tunnelWatch{asking: d.tunnel.asking}
		return
	}
	if d.tunnel.asking || now.Before(d.tunnel.next) {
		return
	}
	d.tunnel.asking, d.tunnel.next = true, now.Add(sweepInterval)
	ask := d.engine.ready
	go func() {
		all := ask(ctx, c.Tunnel.Ready)
		_ = d.do(ctx, func(context.Context) {
			d.tunnel.asking = false
			d.tunnelSeen(all)
		})
	}()
}

func (d *Daemon) tunnelSeen(all []cloudflared.Instance) {
	w, why := &d.tunnel, notReady(all)
	if why == "" {
		if !w.up {
			systemd.TunnelUp.Log(d.opts.Log, "the tunnel is up")
		}
		w.up, w.missed = true, 0
		return
	}
	if w.missed++; w.missed == missedLooks {
		w.up = false
		systemd.TunnelDown.Log(d.opts.Log, "no tunnel is up: "+why)
	}
}
