// Package config reads cfwall's configuration file, strictly, into values that
// the rest of the program can use as they are.
package config
