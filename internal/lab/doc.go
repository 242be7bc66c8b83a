// Package lab makes test hosts in network namespaces of this machine, as root
// or as any user who may make user namespaces, and the traffic between them.
package lab
