// Package systemd is cfwall's life under systemd: it tells the service manager
// how the daemon is and writes to the journal.
package systemd
