package main

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cfwall/cfwall/config"
)

func allManuals(t *testing.T) (*cobra.Command, map[string]string) {
	t.Helper()
	root := rootCommand()
	pages, err := manuals(root)
	if err != nil {
		t.Fatal(err)
	}
	return root, pages
}

// man runs a program of man-db, which must have nothing to complain of.
func man(t *testing.T, page, program string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Fatalf("%v: install the package man-db", err)
	}
	file := filepath.Join(t.TempDir(), "page.8")
	if err := os.WriteFile(file, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append(args, file)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80", "MANROFFOPT=", "MANOPT=", "MANPAGER=cat")
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil || complaints.Len() > 0 {
		t.Errorf("%s: %v\n%s", program, err, complaints.String())
	}
	return strings.ReplaceAll(out.String(), file, "")
}

func rendered(t *testing.T, page string) string {
	t.Helper()
	return man(t, page, "man", "--warnings=all", "--local-file")
}

func TestManualsOfTheCommands(t *testing.T) {
	root, pages := allManuals(t)
	commands := withSubcommands(root)
	if len(commands)+1 != len(pages) {
		t.Errorf("%d pages for %d commands and the config", len(pages), len(commands))
	}
	for _, c := range commands {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		flags := flagsOf(c) // to ask cobra changes its commands
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page := pages["man8/"+name+".8"]
			checkSections(t, page)
			text := checkRendered(t, name, page)
			for _, flag := range flags {
				if !regexp.MustCompile(`(?m)^ {7}(-., )?--` + flag + `\b`).MatchString(text) {
					t.Errorf("the flag --%s is missing", flag)
				}
			}
			if !regexp.MustCompile(`(?m)^EXAMPLES\n {7}.*cfwall`).MatchString(text) {
				t.Error("it does not begin with an example")
			}
			for _, sub := range withSubcommands(c)[1:] {
				if !strings.Contains(text, "\n       "+sub.CommandPath()+"\n") {
					t.Errorf("the command %s is missing", sub.CommandPath())
				}
			}
		})
	}
}

// typographic is what roff makes of hyphens, minus signs and quotes.
const typographic = "‐−’‘“”"

// checkRendered looks at a page as man shows it, and as apropos finds it.
func checkRendered(t *testing.T, name, page string) (text string) {
	t.Helper()
	text = rendered(t, page)
	for line := range strings.Lines(text) {
		if utf8.RuneCountInString(line) > width {
			t.Errorf("too wide: %q", line)
		}
		if strings.ContainsAny(line, typographic) {
			t.Errorf("that can neither be copied nor searched for: %q", line)
		}
	}
	if at := regexp.MustCompile(`.*[^\\][-'^~\x60].*`).FindString(page); at != "" {
		t.Errorf("elsewhere than on Debian that is typographic: %q", at)
	}
	if about := man(t, page, "lexgrog"); !strings.HasPrefix(about, `: "`+name+" - ") || strings.Count(about, "\n") != 1 {
		t.Errorf("apropos finds %q", about)
	}
	return text
}

// checkSections wants first what is looked for first.
func checkSections(t *testing.T, page string) {
	t.Helper()
	var sections []string
	for _, s := range regexp.MustCompile(`(?m)^\.SH "(.*)"$`).FindAllStringSubmatch(page, -1) {
		sections = append(sections, s[1])
	}
	got := strings.Join(sections, ", ")
	if !regexp.MustCompile(`^NAME, EXAMPLES, SYNOPSIS, DESCRIPTION, .*OPTIONS, .*EXIT STATUS, .*SEE ALSO$`).MatchString(got) {
		t.Errorf("the sections are %s", got)
	}
}

func flagsOf(c *cobra.Command) []string {
	var names []string
	note := func(f *pflag.Flag) { names = append(names, f.Name) }
	c.InitDefaultHelpFlag()
	c.LocalFlags().VisitAll(note)
	c.InheritedFlags().VisitAll(note)
	return names
}

func TestManualOfTheConfig(t *testing.T) {
	_, pages := allManuals(t)
	checkKeys(t, checkRendered(t, "cfwall-config", pages["man5/cfwall-config.5"]))
}

// checkKeys wants each key of the reference in the part of its table, with a
// default and an example.
func checkKeys(t *testing.T, text string) {
	t.Helper()
	var reference map[string]any
	if err := toml.Unmarshal([]byte(config.Reference), &reference); err != nil {
		t.Fatal(err)
	}
	for name, value := range reference {
		title := "[" + name + "]"
		table, isTable := value.(map[string]any)
		if !isTable {
			title, table = "At the top, before any table", map[string]any{name: nil}
		}
		_, part, _ := strings.Cut(text, "\n   "+title+"\n")
		part = regexp.MustCompile(`(?m)^ {0,3}\S`).Split(part, 2)[0]
		for key := range table {
			if !regexp.MustCompile(`(?ms)^ {7}` + key + `\b.*?^ {14}Default: \S.*?^ {14}Example: ` + key + ` =\s+\S`).MatchString(part) {
				t.Errorf("%s of %s is not explained", key, title)
			}
		}
	}
}

func TestExamplesOfTheConfigWork(t *testing.T) {
	for _, e := range configExamples {
		if _, err := config.Parse(strings.NewReader(e.lines), e.text); err != nil {
			t.Error(err)
		}
	}
}

func TestBlocks(t *testing.T) {
	got := blocks("a\nb\n\nc:\n  - d\n    e\n  - f\ng\n\n\nh")
	if want := []string{"a b", "c:", "- d e", "- f", "g", "h"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever a text holds is printed as it is.
func TestManualKeepsEveryCharacter(t *testing.T) {
	for _, text := range []string{
		`.SH 'quoted' "twice" it's`, `'\" a comment`, `\fB \(bu \n \\ a\`, "--flag a-b `x` ~/x ^ % $PATH", "é → ●", ".",
	} {
		p := newPage(strongWords(nil), "x", "8", "about")
		p.section(text)
		p.text(text)
		p.verbatim(text)
		p.item(bold(text), text)
		if got := strings.Count(rendered(t, p.b.String()), text); got != 5 {
			t.Errorf("%q is printed %d times:\n%s", text, got, rendered(t, p.b.String()))
		}
	}
}

// Two builds of one version install the same.
func TestManualsAreTheSameEachTime(t *testing.T) {
	_, first := allManuals(t)
	_, second := allManuals(t)
	if !maps.Equal(first, second) {
		t.Error("they differ")
	}
}

func TestManualRemarksHaveAPage(t *testing.T) {
	_, pages := allManuals(t)
	for _, r := range allRemarks {
		if pages["man8/"+r.page+".8"] == "" {
			t.Errorf("there is no page %s", r.page)
		}
	}
}

func TestReferenceWithoutExplanationIsAnError(t *testing.T) {
	for _, reference := range []string{"key = 1\n", "# Key.\nkey = 1\n", "# Key.\n# Default: 1.\nkey = 1\n"} {
		if _, err := referenceKeys(reference); err == nil {
			t.Errorf("%q: no error", reference)
		}
	}
}

func TestHelpFitsATerminal(t *testing.T) {
	root := rootCommand()
	root.InitDefaultHelpCmd()
	for _, c := range withSubcommands(root) {
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(help.String()) {
			if utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) > width {
				t.Errorf("%s --help is too wide: %q", c.CommandPath(), line)
			}
		}
	}
}
