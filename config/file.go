package config

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// raw mirrors the file. A nil value is a key that the file does not set.
type raw struct {
	Mode  *value `toml:"mode"`
	Audit *value `toml:"audit"`
	Web   struct {
		TCP *value `toml:"tcp"`
		UDP *value `toml:"udp"`
	} `toml:"web"`
	Allow struct {
		From             *value `toml:"from"`
		Interfaces       *value `toml:"interfaces"`
		ContainerBridges *value `toml:"container_bridges"`
	} `toml:"allow"`
	Inbound struct {
		Policy *value `toml:"policy"`
		Open   *value `toml:"open"`
	} `toml:"inbound"`
	Outbound struct {
		Policy *value `toml:"policy"`
		Allow  *value `toml:"allow"`
	} `toml:"outbound"`
	Tunnel struct {
		Region *value `toml:"region"`
		Edge   *value `toml:"edge"`
		User   *value `toml:"user"`
		Ready  *value `toml:"ready"`
	} `toml:"tunnel"`
	Ranges struct {
		Schedule     *value `toml:"schedule"`
		API          *value `toml:"api"`
		Text         *value `toml:"text"`
		ChinaNetwork *value `toml:"china_network"`
		MaxChange    *value `toml:"max_change"`
	} `toml:"ranges"`
	Metrics struct {
		Listen   *value `toml:"listen"`
		Textfile *value `toml:"textfile"`
	} `toml:"metrics"`
	Log struct {
		Level *value `toml:"level"`
	} `toml:"log"`
}

// A value is what the file gives for one key, and where it stands.
type value struct {
	span
	key   string // "web.tcp"
	kind  unstable.Kind
	text  string  // the content of a string, other values as they are written
	items []value // of an array
}

// A span is a part of the file, in bytes.
type span struct{ start, end int }

func (v *value) emptyArray() bool {
	return v != nil && v.kind == unstable.Array && len(v.items) == 0
}

// keys says where in r the value of each key goes: "web.tcp" to &r.Web.TCP.
func (r *raw) keys() map[string]**value {
	keys := map[string]**value{}
	addKeys(keys, "", reflect.ValueOf(r).Elem())
	return keys
}

func addKeys(keys map[string]**value, table string, v reflect.Value) {
	for i := range v.NumField() {
		key := join(table, v.Type().Field(i).Tag.Get("toml"))
		if field, isValue := reflect.TypeAssert[**value](v.Field(i).Addr()); isValue {
			keys[key] = field
		} else {
			addKeys(keys, key, v.Field(i))
		}
	}
}

// A document is one file while it is read.
type document struct {
	name string
	text []byte
	errs Errors
}

// raw reads the syntax of the file. Unknown keys are looked for here and not
// by the decoder's strict mode, which takes "Mode" for "mode" and stops at the
// first value of a wrong type.
func (d *document) raw() raw {
	var r raw
	if err := toml.Unmarshal(d.text, new(map[string]any)); err != nil {
		d.failSyntax(err)
		return r
	}
	w := walk{document: d, keys: r.keys()}
	w.parser.Reset(d.text)
	for w.parser.NextExpression() {
		w.expression(w.parser.Expression())
	}
	if err := w.parser.Error(); err != nil {
		d.failSyntax(err)
	}
	return r
}

// failSyntax reports what the TOML library does not accept.
func (d *document) failSyntax(err error) {
	var at span
	if wrong := (*toml.DecodeError)(nil); errors.As(err, &wrong) {
		at.start = d.offset(wrong.Position())
	}
	at.end = at.start + max(bytes.IndexAny(d.text[at.start:], " \t\r\n=,#[]{}"), 1)
	d.fail(at, problem{message: strings.TrimPrefix(err.Error(), "toml: ")})
}

// offset finds a line and a column, both counted from 1, the column in bytes.
func (d *document) offset(line, column int) int {
	start := 0
	for range line - 1 {
		start += bytes.IndexByte(d.text[start:], '\n') + 1
	}
	return min(start+column-1, len(d.text))
}

// A walk goes through the file and puts the values where their keys belong.
type walk struct {
	*document
	parser unstable.Parser
	keys   map[string]**value
	table  string // the one whose keys are being read
	lost   bool   // its header was refused: its keys mean nothing
}

func (w *walk) expression(n *unstable.Node) {
	switch n.Kind {
	case unstable.Table, unstable.ArrayTable:
		var at span
		w.table, at = keyOf("", n)
		w.lost = !w.header(n.Kind, at)
	case unstable.KeyValue:
		if !w.lost {
			w.keyValue(w.table, n)
		}
	}
}

// header reports whether the table w.table may be written that way.
func (w *walk) header(kind unstable.Kind, at span) bool {
	switch {
	case w.keys[w.table] != nil:
		w.fail(at, problem{strconv.Quote(w.table) + " takes a value, it is not a table", "write " + lastPart(w.table) + " = ..."})
	case !w.isTable(w.table):
		w.fail(at, problem{"unknown table " + strconv.Quote(w.table), meant(closest(w.table, w.tables()))})
	case kind == unstable.ArrayTable:
		w.fail(at, problem{strconv.Quote(w.table) + " is a single table", "write [" + w.table + "]"})
	default:
		return true
	}
	return false
}

// keyValue takes "key = value" in a table, be it in lines or in braces.
func (w *walk) keyValue(table string, n *unstable.Node) {
	key, at := keyOf(table, n)
	v := w.value(key, n.Value(), w.valueSpan(at, n))
	switch {
	case w.keys[key] != nil:
		*w.keys[key] = &v
	case !w.isTable(key):
		w.fail(at, problem{"unknown key " + strconv.Quote(key), w.similarKey(table, key)})
	case v.kind != unstable.InlineTable:
		w.fail(at, problem{strconv.Quote(key) + " is a table, it takes no value", "write [" + key + "]"})
	default:
		for children := n.Value().Children(); children.Next(); {
			w.keyValue(key, children.Node())
		}
	}
}

// valueSpan is the part after the equals sign. The parser gives no span of
// arrays and inline tables, but that of the whole "key = value".
func (w *walk) valueSpan(key span, n *unstable.Node) span {
	end := int(n.Raw.Offset + n.Raw.Length)
	value := bytes.TrimLeft(w.text[key.end:end], " \t=")
	return span{end - len(value), end}
}

func (w *walk) value(key string, n *unstable.Node, at span) value {
	v := value{span: at, key: key, kind: n.Kind, text: string(n.Data)}
	if n.Kind != unstable.Array {
		return v
	}
	for children := n.Children(); children.Next(); {
		item, itemAt := children.Node(), at
		if item.Raw.Length > 0 { // an array within an array has no span of its own
			itemAt = rangeSpan(item.Raw, item.Raw)
		}
		v.items = append(v.items, value{span: itemAt, key: key, kind: item.Kind, text: string(item.Data)})
	}
	return v
}

// keyOf joins the parts of a node's key to the table it stands in, and says
// where the parts are.
func keyOf(table string, n *unstable.Node) (string, span) {
	parts := n.Key()
	parts.Next()
	first := parts.Node()
	name, last := join(table, quotedUnlessBare(first.Data)), first
	for parts.Next() {
		last = parts.Node()
		name = join(name, quotedUnlessBare(last.Data))
	}
	return name, rangeSpan(first.Raw, last.Raw)
}

func rangeSpan(first, last unstable.Range) span {
	return span{int(first.Offset), int(last.Offset + last.Length)}
}

// quotedUnlessBare keeps the key "web.tcp" apart from tcp in web.
func quotedUnlessBare(part []byte) string {
	if len(part) == 0 || bytes.ContainsAny(part, ".\"") {
		return strconv.Quote(string(part))
	}
	return string(part)
}

func join(table, key string) string {
	if table == "" {
		return key
	}
	return table + "." + key
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

func (w *walk) tables() []string {
	var tables []string
	for key := range w.keys {
		if table, _, found := strings.Cut(key, "."); found {
			tables = append(tables, table)
		}
	}
	slices.Sort(tables)
	return slices.Compact(tables)
}

func (w *walk) isTable(key string) bool { return slices.Contains(w.tables(), key) }

// similarKey suggests the key that was meant: the same one in a table where it
// belongs, or one that is spelled like it.
func (w *walk) similarKey(table, key string) string {
	if w.keys[lastPart(key)] != nil {
		return "it belongs at the top, before any [table]"
	}
	known := slices.Sorted(maps.Keys(w.keys))
	var homes []string
	for _, k := range known {
		if home, found := strings.CutSuffix(k, "."+lastPart(key)); found && home != table {
			homes = append(homes, "["+home+"]")
		}
	}
	if homes != nil {
		return "it belongs in " + strings.Join(homes, " or ")
	}
	return meant(strings.TrimPrefix(closest(key, known), table+"."))
}
