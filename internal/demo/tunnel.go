package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
)

// tunnelConfig closes the whole host: with a tunnel nobody needs to come in.
const tunnelConfig = `mode = "tunnel"

[web]
tcp = [80, 443, 8443]
udp = [443]

[inbound]
policy = "drop"
open = ["22/tcp from 198.51.100.0/24"]
`

// admittedInTunnel is what cfwall promises for tunnelConfig.
func admittedInTunnel(v visitor, s service) bool {
	return v.kind == local || s.port == 22 && v.from == stranger4
}

// startCloudflared answers as cloudflared does when its tunnel is up.
func (s *site) startCloudflared() {
	var l net.Listener
	var err error
	s.web.Do(func() { l, err = net.Listen("tcp", "127.0.0.1:20241") })
	if err != nil {
		s.t.Fatalf("standing in for cloudflared: %v", err)
	}
	const ready = `{"status":200,"readyConnections":4,"connectorId":"0d9a1c1e-5b7f-4f6e-9c3a-2b1d4e5f6a7b"}`
	go func() {
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, ready) }))
	}()
}

// switchToTunnel has the daemon take the other config over.
func (d *daemon) switchToTunnel() {
	d.startCloudflared()
	if err := os.WriteFile("/run/demo.toml", []byte(tunnelConfig), 0o600); err != nil {
		d.t.Fatalf("%v", err)
	}
	if out, err := d.run("reload"); err != nil {
		d.t.Fatalf("cfwall reload: %v\n%s", err, out)
	}
}
