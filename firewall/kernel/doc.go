// Package kernel carries rulesets to the kernel over netlink and reads back
// what is really there.
package kernel
