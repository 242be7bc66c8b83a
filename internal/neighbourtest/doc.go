// Package neighbourtest holds no code but tests: they run cfwall on a host
// beside other firewalls, the real programs, and have each live its life while
// they look at the tables of the other.
package neighbourtest
