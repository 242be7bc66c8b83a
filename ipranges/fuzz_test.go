package ipranges

import (
	"bytes"
	"strings"
	"testing"
)

// What ParseJSON takes can be fetched, stored and read back.
func FuzzParseJSON(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		list, etag, err := ParseJSON(body)
		if err != nil {
			if classOf(err) == ClassOther || list.Len() > 0 || etag != "" {
				t.Fatalf("%v %q with %v", list, etag, err)
			}
			return
		}
		if len(list.V4()) == 0 || len(list.V6()) == 0 || !bytes.HasSuffix(bytes.TrimRight(body, " \t\r\n"), []byte("}")) {
			t.Fatalf("%q was read as %v", body, list)
		}
		if Plausible(list) == nil {
			survives(t, list)
		}
	})
}

// survives offers a list and stores what comes of it.
func survives(t *testing.T, list List) {
	t.Helper()
	b, _ := Book{Current: Embedded()}.Offer(api(list), maxChange, start)
	if err := Plausible(b.Current.List); err != nil {
		t.Fatal(err)
	}
	d := newMemDisk()
	save(t, d.store(), b)
	if back := load(t, d.store()); !back.Current.List.Equal(b.Current.List) {
		t.Fatalf("stored %v, read %v", b.Current.List, back.Current.List)
	}
}

// What ParseText takes is, line by line, what it returns, and a page that it
// takes is no page of the other family.
func FuzzParseText(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ParseText(body)
		if err != nil {
			if classOf(err) == ClassOther || got != nil {
				t.Fatalf("%v with %v", got, err)
			}
			return
		}
		lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
		if len(lines) != len(got) {
			t.Fatalf("%d lines of %q were read as %v", len(lines), body, got)
		}
		for i, n := range got {
			if n != n.Masked() || n.Addr().Is4() != got[0].Addr().Is4() || !strings.HasSuffix(lines[i], n.String()[strings.Index(n.String(), "/"):]) {
				t.Fatalf("%q was read as %v", lines[i], n)
			}
		}
		NewList(got...) // must not panic
	})
}

// Whatever the files hold, there is a plausible list, an unusable current list
// is said, and the next Save mends everything. Files with a correct checksum
// are reached by sealing the input.
func FuzzStoreLoad(f *testing.F) {
	f.Fuzz(func(t *testing.T, current, previous, book []byte, sealed bool) {
		d := newMemDisk()
		for name, content := range map[string][]byte{"current": current, "previous": previous, "book": book} {
			if sealed {
				content = seal(content)
			}
			d.put(name, content)
		}
		b, problems := d.store().Load()
		if err := b.Current.check(); err != nil {
			t.Fatalf("in force: %v", err)
		}
		if b.Previous.List.Len() > 0 && b.Previous.check() != nil {
			t.Fatalf("previous: %v", b.Previous)
		}
		if _, err := d.store().loadRecord("current"); (err != nil) != (len(problems) > 0 && strings.Contains(problems[0].Text, "/current ")) {
			t.Fatalf("%v, and problems %+v", err, problems)
		}
		b, _ = b.Offer(api(Embedded().List), maxChange, start)
		if _, _, err := b.Accept(start); err == nil {
			b, _, _ = b.Accept(start)
		}
		save(t, d.store(), b)
		if back, _ := d.store().Load(); !back.Current.List.Equal(b.Current.List) || Plausible(back.Current.List) != nil {
			t.Fatalf("saved %v, read %v", b.Current, back.Current)
		}
	})
}

// No expression makes the parser panic or the schedule stand still.
func FuzzParseSchedule(f *testing.F) {
	f.Fuzz(func(t *testing.T, expr string) {
		s, err := ParseSchedule(expr)
		if err != nil {
			return
		}
		for _, failures := range []int{0, 1, 1 << 30} {
			b := Book{Failures: failures}.Plan(s, start, func() float64 { return 0.5 })
			if !b.NextAt.After(start) {
				t.Fatalf("%q: after %d failures at %v", expr, failures, b.NextAt)
			}
		}
	})
}
