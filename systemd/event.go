package systemd

import (
	"context"
	"log/slog"
)

// An Event is what an administrator may search the log for, or want to be woken
// by. Its lines have one priority, a field CFWALL_EVENT and a MESSAGE_ID in the
// journal, and an explanation in the Catalog, which `journalctl -x` shows.
type Event int

// The events. What each means to whom it may concern is in the Catalog.
const (
	// How the host is.
	Protected Event = iota
	Degraded
	Unprotected
	Audit
	Opened

	// The daemon, its files and its log.
	Started
	Stopped
	StateFailed
	LinesLost

	// The config.
	ConfigLoaded
	ConfigRefused
	SSHLeftOpen
	TrialStarted
	TrialConfirmed
	TrialReverted

	// Other programs that change the table.
	Repaired
	RepairStorm

	// Who else may come.
	Allowed
	Disallowed

	// The list of Cloudflare's networks.
	ListChanged
	ListHeld
	ListStale
	FetchFailed

	// The tunnel.
	TunnelUp
	TunnelDown
)

// levelNotice is for what is right, and yet worth knowing. slog has no name for it.
const levelNotice = slog.LevelInfo + 2

// events tells each event's name, and MESSAGE_ID, which is never to change: others
// select by them. Warnings and errors are what somebody should look at.
var events = [...]struct {
	name, id string
	level    slog.Level
}{
	Protected:      {"protected", "52e1944ce6144e808fe2af569376eb51", slog.LevelInfo},
	Degraded:       {"degraded", "464c2002fb194fbc8239dc2f7f1f3c47", levelNotice}, // what is wrong has a line of its own
	Unprotected:    {"unprotected", "d2c2e6b0c658460db1c9d59356292a60", slog.LevelError},
	Audit:          {"audit", "9f4d293334764c3093847c8ddc89c3ba", slog.LevelWarn},
	Opened:         {"opened", "adbf550faf8a4c8eac87594874abd283", slog.LevelWarn},
	Started:        {"started", "1c26f293ebae4fbcb95b916075c30310", slog.LevelInfo},
	Stopped:        {"stopped", "0d137cc48ec24727b1d736587cd5ebf9", slog.LevelInfo},
	StateFailed:    {"state-failed", "674c66b22bc24b53aa0858536c0db6e3", slog.LevelError},
	LinesLost:      {"lines-lost", "3b6790d2c615457a94844bdcdc20c784", slog.LevelWarn},
	ConfigLoaded:   {"config-loaded", "11359c5a0d2348a1a5b4f06c6b28c96a", levelNotice},
	ConfigRefused:  {"config-refused", "cd104a8b277d4f818ce0c45593d98313", slog.LevelError},
	SSHLeftOpen:    {"ssh-left-open", "419f967253ec4fcaae3ad0ea882b375c", slog.LevelError},
	TrialStarted:   {"trial-started", "c184ec27f5cb479a968f90332b345d87", levelNotice},
	TrialConfirmed: {"trial-confirmed", "d369f8dcc0d1413895749082a199b2a2", levelNotice},
	TrialReverted:  {"trial-reverted", "97abba1acf584dcf87f58417b8a8ae8b", slog.LevelWarn},
	Repaired:       {"repaired", "74e70c69fd1647c7884b33f31683b155", slog.LevelWarn},
	RepairStorm:    {"repair-storm", "6ef3445874094b18991872a13295b2b6", slog.LevelError},
	Allowed:        {"allowed", "97659e6633e444f8b2000ecdc57ebdbf", levelNotice},
	Disallowed:     {"disallowed", "3968acbd6e5649fe9b8ca757fdaaff48", levelNotice},
	ListChanged:    {"list-changed", "0f5627ebdb7c42afba149d54e3a176ce", levelNotice},
	ListHeld:       {"list-held", "a0bfe33c28ce44d880e3c619bfa0cb07", slog.LevelWarn},
	ListStale:      {"list-stale", "2507a4afcf4f4c7b9f02c51ab0d82807", slog.LevelWarn},
	FetchFailed:    {"fetch-failed", "67ef93896c2c430ca275509a9cde3cd0", levelNotice}, // it is tried again
	TunnelUp:       {"tunnel-up", "6d55cc2d285d47cc96f8f318c056aea6", levelNotice},
	TunnelDown:     {"tunnel-down", "4de79fb438b14748af3f4fe2c942166c", slog.LevelWarn},
}

// String is the event's name.
func (e Event) String() string { return events[e].name }

// eventKey names the attribute that an event is.
const eventKey = "event"

// Log writes a line that tells of the event, with attributes as slog takes them.
func (e Event) Log(log *slog.Logger, message string, attributes ...any) {
	log.Log(context.Background(), events[e].level, message, append([]any{eventKey, e}, attributes...)...)
}
