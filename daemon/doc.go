// Package daemon decides when to enforce the policy and says how it went: the
// loop, one pass, health, and the control socket.
package daemon
