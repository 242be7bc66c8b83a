// Command bench compares cfwall with nft, the standard tool, on the kernel of
// this machine and in network namespaces of its own.
package main
