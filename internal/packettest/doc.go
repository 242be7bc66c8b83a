// Package packettest holds no code but tests: they put rulesets in force on
// hosts made of namespaces and send real packets at them, friendly and hostile.
package packettest
