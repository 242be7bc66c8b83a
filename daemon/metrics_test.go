package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestMetricsFollowTheConfig(t *testing.T) {
	c, d, table, _ := serveTest(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	textfile := filepath.Join(t.TempDir(), "cfwall.prom")
	get := func() string {
		t.Helper()
		r, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return string(b)
	}
	reload := func(config string) {
		t.Helper()
		writeFile(t, d.engine.paths.Config, config)
		if _, err := c.Reload(t.Context(), Order{}); err != nil {
			t.Fatal(err)
		}
	}
	reload("[metrics]\nlisten = \"" + address + "\"\ntextfile = \"" + textfile + "\"\n")
	text := get()
	for _, want := range []string{
		"\ncfwall_info{version=\"\",mode=\"cloudflare\",ownership=\"\"} 1\n",
		"# TYPE cfwall_packets_total counter\n",
		"cfwall_packets_total{counter=\"dropped4\"} 0\n",
		"cfwall_ranges{family=\"ipv4\"} 15\n",
		"cfwall_problems{code=\"list-embedded\",severity=\"degraded\"} 1\n",
		"cfwall_passes_total{result=\"changed\"} 1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if !strings.Contains(text, "cfwall_protected 1\n") {
		t.Error("not protected")
	}
	if err := d.do(t.Context(), func(context.Context) { table.table = nil }); err != nil {
		t.Fatal(err)
	}
	if text := get(); !strings.Contains(text, "cfwall_protected 0\n") {
		t.Errorf("protected without a table:\n%s", text)
	}
	if _, err := c.On(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.do(t.Context(), func(ctx context.Context) { d.pass(ctx) }); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(textfile); err != nil || !strings.Contains(string(b), "cfwall_protected 1\n") {
		t.Errorf("the text file: %v %s", err, b)
	}
	reload("[web]\ntcp = [443]\n")
	if text := get(); strings.Contains(text, "cfwall_protected") {
		t.Error("still offered though the config no longer says so")
	}
}

// Where the metrics cannot be written, status says so until they can.
func TestTextfileThatCannotBeWritten(t *testing.T) {
	c, d, _, _ := serveTest(t)
	dir := filepath.Join(t.TempDir(), "dir")
	writeFile(t, dir, "in the place of the directory")
	writeFile(t, d.engine.paths.Config, "[metrics]\ntextfile = \""+dir+"/cfwall.prom\"\n")
	warned := func() bool {
		_, err := c.Reload(t.Context(), Order{})
		must(t, err)
		s, err := c.Status(t.Context())
		must(t, err)
		return slices.ContainsFunc(s.Problems, func(p Problem) bool {
			return p.Code == "metrics-unwritable" && p.Severity == Warning && strings.Contains(p.Text, dir) && strings.Contains(p.Cure, "ReadWritePaths="+dir+" ")
		})
	}
	if !warned() {
		t.Error("status does not say so")
	}
	must(t, os.Remove(dir))
	if warned() {
		t.Error("status still says so")
	}
	if info, err := os.Stat(dir + "/cfwall.prom"); err != nil || info.Mode() != 0o644 {
		t.Errorf("the file: %v, %v", info, err)
	}
}
