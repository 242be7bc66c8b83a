package main

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cfwall/cfwall/config"
)

// manuals returns the manual pages by their paths below share/man, such as
// "man8/cfwall.8". They are made of the commands and of the reference config, as
// the help is, so that neither can say what the other does not. They are not made
// by cobra/doc: it puts the examples last, and would bring three modules into a
// daemon that has CAP_NET_ADMIN.
func manuals(root *cobra.Command) (map[string]string, error) {
	root.InitDefaultHelpCmd()
	commands := withSubcommands(root)
	strong := strongWords(commands)
	pages := map[string]string{}
	for _, c := range commands {
		pages["man8/"+pageName(c)+".8"] = commandPage(c, strong)
	}
	about, err := configPage(config.Reference, strong)
	pages["man5/cfwall-config.5"] = about
	return pages, err
}

func withSubcommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range listed(c) {
		all = append(all, withSubcommands(sub)...)
	}
	return all
}

// strongWords finds commands and flags in a text that is escaped. Commands of two
// words come before those of one.
func strongWords(commands []*cobra.Command) *regexp.Regexp {
	names := []string{regexp.QuoteMeta(escape("cfwall-config"))}
	for _, c := range slices.Backward(commands) {
		if c.HasParent() {
			names = append(names, regexp.QuoteMeta(escape(c.CommandPath())))
		}
	}
	return regexp.MustCompile(`\b(?:` + strings.Join(names, "|") + `)\b|\B\\-(?:\\-)?[a-z][a-z\\-]*\b`)
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func commandPage(c *cobra.Command, strong *regexp.Regexp) string {
	beyond := remarksOn(pageName(c))
	p := newPage(strong, pageName(c), "8", uncapitalized(strings.TrimSuffix(c.Short, ".")))
	p.examples(c.Example)
	p.synopsis(c)
	p.section("DESCRIPTION")
	p.text(cmp.Or(c.Long, c.Short) + "\n" + beyond.text)
	p.commands(c)
	p.options(c)
	for _, s := range beyond.sections {
		p.remark(s)
	}
	p.exitStatus(beyond.exits)
	p.files(c)
	if beyond.caveats != "" {
		p.remark(section{title: "CAVEATS", text: beyond.caveats})
	}
	p.seeAlso(c, beyond)
	return p.b.String()
}

// examples come first, as in the help. What follows a command after three spaces
// is what it is for.
func (p *page) examples(lines string) {
	p.section("EXAMPLES")
	for line := range strings.Lines(lines) {
		command, purpose, _ := strings.Cut(strings.TrimSpace(line), "   ")
		if purpose == "" {
			p.line(".PP\n%s", bold(command))
		} else {
			p.item(bold(command), strings.TrimSpace(purpose))
		}
	}
}

func (p *page) synopsis(c *cobra.Command) {
	_, args, _ := strings.Cut(c.Use, " ")
	if !c.HasParent() {
		args = "COMMAND"
	}
	var words []string
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != helpFlag {
			words = append(words, strings.ReplaceAll("["+flagTag(f, cmp.Or(f.Shorthand, f.Name))+"]", " ", `\ `))
		}
	})
	p.section("SYNOPSIS")
	p.line(".SY \"%s\"\n%s\n.YS", escape(c.CommandPath()), strings.Join(append(words, argumentsMarked(args)), " "))
}

// argumentsMarked sets what is to be written as it is in bold, and what stands for
// something in italics.
func argumentsMarked(args string) string {
	return regexp.MustCompile(`[A-Z]+|[a-z/]+`).ReplaceAllStringFunc(args, func(word string) string {
		if lower := strings.ToLower(word); word != lower {
			return italic(lower)
		}
		return bold(word)
	})
}

func (p *page) commands(c *cobra.Command) {
	all := listed(c)
	if len(all) == 0 {
		return
	}
	p.section("COMMANDS")
	for _, group := range slices.Concat(c.Groups(), []*cobra.Group{{}}) {
		if group.Title != "" {
			p.subsection(capitalized(strings.TrimSuffix(group.Title, ":")))
		}
		for _, sub := range all {
			if sub.GroupID == group.ID {
				p.summaries(withSubcommands(sub))
			}
		}
	}
}

func (p *page) summaries(commands []*cobra.Command) {
	for _, c := range commands {
		p.item(bold(c.CommandPath()), c.Short)
	}
}

const helpFlag = "help"

func (p *page) options(c *cobra.Command) {
	p.section("OPTIONS")
	if c.HasParent() {
		p.flags(c.LocalFlags())
		p.subsection("For all commands")
	}
	p.item(bold("-h")+", "+bold("--help"), "Explains the command, the examples first.")
	p.flags(c.Root().PersistentFlags())
}

func (p *page) flags(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name == helpFlag {
			return
		}
		tag := flagTag(f, f.Name)
		if f.Shorthand != "" {
			tag = bold("-"+f.Shorthand) + ", " + tag
		}
		_, usage := pflag.UnquoteUsage(f)
		text := capitalized(usage) + "."
		if !slices.Contains([]string{"", "0s", "false"}, f.DefValue) {
			text += " Default: " + f.DefValue + "."
		}
		p.item(tag, text)
	})
}

// flagTag is a flag by one of its names, with what stands for its value.
func flagTag(f *pflag.Flag, name string) string {
	tag := bold("--" + name)
	if name == f.Shorthand {
		tag = bold("-" + name)
	}
	if value, _ := pflag.UnquoteUsage(f); value != "" {
		tag += " " + italic(value)
	}
	return tag
}

func (p *page) remark(s section) {
	p.section(s.title)
	p.text(s.text)
	if s.lines != "" {
		p.verbatim(s.lines)
	}
	for _, i := range s.items {
		p.item(bold(i.tag), i.text)
	}
}

func (p *page) exitStatus(own []exit) {
	p.section("EXIT STATUS")
	for _, e := range exitsWith(own) {
		p.item(bold(strconv.Itoa(e.code)), e.text)
	}
}

func (p *page) files(c *cobra.Command) {
	all := filesOf(pageName(c))
	if len(all) == 0 {
		return
	}
	p.section("FILES")
	for _, f := range all {
		p.item(italic(f.path), f.text)
	}
}

// seeAlso names the commands that a page speaks of, those above and below, and
// what else it says.
func (p *page) seeAlso(c *cobra.Command, beyond remarks) {
	names := strings.Fields(beyond.seeAlso)
	for _, word := range p.strong.FindAllString(escape(c.Long+c.Example+beyond.text), -1) {
		if strings.HasPrefix(word, "cfwall ") {
			names = append(names, strings.ReplaceAll(word, " ", "-")+"(8)")
		}
	}
	for _, sub := range listed(c) {
		names = append(names, pageName(sub)+"(8)")
	}
	for parent := c.Parent(); parent != nil; parent = parent.Parent() {
		names = append(names, pageName(parent)+"(8)")
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == pageName(c)+"(8)" })
	p.references(names)
}

func (p *page) references(names []string) {
	slices.Sort(names)
	names = slices.Compact(names)
	for i, reference := range names {
		name, section, _ := strings.Cut(reference, "(")
		names[i] = bold(name) + "(" + section
	}
	p.section("SEE ALSO")
	p.line("%s", strings.Join(names, ", "))
}

// listed are the subcommands that the help lists.
func listed(c *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(c.Commands()), func(sub *cobra.Command) bool {
		return !sub.IsAvailableCommand() && sub.Name() != "help"
	})
}

func capitalized(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func uncapitalized(s string) string { return strings.ToLower(s[:1]) + s[1:] }
