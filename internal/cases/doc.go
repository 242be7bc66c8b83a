// Package cases holds the situations in which tests of several packages put
// the firewall: written down in testdata/cases, or drawn at random.
package cases
