// Package sshd finds where SSH is served on this host and which sessions are
// open, so that no policy cuts the administrator off.
package sshd
