package main

import (
	"fmt"
	"regexp"
	"strings"
)

// A page is a manual page while it is written, in the macros of man(7).
type page struct {
	b      strings.Builder
	strong *regexp.Regexp // what stands out in a text: commands and flags
}

// An item is a tag, and further right the text that explains it.
type item struct{ tag, text string }

// newPage writes the head, without a date: what is built of one version is the
// same to the byte. Words are not broken, since people search for them, nor are
// lines stretched; HY and AD are what macros of groff go back to.
func newPage(strong *regexp.Regexp, name, section, about string) *page {
	p := &page{strong: strong}
	p.line(`.TH "%s" %s "" "%s"`, escape(strings.ToUpper(name)), section, escape("cfwall "+version()))
	p.line(".nr HY 0\n.ds AD l\n.nh\n.ad l")
	p.section("NAME")
	p.line(`%s \- %s`, escape(name), escape(about))
	return p
}

func (p *page) line(format string, args ...any) { fmt.Fprintf(&p.b, format+"\n", args...) }

func (p *page) section(title string) { p.line(`.SH "%s"`, escape(title)) }

func (p *page) subsection(title string) { p.line(`.SS "%s"`, escape(title)) }

// text writes paragraphs, the first of which is no item of a list.
func (p *page) text(text string) {
	all := blocks(text)
	p.line("%s", p.prose(all[0]))
	p.more(all[1:])
}

func (p *page) more(all []string) {
	for _, block := range all {
		listed, isListed := strings.CutPrefix(block, "- ")
		if isListed {
			p.line(`.IP \(bu 2`)
		} else {
			p.line(".PP")
		}
		p.line("%s", p.prose(listed))
	}
}

// item writes the tag as it is, so that it can have fonts.
func (p *page) item(tag, text string) {
	all := blocks(text)
	p.line(".TP\n%s\n%s", tag, p.prose(all[0]))
	if len(all) > 1 {
		p.line(".RS")
		p.more(all[1:])
		p.line(".RE")
	}
}

// verbatim writes lines that can be copied.
func (p *page) verbatim(lines string) {
	p.line(".PP\n.RS 4\n.EX")
	for line := range strings.Lines(lines) {
		p.line("%s", protect(escape(strings.TrimSuffix(line, "\n"))))
	}
	p.line(".EE\n.RE")
}

// blocks makes a line of every paragraph and of every item of a list, which is
// indented and begins with a dash, as in the help and in comments of the config.
func blocks(text string) []string {
	var all []string
	goesOn, wasIndented := false, false
	for line := range strings.Lines(text) {
		words, indented := strings.TrimSpace(line), strings.HasPrefix(line, " ")
		if goesOn && words != "" && indented == wasIndented && !strings.HasPrefix(words, "- ") {
			all[len(all)-1] += " " + words
		} else if words != "" {
			all = append(all, words)
		}
		goesOn, wasIndented = words != "", indented
	}
	return all
}

// prose sets commands and flags in bold, and paths in italics.
func (p *page) prose(text string) string {
	text = p.strong.ReplaceAllString(protect(escape(text)), `\fB$0\fR`)
	return regexp.MustCompile(`/(?:etc|run|var)/[a-z./\\-]*[a-z/]`).ReplaceAllString(text, `\fI$0\fR`)
}

func bold(text string) string { return `\fB` + escape(text) + `\fR` }

func italic(text string) string { return `\fI` + escape(text) + `\fR` }

// escape keeps every character what it is: roff takes some for its own, and makes
// typographic ones of others, which can neither be copied nor searched for.
func escape(text string) string {
	return strings.NewReplacer(`\`, `\(rs`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(text)
}

// protect keeps a line from being taken for a request.
func protect(line string) string {
	if strings.HasPrefix(line, ".") {
		return `\&` + line
	}
	return line
}
