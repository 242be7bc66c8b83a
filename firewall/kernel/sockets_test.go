package kernel

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

func TestListeners(t *testing.T) {
	lab.Kernel(t)
	web := lab.New(t).Host("web")
	web.ListenTCP("0.0.0.0:443", "127.0.0.1:5432", "[::]:22", "[::1]:8080")
	web.ListenUDP("0.0.0.0:443", "[::1]:53")
	var connected net.Conn
	var all []Listener
	var err error
	web.Do(func() {
		if connected, err = net.Dial("tcp", "127.0.0.1:443"); err == nil {
			all, err = Listeners()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	var got []string
	for _, l := range all {
		got = append(got, l.Address.String()+"/"+l.Protocol)
		if l.Inode == 0 {
			t.Errorf("%v has no inode", l)
		}
	}
	slices.Sort(got)
	want := []string{"127.0.0.1:5432/tcp", "[::1]:53/udp", "[::1]:8080/tcp", "[::]:22/tcp", "[::]:443/tcp", "[::]:443/udp"} // Go binds 0.0.0.0 to both families
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func FuzzParseSocket(f *testing.F) {
	f.Add(make([]byte, 72))
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, ok := parseSocket(data); ok && l.Address.Addr() == (netip.Addr{}) {
			t.Errorf("%x is a socket without an address", data)
		}
	})
}
