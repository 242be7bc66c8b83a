package daemon

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// tally counts what happened since the daemon started.
type tally struct {
	passes  map[string]uint64 // by result: "unchanged", "changed", "failed"
	fetches map[string]uint64 // by class
}

func newTally() tally {
	return tally{passes: map[string]uint64{"unchanged": 0, "changed": 0, "failed": 0}, fetches: map[string]uint64{}}
}

func (t tally) clone() tally { return tally{maps.Clone(t.passes), maps.Clone(t.fetches)} }

func (t tally) pass(r Report, err error) {
	switch {
	case err != nil:
		t.passes["failed"]++
	case r.Changed:
		t.passes["changed"]++
	default:
		t.passes["unchanged"]++
	}
}

// A metric is a family of the Prometheus text format; labels are given ready
// for braces, each with its value.
type metric struct {
	name, kind, help string
	values           map[string]float64
}

func one(v float64) map[string]float64 { return map[string]float64{"": v} }

// metrics puts a status into numbers.
func metrics(s Status, t tally) []metric {
	ranges := map[string]float64{`family="ipv4"`: float64(s.Ranges.IPv4), `family="ipv6"`: float64(s.Ranges.IPv6)}
	packets, bytes, problems := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for name, c := range s.Counters {
		packets[fmt.Sprintf("counter=%q", name)] = float64(c.Packets)
		bytes[fmt.Sprintf("counter=%q", name)] = float64(c.Bytes)
	}
	for _, p := range s.Problems {
		problems[fmt.Sprintf("code=%q,severity=%q", p.Code, p.Severity)] = 1
	}
	return []metric{
		{"cfwall_protected", "gauge", "1 if the table in the kernel is what the policy wants, read now; 0 with audit = true.", one(truth(s.Verdict != VerdictUnprotected))},
		{"cfwall_audit", "gauge", "1 if audit = true, so that nothing is dropped.", one(truth(s.Audit))},
		{"cfwall_info", "gauge", "The version that runs, the mode that it enforces, and who may change the table.", map[string]float64{fmt.Sprintf("version=%q,mode=%q,ownership=%q", s.Daemon.Version, s.Mode, s.Table.Ownership): 1}},
		{"cfwall_unconfirmed", "gauge", "1 while a config is in force that goes back unless it is confirmed.", one(truth(s.Confirm != nil))},
		{"cfwall_problems", "gauge", "What is not as it should be, as in cfwall status.", problems},
		{"cfwall_ranges", "gauge", "Networks of Cloudflare's in force.", ranges},
		{"cfwall_list_checked_timestamp_seconds", "gauge", "When the list was last confirmed by Cloudflare; 0 if never.", one(timestamp(s.Ranges.CheckedAt))},
		{"cfwall_tunnel_connections", "gauge", "Connections of cloudflared to Cloudflare, in mode tunnel.", tunnelConnections(s.Tunnel)},
		{"cfwall_packets_total", "counter", "Packets admitted, dropped, rejected and sent by the tunnel; would_be_: that audit let pass.", packets},
		{"cfwall_bytes_total", "counter", "Bytes of those packets.", bytes},
		{"cfwall_repairs_total", "counter", "Changes of the table by other programs that were put right.", one(float64(s.Repairs.Count))},
		{"cfwall_passes_total", "counter", "Passes by result.", labelled("result", t.passes)},
		{"cfwall_fetches_total", "counter", "Fetches of the list by class of outcome.", labelled("class", t.fetches)},
	}
}

// tunnelConnections is empty where nobody was asked.
func tunnelConnections(t *TunnelStatus) map[string]float64 {
	if t == nil || !t.Asked {
		return nil
	}
	return one(float64(t.Connections))
}

func labelled(label string, counts map[string]uint64) map[string]float64 {
	values := make(map[string]float64, len(counts))
	for name, n := range counts {
		values[fmt.Sprintf("%s=%q", label, name)] = float64(n)
	}
	return values
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// expose prints metrics in the Prometheus text format, version 0.0.4.
func expose(all []metric) string {
	var b strings.Builder
	for _, m := range all {
		if len(m.values) == 0 {
			continue
		}
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind)
		for _, labels := range slices.Sorted(maps.Keys(m.values)) {
			braced := labels
			if labels != "" {
				braced = "{" + labels + "}"
			}
			fmt.Fprintf(&b, "%s%s %v\n", m.name, braced, m.values[labels])
		}
	}
	return b.String()
}

// metricsText prints a status as metrics.
func metricsText(s Status, err error, t tally) string {
	if err != nil {
		s.Verdict = VerdictUnprotected // what cannot be read is not called protected
	}
	return expose(metrics(s, t))
}

// writeTextfile leaves the metrics for node_exporter's textfile collector, which
// must never see half a file. Its directory may belong to another user.
func (d *Daemon) writeTextfile(ctx context.Context) {
	path := d.engine.config.Metrics.Textfile
	if path == "" || d.engine.textfileDisk.hangs() != nil {
		return
	}
	s, err := d.engine.tableStatus(ctx)
	s.judge()
	err = d.engine.writeTextfile(path, metricsText(s, err, d.engine.tally))
	if d.noTextfile.isNew(err) {
		d.opts.Log.Warn("the metrics could not be written", "error", err)
	}
}

// listenMetrics follows the config: it opens, moves or closes the listener.
func (d *Daemon) listenMetrics(ctx context.Context) {
	address := d.engine.config.Metrics.Listen
	if address == d.metricsAddress {
		return
	}
	d.closeMetrics()
	if address == "" {
		return
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		d.opts.Log.Warn("the metrics cannot be offered", "error", err) // the next reload tries again
		return
	}
	server := &http.Server{Handler: d.metricsHandler(), ReadTimeout: longestRequest, WriteTimeout: longestAnswer, IdleTimeout: time.Minute,
		MaxHeaderBytes: maxRequest, BaseContext: func(net.Listener) context.Context { return ctx }}
	go func() { _ = server.Serve(limit(l, metricsLimit)) }() // ends with Close
	d.metricsAddress, d.metricsServer = address, server
}

func (d *Daemon) closeMetrics() {
	if d.metricsServer != nil {
		d.metricsServer.Close()
	}
	d.metricsAddress, d.metricsServer = "", nil
}

func (d *Daemon) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), clientTimeout)
		defer cancel()
		s, err := d.status(ctx)
		var t tally
		if d.do(ctx, func(context.Context) { t = d.engine.tally.clone() }) != nil {
			return // the client or the daemon is going
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = io.WriteString(w, metricsText(s, err, t))
	})
	return mux
}
