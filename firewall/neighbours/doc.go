// Package neighbours finds out which rule of another program's tables would
// drop a host's traffic, by walking through them as the kernel does.
package neighbours
