package lab

// MTU sets how large a packet a link takes, in bytes without the frame's header.
func (h *Host) MTU(link string, bytes int) {
	h.t.Helper()
	h.check(h.links.LinkSetMTU(h.link(link), bytes), "setting the MTU of %s", link)
}
