package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"banger"
)

// list is how a command that lists things prints them.
type list struct {
	format    string
	quiet     bool
	noHeaders bool
}

func (l *list) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.format, "format", "table", "table, json or jsonl")
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, "print only the names")
	cmd.Flags().BoolVar(&l.noHeaders, "no-headers", false, "leave out the first line of a table")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "jsonl"}, cobra.ShellCompDirectiveNoFileComp))
}

// printList prints items: row gives the cells of one, the first of which is its name.
func printList[T any](c *CLI, cmd *cobra.Command, l list, header string, items []T, row func(T) []string) error {
	if c.json {
		l.format = "json"
	}
	out := bufio.NewWriter(c.Stdout) // else each cell of a table is a write of its own
	var err error
	switch {
	case l.quiet:
		for _, it := range items {
			fmt.Fprintln(out, visible(row(it)[0]))
		}
	case l.format == "json":
		return c.printJSON(items)
	case l.format == "jsonl":
		enc := json.NewEncoder(out)
		for _, it := range items {
			err = errors.Join(err, enc.Encode(it))
		}
	case l.format == "table":
		var t table
		if !l.noHeaders {
			t.add(strings.Split(header, "\t")...)
		}
		for _, it := range items {
			t.add(row(it)...)
		}
		err = t.write(out)
	default:
		return usageError{fmt.Errorf("unknown format %q", l.format), cmd}
	}
	return errors.Join(err, out.Flush())
}

// table is text in columns, each as wide as its widest cell.
type table struct {
	rows   [][]string
	widths []int // in characters
}

// gap is the number of spaces between two columns.
const gap = 3

func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(visible(cell), "\n", " ")
		if i == len(t.widths) {
			t.widths = append(t.widths, 0)
		}
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cells[i]))
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(w io.Writer) error {
	var b []byte
	for _, cells := range t.rows {
		b = b[:0]
		for i, cell := range cells {
			b = append(b, cell...)
			if i < len(cells)-1 {
				for range t.widths[i] + gap - utf8.RuneCountInString(cell) {
					b = append(b, ' ')
				}
			}
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// builtinCatalog is how the daemon names the catalog that is part of banger.
const builtinCatalog = "builtin"

// printOffers prints what the catalogs have; row gives the cells of one offer
// after its name and its catalog. What is wrong with the catalogs is told
// besides: in the same object as JSON, else on stderr.
func printOffers[T any](c *CLI, cmd *cobra.Command, l list, header string, all banger.Offers[T], row func(T) (name, catalog string, cells []string)) error {
	if !l.quiet && (c.json || l.format == "json") {
		return c.printJSON(all)
	}
	for _, p := range all.Problems {
		how := "is left out"
		if p.Cached {
			how = "is shown as it once was"
		}
		fmt.Fprintf(c.Stderr, "banger: catalog %s %s: %s\n", visible(p.Catalog), how, visible(p.Message))
		if p.Hint != "" {
			fmt.Fprintf(c.Stderr, "hint: %s\n", visible(p.Hint))
		}
	}
	several := false // else the column says nothing
	for _, o := range all.Offers {
		_, catalog, _ := row(o)
		several = several || catalog != builtinCatalog
	}
	if several {
		header = "CATALOG\t" + header
	}
	return printList(c, cmd, l, "NAME\t"+header, all.Offers, func(o T) []string {
		name, catalog, cells := row(o)
		if several {
			cells = append([]string{catalog}, cells...)
		}
		return append([]string{name}, cells...)
	})
}

func (c *CLI) printJSON(v any) error {
	enc := json.NewEncoder(c.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printChanged prints the name of what a command made or changed, or all of it as JSON.
func (c *CLI) printChanged(name string, v any) error {
	if c.json {
		return c.printJSON(v)
	}
	_, err := fmt.Fprintln(c.Stdout, name)
	return err
}

// age is how long ago t was, in one unit.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return strconv.Itoa(max(0, int(d.Seconds()))) + "s"
	case d < time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	}
	return strconv.Itoa(int(d.Hours()/24)) + "d"
}

// size is a number of bytes in the largest binary unit that leaves at least 1.
func size(n int64) string {
	f, unit := float64(n), 0
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for f >= 1024 && unit < len(units)-1 {
		f /= 1024
		unit++
	}
	if unit == 0 || f >= 100 || f == float64(int64(f)) {
		return strconv.FormatFloat(f, 'f', 0, 64) + " " + units[unit]
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[unit]
}

// sizeFlag is a flag that takes 512, 512M or 1.5G: bytes, or binary units.
type sizeFlag struct{ bytes *int64 }

func (s sizeFlag) String() string {
	if s.bytes == nil || *s.bytes == 0 {
		return ""
	}
	return size(*s.bytes)
}

func (s sizeFlag) Type() string { return "size" }

func (s sizeFlag) Set(text string) error {
	n, err := parseSize(text)
	*s.bytes = n
	return err
}

func parseSize(text string) (int64, error) {
	num := strings.TrimRight(strings.ToUpper(strings.TrimSpace(text)), "IB")
	shift := 0
	if i := strings.IndexAny(num, "KMGT"); i >= 0 && i == len(num)-1 {
		shift = 10 * (1 + strings.IndexByte("KMGT", num[i]))
		num = num[:i]
	}
	var f float64
	var rest string
	if n, _ := fmt.Sscanf(num+" ", "%g%s", &f, &rest); n != 1 || !(f >= 0 && f*float64(int64(1)<<shift) < 1<<62) {
		return 0, banger.Errorf(banger.Invalid, "%q is not a size: want 512M or 1.5G", text)
	}
	return int64(f * float64(int64(1)<<shift)), nil
}
