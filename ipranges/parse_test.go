package ipranges

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// envelope wraps entries as the API does.
func envelope(v4, v6 string) string {
	return `{"result":{"ipv4_cidrs":[` + v4 + `],"ipv6_cidrs":[` + v6 + `],"etag":"0123abcd"},"success":true,"errors":[],"messages":[]}`
}

const good4, good6 = `"104.16.0.0/13"`, `"2606:4700::/32"`

// badJSON holds answers of the API that must be refused, most of them as the
// whole body of a 200 answer; client_test.go serves them.
var badJSON = []struct {
	name, body string
	class      Class
}{
	{"nothing", "", ClassEmpty},
	{"white space", " \r\n\t\n", ClassEmpty},
	{"challenge page", "<!DOCTYPE html><html><title>Just a second...</title><script src=\"/challenge/v1.0.1.1\"></script></html>", ClassHTML},
	{"login page after blank lines", "\n\n <HTML><form action=\"http://10.0.0.1/login\">", ClassHTML},
	{"XML", `<?xml version="1.0"?><ips/>`, ClassHTML},
	{"plain text", "Service unavailable", ClassBadJSON},
	{"a list in text", "104.16.0.0/13\n2606:4700::/32\n", ClassBadJSON},
	{"single quotes", strings.ReplaceAll(envelope(good4, good6), `"`, `'`), ClassBadJSON},
	{"comment", "/* list */" + envelope(good4, good6), ClassBadJSON},
	{"trailing comma", envelope(good4+",", good6), ClassBadJSON},
	{"two documents", envelope(good4, good6) + envelope(good4, good6), ClassBadJSON},
	{"bracket too many", envelope(good4, good6) + "}", ClassBadJSON},
	{"web page after the document", envelope(good4, good6) + "\n<!-- cached -->", ClassBadJSON},
	{"byte order mark", "\ufeff" + envelope(good4, good6), ClassBadJSON},
	{"UTF-16", string(utf16(envelope(good4, good6))), ClassBadJSON},
	{"NUL at the end", envelope(good4, good6) + "\x00", ClassBadJSON},
	{"NUL in an entry", envelope("\"104.16.0.0/13\x00\"", good6), ClassBadJSON},
	{"invalid UTF-8", envelope(good4, good6+`,"`+"\xff"+`"`), ClassBadJSON},
	{"deep nesting", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), ClassBadJSON},
	{"nesting in a field that is not used", strings.Replace(envelope(good4, good6), `"messages":[]`, `"messages":`+strings.Repeat("[", 9)+strings.Repeat("]", 9), 1), ClassBadJSON},
	{"duplicate key", strings.Replace(envelope(good4, good6), `"success":true`, `"success":true,"success":true`, 1), ClassBadJSON},
	{"duplicate list, spelt with an escape", strings.Replace(envelope(good4, good6), `"etag"`, `"ipv4\u005fcidrs":["8.0.0.0/9"],"etag"`, 1), ClassBadJSON},
	{"null", "null", ClassBadJSON},
	{"an array", "[" + envelope(good4, good6) + "]", ClassBadJSON},
	{"cut", envelope(good4, good6)[:60], ClassTruncated},
	{"cut before the last bracket", strings.TrimSuffix(envelope(good4, good6), "}"), ClassTruncated},
	{"failure", `{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"messages":[],"result":null}`, ClassNotSuccess},
	{"failure with a list", strings.Replace(envelope(good4, good6), "true", "false", 1), ClassNotSuccess},
	{"success with errors", strings.Replace(envelope(good4, good6), `"errors":[]`, `"errors":[{"code":7003,"message":"No route"}]`, 1), ClassNotSuccess},
	{"no success", strings.Replace(envelope(good4, good6), `"success":true,`, ``, 1), ClassNotSuccess},
	{"Success in another case", strings.Replace(envelope(good4, good6), `success`, `Success`, 1), ClassNotSuccess},
	{"success as a string", strings.Replace(envelope(good4, good6), `true`, `"true"`, 1), ClassBadJSON},
	{"success null", strings.Replace(envelope(good4, good6), `true`, `null`, 1), ClassBadJSON},
	{"errors as an object", strings.Replace(envelope(good4, good6), `"errors":[]`, `"errors":{}`, 1), ClassBadJSON},
	{"result null", `{"result":null,"success":true,"errors":[],"messages":[]}`, ClassBadJSON},
	{"result missing", `{"success":true,"errors":[],"messages":[]}`, ClassBadJSON},
	{"result an array", `{"result":[],"success":true}`, ClassBadJSON},
	{"no IPv4", envelope(``, good6), ClassOneFamilyMissing},
	{"no IPv6", envelope(good4, ``), ClassOneFamilyMissing},
	{"no key for IPv6", strings.Replace(envelope(good4, good6), "ipv6_cidrs", "ipv6", 1), ClassOneFamilyMissing},
	{"IPv4 null", strings.Replace(envelope(good4, good6), "["+good4+"]", "null", 1), ClassOneFamilyMissing},
	{"neither family", envelope(``, ``), ClassEmpty},
	{"array as a string", strings.Replace(envelope(good4, good6), "["+good4+"]", good4, 1), ClassBadJSON},
	{"entry a number", envelope(good4+`,1`, good6), ClassBadJSON},
	{"entry null", envelope(good4+`,null`, good6), ClassBadJSON},
	{"entry an object", envelope(good4+`,{"cidr":"104.24.0.0/14"}`, good6), ClassBadJSON},
	{"etag a number", strings.Replace(envelope(good4, good6), `"0123abcd"`, `7`, 1), ClassBadJSON},
	{"etag with an escape sequence", strings.Replace(envelope(good4, good6), `0123`, `\u001b[2J`, 1), ClassBadJSON},
	{"etag of 200 characters", strings.Replace(envelope(good4, good6), `0123`, strings.Repeat("0", 200), 1), ClassBadJSON},
	{"China Network not an array", strings.Replace(envelope(good4, good6), `"etag"`, `"jdcloud_cidrs":"","etag"`, 1), ClassBadJSON},
	{"China Network with a bad entry", strings.Replace(envelope(good4, good6), `"etag"`, `"jdcloud_cidrs":["all"],"etag"`, 1), ClassBadCIDR},
	{"IPv6 among IPv4", envelope(good4+","+good6, good6), ClassWrongFamily},
	{"families swapped", envelope(good6, good4), ClassWrongFamily},
	{"empty entry", envelope(good4+`,""`, good6), ClassBadCIDR},
	{"address without length", envelope(`"104.16.0.0"`, good6), ClassBadCIDR},
	{"glued", envelope(good4, `"131.0.72.0/222400:cb00::/32"`), ClassBadCIDR},
	{"range", envelope(`"104.16.0.0-104.31.255.255"`, good6), ClassBadCIDR},
	{"netmask", envelope(`"104.16.0.0/255.248.0.0"`, good6), ClassBadCIDR},
	{"blank in an entry", envelope(`"104.16.0.0/13 "`, good6), ClassBadCIDR},
	{"leading zero in the length", envelope(`"104.16.0.0/013"`, good6), ClassBadCIDR},
	{"leading zero in the address", envelope(`"104.016.0.0/13"`, good6), ClassBadCIDR},
	{"length 33", envelope(`"104.16.0.0/33"`, good6), ClassBadCIDR},
	{"zone", envelope(good4, `"2606:4700::%eth0/32"`), ClassBadCIDR},
	{"IPv4-mapped", envelope(good4, `"::ffff:104.16.0.0/109"`), ClassBadCIDR},
	{"host bits", envelope(`"104.16.0.1/13"`, good6), ClassHostBits},
	{"length cut", envelope(`"104.16.0.0/1"`, good6), ClassHostBits},
}

// utf16 encodes ASCII as UTF-16, little end first, with its mark.
func utf16(s string) []byte {
	out := []byte{0xff, 0xfe}
	for _, c := range []byte(s) {
		out = append(out, c, 0)
	}
	return out
}

func TestParseJSONRefuses(t *testing.T) {
	for _, tt := range badJSON {
		t.Run(tt.name, func(t *testing.T) {
			list, etag, err := ParseJSON([]byte(tt.body))
			wantClass(t, err, tt.class)
			if list.Len() > 0 || etag != "" {
				t.Errorf("an error, and yet %v %q", list, etag)
			}
		})
	}
}

// What differs from the recording without meaning anything else.
var oddJSON = []struct{ name, body, want string }{
	{"as published", envelope(good4, good6), "104.16.0.0/13 2606:4700::/32"},
	{"white space around", "\r\n " + envelope(good4, good6) + "\n", "104.16.0.0/13 2606:4700::/32"},
	{"unsorted, with duplicates", envelope(`"173.245.48.0/20","104.16.0.0/13","173.245.48.0/20"`, good6), "104.16.0.0/13 173.245.48.0/20 2606:4700::/32"},
	{"overlapping", envelope(`"104.16.0.0/12","104.16.0.0/13"`, good6), "104.16.0.0/12 2606:4700::/32"},
	{"IPv6 in capitals", envelope(good4, `"2606:4700:0::/32"`), "104.16.0.0/13 2606:4700::/32"},
	{"fields that are not known", strings.Replace(envelope(good4, good6), `"etag"`, `"asn":13335,"notes":{"a":[null,1.5,true]},"etag"`, 1), "104.16.0.0/13 2606:4700::/32"},
	{"China Network that nobody asked for", strings.Replace(envelope(good4, good6), `"etag"`, `"jdcloud_cidrs":["111.13.0.0/16"],"etag"`, 1), "104.16.0.0/13 2606:4700::/32"},
	{"China Network empty", strings.Replace(envelope(good4, good6), `"etag"`, `"jdcloud_cidrs":[],"etag"`, 1), "104.16.0.0/13 2606:4700::/32"},
	{"errors null", strings.Replace(envelope(good4, good6), `"errors":[]`, `"errors":null`, 1), "104.16.0.0/13 2606:4700::/32"},
	{"no etag", strings.Replace(envelope(good4, good6), `,"etag":"0123abcd"`, ``, 1), "104.16.0.0/13 2606:4700::/32"},
}

func TestParseJSON(t *testing.T) {
	for _, tt := range oddJSON {
		t.Run(tt.name, func(t *testing.T) {
			list, _, err := ParseJSON([]byte(tt.body))
			if err != nil || !list.Equal(networks(tt.want)) {
				t.Errorf("got %v, %v; want %s", list, err, tt.want)
			}
		})
	}
}

// badText holds text pages that must be refused.
var badText = []struct {
	name, body string
	class      Class
}{
	{"nothing", "", ClassEmpty},
	{"one line end", "\n", ClassEmpty},
	{"white space", " \n\t\r\n", ClassEmpty},
	{"web page", "<html>\n<head><title>500 Oops</title></head>\n</html>\n", ClassHTML},
	{"list in a web page", "<pre>\n104.16.0.0/13\n</pre>", ClassHTML},
	{"JSON", envelope(good4, good6), ClassBadCIDR},
	{"error in words", "error code: 1010", ClassBadCIDR},
	{"page that looks like numbers", "M 1.0.1.1 L 1.2.1.1/24 Z", ClassBadCIDR},
	{"web page after the list", "104.16.0.0/13\n<html>", ClassBadCIDR},
	{"CRLF", "104.16.0.0/13\r\n104.24.0.0/14\r\n", ClassBadCIDR},
	{"CR", "104.16.0.0/13\r104.24.0.0/14", ClassBadCIDR},
	{"byte order mark", "\ufeff104.16.0.0/13", ClassBadCIDR},
	{"UTF-16", string(utf16("104.16.0.0/13\n")), ClassBadCIDR},
	{"NUL", "104.16.0.0/13\x00\n", ClassBadCIDR},
	{"comment line", "# Cloudflare\n104.16.0.0/13\n", ClassBadCIDR},
	{"comment after an entry", "104.16.0.0/13 # US\n", ClassBadCIDR},
	{"blank line", "104.16.0.0/13\n\n104.24.0.0/14\n", ClassBadCIDR},
	{"blank line at the end", "104.16.0.0/13\n\n", ClassBadCIDR},
	{"blank line at the beginning", "\n104.16.0.0/13\n", ClassBadCIDR},
	{"indented", "  104.16.0.0/13\n", ClassBadCIDR},
	{"blanks for line ends", "104.16.0.0/13 104.24.0.0/14", ClassBadCIDR},
	{"commas", "104.16.0.0/13,104.24.0.0/14", ClassBadCIDR},
	{"two pages glued", "131.0.72.0/222400:cb00::/32\n", ClassBadCIDR},
	{"address without length", "104.16.0.0\n", ClassBadCIDR},
	{"cut in the address", "104.16.0.0/13\n104.2", ClassBadCIDR},
	{"cut after the slash", "104.16.0.0/13\n104.24.0.0/", ClassBadCIDR},
	{"cut in the length", "104.16.0.0/1", ClassHostBits},
	{"host bits", "104.16.0.1/13\n", ClassHostBits},
	{"IPv4-mapped", "::ffff:104.16.0.0/109\n", ClassBadCIDR},
	{"zone", "2606:4700::%1/32\n", ClassBadCIDR},
	{"leading zeros", "104.016.000.000/13\n", ClassBadCIDR},
	{"mixed families", "104.16.0.0/13\n2606:4700::/32\n", ClassWrongFamily},
	{"gzip", "\x1f\x8b\x08\x00\x00\x00\x00\x00", ClassBadCIDR},
}

func TestParseTextRefuses(t *testing.T) {
	for _, tt := range badText {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseText([]byte(tt.body))
			wantClass(t, err, tt.class)
			if got != nil {
				t.Errorf("an error, and yet %v", got)
			}
		})
	}
}

func TestParseText(t *testing.T) {
	for _, name := range []string{"ips-v4.txt", "ips-v6.txt"} {
		page := recorded(t, name)
		bare, err := ParseText(page)
		if err != nil {
			t.Fatal(err)
		}
		ended, err := ParseText(append(slices.Clone(page), '\n')) // as before August 2021
		if err != nil || !slices.Equal(bare, ended) {
			t.Errorf("%s with a final newline: %v, %v", name, ended, err)
		}
	}
}

// Errors end up on terminals and in logs.
func TestErrorsArePrintable(t *testing.T) {
	hostile := "\x1b[2J\x07\u202e" + strings.Repeat("A", 5000)
	if text := refuse(ClassTLS, "certificate of %s", hostile[:8]).Error(); strings.ContainsAny(text, "\x1b\x07\u202e\n") {
		t.Errorf("error %q", text)
	}
	for _, body := range []string{hostile, "<" + hostile, envelope(`"`+hostile[7:]+`"`, good6),
		`{"success":false,"errors":[{"message":"\u001b[2J\u202e` + hostile[7:] + `"}]}`} {
		for _, parse := range []func([]byte) error{
			func(b []byte) error { _, _, err := ParseJSON(b); return err },
			func(b []byte) error { _, err := ParseText(b); return err },
		} {
			text := parse([]byte(body)).Error()
			if len(text) > 250 || strings.ContainsAny(text, "\x1b\x07\u202e\n") {
				t.Errorf("error of %d bytes: %q", len(text), text)
			}
		}
	}
}

// Of the API's answer, nothing but the whole is an answer.
func TestJSONCutAtEveryByte(t *testing.T) {
	body := bytes.TrimRight(recorded(t, "api-ips.json"), "\n")
	for n := range body {
		list, _, err := ParseJSON(body[:n])
		if err == nil {
			t.Fatalf("the first %d of %d bytes were read as %v", n, len(body), list)
		}
		if class := classOf(err); class != ClassTruncated && n > 0 {
			t.Errorf("the first %d bytes: class %q", n, class)
		}
	}
}

// Of a text page that was cut anywhere, either nothing is read, or, if the cut
// is at the end of a line, whole lines of the real page. Such a page does not
// count against the API's answer, and alone it changes nothing in any Book: it
// adds nothing that the real page does not hold, and it removes nothing, even
// if it is served for days.
func TestTextCutAtEveryByte(t *testing.T) {
	pages := [2][]byte{recorded(t, "ips-v4.txt"), recorded(t, "ips-v6.txt")}
	full := published(t)
	books := map[string]Book{
		"up to date": {Current: Record{List: full, From: FromAPI}},
		"embedded":   {Current: Embedded()},
		"2021":       {Current: Record{List: before2021(t), From: FromAPI}},
		"behind":     {Current: Record{List: full.Minus(networks("131.0.72.0/22 2405:8100::/32")), From: FromAPI}},
	}
	for cut, page := range pages {
		read := 0
		for n := range page {
			both := pages
			both[cut] = page[:n]
			list, err := textList(both)
			if err != nil {
				continue
			}
			read++
			if page[n] != '\n' && page[n-1] != '\n' || !contains(full, list) {
				t.Fatalf("page %d cut at %d was read as %v", cut, n, list)
			}
			answer, err := settle(apiLists{all: full, own: full}, nil, list, nil)
			if err != nil || !answer.List.Equal(full) || answer.Agreement != Disagree {
				t.Errorf("page %d cut at %d beside the API: %+v, %v", cut, n, answer, err)
			}
			for name, b := range books {
				offerForDays(t, fmt.Sprintf("%s, page %d cut at %d", name, cut, n), b, list, full)
			}
		}
		if want := 2 * bytes.Count(page, []byte("\n")); read != want { // before and after each line end
			t.Errorf("page %d: %d cuts were read, want %d", cut, read, want)
		}
	}
}

// textList is what Client.fetchText makes of two pages.
func textList(pages [2][]byte) (List, error) {
	v4, err := ParseText(pages[0])
	if err != nil {
		return List{}, err
	}
	v6, err := ParseText(pages[1])
	if err != nil {
		return List{}, err
	}
	list := NewList(append(v4, v6...)...)
	return list, Plausible(list)
}

func offerForDays(t *testing.T, name string, b Book, short, full List) {
	t.Helper()
	before := b.Current.List
	for hours := range 12 {
		now := start.Add(time.Duration(6*hours) * time.Hour)
		b, _ = b.Offer(Answer{List: short, From: FromText, Agreement: Unknown, At: now}, 0.2, now)
		if after := b.Current.List; !contains(after, before) || !contains(before.Union(full), after) {
			t.Fatalf("%s: from %v to %v", name, before, after)
		}
	}
}

// Whatever the list is, a cut inside a line is refused, by its grammar or by
// the bound on width: this is what /8 and /19 are for.
func TestTextCutInAnyList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(widestV4, 32)
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")))
		})
		if rapid.Bool().Draw(t, "v6") {
			bits = rapid.IntRange(widestV6, 128)
			addr = rapid.Custom(func(t *rapid.T) netip.Addr {
				return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "address"))).Unmap()
			})
		}
		lines := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
			a := addr.Draw(t, "network")
			return netip.PrefixFrom(a, min(bits.Draw(t, "bits"), a.BitLen())).Masked().String()
		}), 1, 5).Draw(t, "lines")
		page := strings.Join(lines, "\n")
		n := rapid.IntRange(1, len(page)-1).Draw(t, "cut")
		got, err := ParseText([]byte(page[:n]))
		if err != nil {
			return
		}
		last := got[len(got)-1]
		tooWide := last.Bits() < widestV6 && last.Addr().Is6() || last.Bits() < widestV4
		if !tooWide && last.String() != lines[len(got)-1] {
			t.Fatalf("%q was read as %v", page[:n], got)
		}
	})
}
