package systemd

import _ "embed" // the files below

// Files that make the daemon a service. The program is at /usr/sbin/cfwall in
// them.
var (
	//go:embed cfwall.service
	ServiceUnit string
	// SystemUser is for sysusers.d(5).
	//go:embed cfwall.sysusers
	SystemUser string
	// StateDirectory is for tmpfiles.d(5).
	//go:embed cfwall.tmpfiles
	StateDirectory string
	// Catalog explains each Event: see `journalctl -x`.
	//go:embed cfwall.catalog
	Catalog string
)
