package systemd

import _ "embed" // the files below

// Files that make the daemon a service. The program is at /usr/sbin/cfwall in
// them.
var (
	//go:embed cfwall.service
	ServiceUnit string
	//go:embed cfwall.sysusers
	SystemUser string
)
