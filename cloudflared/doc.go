// Package cloudflared finds Cloudflare's tunnel client on this host and asks
// whether its tunnel is up, and whether it could be.
package cloudflared
