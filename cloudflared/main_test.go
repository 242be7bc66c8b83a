package cloudflared

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cfwall/cfwall/internal/lab"
)

// TestMain runs the tests, or what this program is called for.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case program:
		pose(os.Args[1:])
	case "prober":
		probe(os.Args[1:])
	default:
		os.Exit(lab.Main(m))
	}
}

// pose connects to edges as cloudflared does, by TCP and from one UDP socket
// each that is not connected, and keeps the connections until its input ends.
func pose(edges []string) {
	for _, edge := range edges {
		tcp, err := net.Dial("tcp", edge)
		check(err)
		defer tcp.Close()
		udp, err := net.ListenUDP("udp", nil)
		check(err)
		defer udp.Close()
		_, err = udp.WriteToUDPAddrPort([]byte("hello"), netip.MustParseAddrPort(edge))
		check(err)
		_, err = udp.Read(make([]byte, 5))
		check(err)
	}
	fmt.Println("connected")
	_, err := io.ReadAll(os.Stdin)
	check(err)
}

// probe prints what Probe finds.
func probe(addresses []string) {
	var edge []netip.Addr
	for _, a := range addresses {
		edge = append(edge, netip.MustParseAddr(a))
	}
	check(json.NewEncoder(os.Stdout).Encode(Probe(context.Background(), edge)))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startPoser starts a program named cloudflared in a host and waits until it is connected.
func startPoser(t *testing.T, h *lab.Host, edges ...string) (pid int) {
	t.Helper()
	// The kernel takes the name of a program from the path that it is started by.
	path := filepath.Join(t.TempDir(), program)
	if err := os.Symlink("/proc/self/exe", path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, edges...)
	cmd.Stderr = os.Stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.Start(cmd)
	t.Cleanup(func() { input.Close() })
	if line, err := bufio.NewReader(output).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd.Process.Pid
}
