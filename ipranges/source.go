package ipranges

import (
	"fmt"
	"net/url"
)

// Source is where the list comes from. All addresses are https URLs.
type Source struct {
	// API answers with the list in JSON.
	API string
	// Text holds the two plain text pages, IPv4 then IPv6: the cross-check,
	// and the fallback.
	Text []string
	// ChinaNetwork asks for the networks of Cloudflare's partner in mainland
	// China too (JD Cloud). Only zones with the China Network need them. The
	// text pages never list them.
	ChinaNetwork bool
}

// DefaultSource is Cloudflare's own publication. See
// https://developers.cloudflare.com/fundamentals/concepts/cloudflare-ip-addresses/
var DefaultSource = Source{
	API:  "https://api.cloudflare.com/client/v4/ips",
	Text: []string{"https://www.cloudflare.com/ips-v4", "https://www.cloudflare.com/ips-v6"},
}

// apiURL is the address to ask, with the China Network where it is wanted.
func (s Source) apiURL() string {
	u, err := url.Parse(s.API)
	if err != nil || !s.ChinaNetwork {
		return s.API
	}
	query := u.Query()
	query.Set("networks", "jdcloud")
	u.RawQuery = query.Encode()
	return u.String()
}

// checkURL demands https and a host, and no user: whatever else a URL can
// hold, it would be a mistake here.
func checkURL(address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return &Error{ClassBadSource, fmt.Errorf("reading the address of the list: %w", err)}
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
		return refuse(ClassBadSource, "%q is not an https URL", address)
	}
	return nil
}
