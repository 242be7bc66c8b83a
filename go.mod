module github.com/cfwall/cfwall

go 1.26.0

// Each direct dependency is a decision; its reason stands beside it.
require (
	// sd_notify, watchdog interval, the native journal protocol, and systemd over D-Bus for install
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/fsnotify/fsnotify v1.10.1 // inotify: the host's DNS servers are followed without polling
	github.com/godbus/dbus/v5 v5.2.4 // D-Bus, by which go-systemd speaks: the types of its errors and properties
	// The tag v0.3.0 loses elements silently above 1,638 prefixes and commits half-built batches; this
	// commit encodes expressions and set metadata correctly. Only its encoders are used: its readers
	// ignore interrupted dumps.
	github.com/google/nftables v0.3.1-0.20251119083706-1db35da82052
	github.com/mdlayher/netlink v1.11.2 // netlink sockets; v1.10.0 to v1.11.1 are retracted by their author for receive faults
	github.com/pelletier/go-toml/v2 v2.4.3 // strict TOML with positions in its errors
	github.com/robfig/cron/v3 v3.0.1 // the schedule of the list, in the syntax administrators know
	// diff: how the config file differs from the config in force. Its testscript has command tests read
	// as a manual.
	github.com/rogpeppe/go-internal v1.16.0
	github.com/spf13/cobra v1.10.2 // commands, help and shell completion
	github.com/spf13/pflag v1.0.9 // the flags that cobra is built on, for our own help
	go4.org/netipx v0.0.0-20260823151212-3075585bcbeb // arithmetic on sets of addresses: merge, union, difference
	golang.org/x/sys v0.49.0 // kernel constants that the standard library lacks
	golang.org/x/time v0.16.0 // a token bucket: how often changes by others are put right at once
)

// Test dependencies.
require (
	github.com/elastic/go-seccomp-bpf v1.6.0 // the unit's system call filter, for the commands that the scripts run
	github.com/google/go-cmp v0.7.0 // readable differences
	github.com/vishvananda/netlink v1.3.1 // links, addresses and routes of the test hosts
	github.com/vishvananda/netns v0.0.5 // the namespaces the test hosts live in
	pgregory.net/rapid v1.3.0 // property tests
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/mdlayher/socket v0.6.0 // indirect
	golang.org/x/net v0.53.0 // indirect
	golang.org/x/sync v0.20.0 // indirect
	golang.org/x/tools v0.26.0 // indirect
)
