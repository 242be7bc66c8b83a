package daemon

import "path/filepath"

// Paths says where the daemon's files are.
type Paths struct {
	Config  string // the configuration file
	State   string // directory of what must survive a reboot
	Runtime string // directory of what must not

	// ConfigToCome has a config file that is missing mean the default, whatever was
	// there before: a new one is about to be written.
	ConfigToCome bool
}

// DefaultPaths follow the Filesystem Hierarchy Standard.
var DefaultPaths = Paths{Config: "/etc/cfwall/config.toml", State: "/var/lib/cfwall", Runtime: "/run/cfwall"}

func (p Paths) ranges() string     { return filepath.Join(p.State, "ranges") }
func (p Paths) allow() string      { return filepath.Join(p.State, "allow.json") }
func (p Paths) off() string        { return filepath.Join(p.State, "off.json") }
func (p Paths) forced() string     { return filepath.Join(p.State, "forced.json") }
func (p Paths) trial() string      { return filepath.Join(p.State, "confirm.json") }
func (p Paths) lastConfig() string { return filepath.Join(p.State, "last-config.toml") }
func (p Paths) lock() string       { return filepath.Join(p.Runtime, "lock") }
func (p Paths) socket() string     { return filepath.Join(p.Runtime, "control.sock") }
