// Package systemdtest holds no code but tests: they boot machines, each with a
// systemd of its own as PID 1, and have cfwall live there while strangers knock
// on its doors.
package systemdtest
