package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cfwall/cfwall/ipranges"
)

// Cloudflare plays the servers from which the list comes, on a host of the lab.
type Cloudflare struct {
	// Certificate is a file for SSL_CERT_FILE: whoever has it trusts the servers.
	Certificate string
	asked       atomic.Int64
}

// Asked is how many requests were answered; one fetch is three of them.
func (c *Cloudflare) Asked() int { return int(c.asked.Load()) }

// Cloudflare serves the embedded list at an address of the host, as the API
// and the text pages do, until the test ends. Everybody in the lab finds it
// under Cloudflare's names.
func (h *Host) Cloudflare(at netip.Addr) *Cloudflare {
	h.t.Helper()
	names := []string{"api.cloudflare.com", "www.cloudflare.com"}
	dir, err := os.MkdirTemp("/run", "cloudflare-")
	h.check(err, "making a directory")
	c := &Cloudflare{Certificate: filepath.Join(dir, "certificate.pem")}
	pair, err := SelfSigned(c.Certificate, names...)
	h.check(err, "making a certificate")
	h.check(resolve(names, at), "naming %s", at)

	var l net.Listener
	h.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(at, 443).String()) })
	h.check(err, "listening")
	server := &http.Server{
		Handler:           c.answers(),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}},
		ReadHeaderTimeout: patience,
	}
	h.t.Cleanup(func() { server.Close() })
	go server.ServeTLS(l, "", "")
	return c
}

func (c *Cloudflare) answers() http.Handler {
	r := ipranges.Embedded()
	api, err := json.Marshal(map[string]any{
		"success": true,
		"result":  map[string]any{"ipv4_cidrs": r.List.V4(), "ipv6_cidrs": r.List.V6(), "etag": r.ETag},
	})
	if err != nil {
		panic("lab: encoding the list: " + err.Error())
	}
	mux := http.NewServeMux()
	for path, body := range map[string]string{
		"/client/v4/ips": string(api), "/ips-v4": lines(r.List.V4()), "/ips-v6": lines(r.List.V6()),
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			c.asked.Add(1)
			_, _ = io.WriteString(w, body) // the client may be gone
		})
	}
	return mux
}

func lines(networks []netip.Prefix) string {
	words := make([]string, len(networks))
	for i, n := range networks {
		words[i] = n.String()
	}
	return strings.Join(words, "\n")
}

// SelfSigned makes a certificate for names that is its own authority, and
// writes it to a file for SSL_CERT_FILE.
func SelfSigned(file string, names ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: names, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(file, block, 0o600)
}

// resolve lays a file over /etc/hosts, for the lab alone: its mounts are its own.
func resolve(names []string, to netip.Addr) error {
	const file = "/run/hosts"
	line := fmt.Sprintf("%s %s\n", to, strings.Join(names, " "))
	if err := os.WriteFile(file, []byte(line), 0o644); err != nil {
		return err
	}
	return unix.Mount(file, "/etc/hosts", "", unix.MS_BIND, "")
}
