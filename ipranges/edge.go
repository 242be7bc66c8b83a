package ipranges

import (
	_ "embed" // Cloudflare's side of the tunnels
	"encoding/json"
	"net/netip"
	"slices"
)

// What Cloudflare documents, with the page, the commits that its tables were
// read at, and the date on which they were read.
//
//go:embed edge.json
var edge []byte

// An edgeRegion is where cloudflared connects to, on port 7844.
type edgeRegion struct {
	Name  string                  `json:"name"` // as in `cloudflared --region`; there, "global" is left out
	Hosts map[string][]netip.Addr `json:"hosts"`
}

func edgeRegions() []edgeRegion {
	var documented struct {
		Regions []edgeRegion `json:"regions"`
	}
	if err := json.Unmarshal(edge, &documented); err != nil {
		panic("ipranges: the addresses of the edge: " + err.Error())
	}
	return documented.Regions
}

// TunnelRegions names the regions that TunnelEdge knows, the usual one first.
func TunnelRegions() []string {
	var names []string
	for _, r := range edgeRegions() {
		names = append(names, r.Name)
	}
	return names
}

// TunnelEdge returns the documented addresses that cloudflared connects to in
// a region, on port 7844, TCP and UDP; false where there is no such region.
// They lie in Cloudflare's published networks.
func TunnelEdge(region string) (List, bool) {
	regions := edgeRegions()
	i := slices.IndexFunc(regions, func(r edgeRegion) bool { return r.Name == region })
	if i < 0 {
		return List{}, false
	}
	var addresses []netip.Prefix
	for _, of := range regions[i].Hosts {
		for _, a := range of {
			addresses = append(addresses, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return NewList(addresses...), true
}
