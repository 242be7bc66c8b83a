// Package firewall turns a policy and lists of networks into the ruleset that
// enforces them, and says what would change in the kernel. It is pure: no
// input, no output, no netlink.
package firewall
