package ipranges

import (
	"bytes"
	"cmp"
	"net/netip"
	"strconv"
	"strings"
)

// ParseJSON reads an answer of Cloudflare's API: the two families in one list,
// and Cloudflare's own digest of them. The digest is opaque (it is no hash of
// the bytes) and is only ever shown. Networks of the China Network are not
// part of the list; Client.Fetch adds them where they were asked for.
//
// The answer must be one complete JSON document without duplicate keys, with
// success true, no errors, and both families present; every entry must be a
// masked CIDR of its family. Anything else is an *Error. Order and duplicates
// do not matter, nor do fields that are not used.
func ParseJSON(body []byte) (list List, etag string, err error) {
	a, err := parseAPI(body)
	if err != nil {
		return List{}, "", err
	}
	return NewList(a.own...), a.etag, nil
}

// apiAnswer is what the API says.
type apiAnswer struct {
	own   []netip.Prefix // Cloudflare's own networks, both families
	china []netip.Prefix // those of the China Network, both families
	etag  string
}

func parseAPI(body []byte) (apiAnswer, error) {
	if err := notAPage(body); err != nil {
		return apiAnswer{}, err
	}
	document, err := decodeStrictJSON(body)
	if err != nil {
		return apiAnswer{}, err
	}
	result, err := apiResult(document)
	if err != nil {
		return apiAnswer{}, err
	}
	v4, err4 := stringArray(result, "ipv4_cidrs")
	v6, err6 := stringArray(result, "ipv6_cidrs")
	china, errChina := stringArray(result, "jdcloud_cidrs")
	etag, errEtag := digest(result)
	if err := cmp.Or(err4, err6, errChina, errEtag); err != nil {
		return apiAnswer{}, err
	}
	if err := bothFamilies(len(v4), len(v6)); err != nil {
		return apiAnswer{}, err
	}
	own4, err4 := parseNetworks(v4, "ipv4_cidrs", netip.Addr.Is4)
	own6, err6 := parseNetworks(v6, "ipv6_cidrs", netip.Addr.Is6)
	both, errChina := parseNetworks(china, "jdcloud_cidrs", netip.Addr.IsValid)
	return apiAnswer{append(own4, own6...), both, etag}, cmp.Or(err4, err6, errChina)
}

// apiResult opens the envelope that all of Cloudflare's API answers share.
func apiResult(document any) (map[string]any, error) {
	envelope, ok := document.(map[string]any)
	if !ok {
		return nil, refuse(ClassBadJSON, "the answer is not a JSON object")
	}
	success, ok := envelope["success"].(bool)
	if _, present := envelope["success"]; present && !ok {
		return nil, refuse(ClassBadJSON, "\"success\" is not true or false")
	}
	faults, ok := envelope["errors"].([]any)
	if envelope["errors"] != nil && !ok {
		return nil, refuse(ClassBadJSON, "\"errors\" is not an array")
	}
	if !success || len(faults) > 0 {
		return nil, refuse(ClassNotSuccess, "the API says that the request failed%s", firstFault(faults))
	}
	result, ok := envelope["result"].(map[string]any)
	if !ok {
		return nil, refuse(ClassBadJSON, "\"result\" is not an object")
	}
	return result, nil
}

func firstFault(faults []any) string {
	if len(faults) == 0 {
		return ""
	}
	fault, _ := faults[0].(map[string]any)
	message, _ := fault["message"].(string)
	return ": " + excerpt(message)
}

// stringArray returns an array of strings; one that is absent or null is empty.
func stringArray(object map[string]any, key string) ([]string, error) {
	if object[key] == nil {
		return nil, nil
	}
	values, ok := object[key].([]any)
	if !ok {
		return nil, refuse(ClassBadJSON, "%q is not an array", key)
	}
	texts := make([]string, 0, len(values))
	for _, v := range values {
		text, ok := v.(string)
		if !ok {
			return nil, refuse(ClassBadJSON, "%q has an entry that is not a string", key)
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// digest returns the etag. It will be printed on terminals, hence the grammar.
func digest(result map[string]any) (string, error) {
	if result["etag"] == nil {
		return "", nil
	}
	etag, ok := result["etag"].(string)
	unprintable := func(r rune) bool { return r <= ' ' || r > '~' }
	if !ok || len(etag) > 128 || strings.ContainsFunc(etag, unprintable) {
		return "", refuse(ClassBadJSON, "\"etag\" is not a short word")
	}
	return etag, nil
}

func bothFamilies(v4, v6 int) error {
	switch {
	case v4 == 0 && v6 == 0:
		return refuse(ClassEmpty, "the list is empty")
	case v4 == 0:
		return refuse(ClassOneFamilyMissing, "the list has no IPv4 networks")
	case v6 == 0:
		return refuse(ClassOneFamilyMissing, "the list has no IPv6 networks")
	}
	return nil
}

func parseNetworks(entries []string, key string, family func(netip.Addr) bool) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, 0, len(entries))
	for _, entry := range entries {
		n, err := parseNetwork(entry)
		if err != nil {
			return nil, err
		}
		if !family(n.Addr()) {
			return nil, refuse(ClassWrongFamily, "%s is in %q", n, key)
		}
		networks = append(networks, n)
	}
	return networks, nil
}

// ParseText reads one of Cloudflare's text pages: one masked CIDR a line, all
// of one family, lines ended by LF, the last LF optional (the pages had one
// until August 2021 and none since). One line that is anything else refuses
// the whole page as an *Error: challenge pages hold strings that look like
// addresses. CR, blanks, blank lines and comments count as anything else; no
// copy of the pages ever held them, so they would be the work of somebody in
// between.
//
// A page that was cut short can pass: a cut at the end of a line leaves a
// correct, shorter page, and nothing in it can tell. (A cut inside a line
// cannot pass Plausible. Inside the address, the slash is missing. Inside the
// prefix length, what is left is at most /3 for IPv4 and /12 for IPv6, since
// the full number is at most 32 or 128, and both are too wide, if they have
// not been refused here for their host bits.) Client.Fetch refuses answers
// that do not say how long they are, and Book.Offer never removes a network
// because text pages lack it.
func ParseText(body []byte) ([]netip.Prefix, error) {
	if err := notAPage(body); err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	networks := make([]netip.Prefix, 0, len(lines))
	for i, line := range lines {
		n, err := parseNetwork(line)
		if err != nil {
			return nil, refuse(classOf(err), "line %d: %w", i+1, err)
		}
		networks = append(networks, n)
		if n.Addr().Is4() != networks[0].Addr().Is4() {
			return nil, refuse(ClassWrongFamily, "line %d: %s is not of the family of line 1", i+1, n)
		}
	}
	return networks, nil
}

// notAPage refuses bodies without content, and web pages, for what they are:
// as a syntax error in line 1 they would puzzle whoever reads the log. The
// content type that the server declares proves nothing either way and is not
// looked at.
func notAPage(body []byte) error {
	content := bytes.TrimSpace(body)
	if len(content) == 0 {
		return refuse(ClassEmpty, "the answer is empty")
	}
	if content[0] == '<' {
		return refuse(ClassHTML, "the answer is a web page, not a list: %s", excerpt(string(content)))
	}
	return nil
}

func parseNetwork(s string) (netip.Prefix, error) {
	n, err := netip.ParsePrefix(s)
	if err != nil || n.Addr().Is4In6() {
		return netip.Prefix{}, refuse(ClassBadCIDR, "%s is not a network", excerpt(s))
	}
	if n != n.Masked() {
		return netip.Prefix{}, refuse(ClassHostBits, "%s has host bits set; the network would be %s", n, n.Masked())
	}
	return n, nil
}

// excerpt quotes the beginning of foreign text so that it is safe to print.
func excerpt(s string) string {
	const most = 60
	if len(s) > most {
		return strings.TrimSuffix(strconv.QuoteToASCII(s[:most]), `"`) + `..."`
	}
	return strconv.QuoteToASCII(s)
}
