// Package resolvers reads which DNS servers this host asks, and tells when
// that changes.
package resolvers
