// Package ipranges knows which networks are Cloudflare's: what a list is,
// where it comes from, whether to believe it, and the last good one on disk.
package ipranges
