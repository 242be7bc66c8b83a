package config

import (
	"reflect"

	"github.com/cfwall/cfwall/ipranges"
)

// Equal reports whether two configurations mean the same.
func (c Config) Equal(other Config) bool {
	c.Ranges.Schedule, other.Ranges.Schedule = ipranges.Schedule{}, ipranges.Schedule{} // its text says all of it
	return reflect.DeepEqual(c, other)
}
