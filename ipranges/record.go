package ipranges

import (
	_ "embed" // the list that is always there
	"encoding/json"
	"fmt"
	"time"
)

//go:generate go run ./internal/gen 2026-10-02 testdata/api-ips.json

//go:embed embedded.json
var embedded []byte

// Record is a list and how it was come by.
type Record struct {
	List      List      `json:"list"`
	From      string    `json:"from"` // FromAPI, FromText or FromEmbedded
	ETag      string    `json:"etag,omitempty"`
	FetchedAt time.Time `json:"fetched_at"`
}

// Embedded returns the list that this program was built with, and the date on
// which it was recorded: the floor, for a host that has never reached the
// source and has no list on disk.
func Embedded() Record {
	var r Record
	if err := json.Unmarshal(embedded, &r); err != nil {
		panic("ipranges: the embedded list: " + err.Error())
	}
	return r
}

// check says why a record is not to be used.
func (r Record) check() error {
	switch r.From {
	case FromAPI, FromText, FromEmbedded:
		return Plausible(r.List)
	}
	return fmt.Errorf("%q is not a source of lists", r.From)
}
