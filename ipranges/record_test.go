package ipranges

import (
	"testing"
	"time"
)

func TestEmbeddedIsTheRecordedList(t *testing.T) {
	r := Embedded()
	if err := r.check(); err != nil {
		t.Fatal(err)
	}
	list, etag, err := ParseJSON(recorded(t, "api-ips.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !r.List.Equal(list) || r.ETag != etag || r.From != FromEmbedded {
		t.Errorf("embedded %v, recorded %v %s", r, list, etag)
	}
	if want := time.Date(2026, 10, 2, 0, 0, 0, 0, time.UTC); !r.FetchedAt.Equal(want) {
		t.Errorf("dated %v, want %v", r.FetchedAt, want)
	}
	if len(r.List.V4()) != 15 || len(r.List.V6()) != 7 || space(r.List.v4) != 1524736 {
		t.Errorf("%d IPv4 networks with %v addresses, %d IPv6 networks", len(r.List.V4()), space(r.List.v4), len(r.List.V6()))
	}
}

// The three recordings are of the same list.
func TestRecordedTextPages(t *testing.T) {
	v4, err := ParseText(recorded(t, "ips-v4.txt"))
	if err != nil {
		t.Fatal(err)
	}
	v6, err := ParseText(recorded(t, "ips-v6.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if list := NewList(append(v4, v6...)...); !list.Equal(Embedded().List) {
		t.Errorf("the text pages hold %v", list)
	}
}
