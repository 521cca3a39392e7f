package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger"
	"banger/internal/agent"
	"banger/internal/parcel"
)

// copyFlags are those of cp.
type copyFlags struct {
	archive, follow, quiet bool
	user                   string
}

func (c *CLI) cpCommand() *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:   "cp SRC DST",
		Short: "Copy files into, out of and between VMs",
		Long: `Copy a file, or a folder with all that is in it. One of SRC and DST is VM:PATH, or both
are; a PATH in a VM is from its root. Nothing of the image is used for it. "-" as SRC is a tar
stream on stdin, to be unpacked into the folder DST; as DST a tar stream on stdout.

Kept are modes, times, symlinks, hard links and holes; owners only with -a. Devices, pipes and
sockets are left out. Where things go:

  DST is there and a folder      SRC goes into it, by its own name
  ... and SRC ends in /.         what is in SRC goes into it
  DST is there and a file        a file SRC takes its place; a folder cannot
  DST is not there               it becomes SRC; a file needs a folder that is there, not DST/

A SRC that is a symlink is copied as one, but with -L or a slash at its end.`,
		Example: `  banger cp . testbox:/root/project
  banger cp testbox:/var/log/dpkg.log .
  tar c src | banger cp - testbox:/root
  banger cp testbox:/etc - | tar t`,
		Args:              args(cobra.ExactArgs(2)),
		ValidArgsFunction: c.completePlaces,
		RunE: func(cmd *cobra.Command, a []string) error {
			err := c.copy(cmd.Context(), endpoint(a[0]), endpoint(a[1]), f)
			if errors.As(err, new(usageError)) {
				return usageError{err, cmd}
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&f.archive, "archive", "a", false, "keep owners, by their numbers (on the host only for root), and in a VM setuid bits")
	cmd.Flags().BoolVarP(&f.follow, "follow-link", "L", false, "copy what a SRC that is a symlink points to")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no progress, and no word about what was left out")
	cmd.Flags().StringVarP(&f.user, "user", "u", "", "user[:group] who reads and writes in the VM, by name or number")
	return cmd
}

// copyPlace is one side of a copy.
type copyPlace struct {
	vm   string // empty: this host
	path string // "-" on this host: a stream
}

// endpoint reads VM:PATH. With a slash or a dot before the colon it is a path of
// this host, as for docker cp.
func endpoint(word string) copyPlace {
	name, path, ok := strings.Cut(word, ":")
	if !ok || name == "" || strings.ContainsAny(name, "/.") {
		return copyPlace{path: word}
	}
	return copyPlace{vm: name, path: path}
}

func (p copyPlace) stream() bool { return p.vm == "" && p.path == "-" }

// here is the path with all it says about slashes, as package parcel wants it.
func (p copyPlace) here() (string, error) {
	if p.vm != "" {
		return "/" + strings.TrimLeft(p.path, "/"), nil
	}
	if p.path == "" {
		return "", errors.New("an empty path")
	}
	if filepath.IsAbs(p.path) {
		return p.path, nil
	}
	dir, err := os.Getwd()
	return dir + "/" + p.path, err
}

// copy finds out which way it goes.
func (c *CLI) copy(ctx context.Context, from, to copyPlace, f copyFlags) error {
	if from.vm == "" && to.vm == "" {
		return usageError{errors.New("neither is in a VM: want VM:PATH"), nil}
	}
	src, err := from.here()
	if err != nil {
		return usageError{err, nil}
	}
	dst, err := to.here()
	if err != nil {
		return usageError{err, nil}
	}
	m := &mover{cli: c, flags: f,
		source: parcel.Source{Path: src, Follow: f.follow},
		target: parcel.Target{Path: dst, Name: parcel.SourceName(src), Owners: f.archive, Setuid: f.archive && to.vm != ""},
	}
	if to.stream() {
		m.source.Plain, m.source.Prefix = true, parcel.SourceName(src)
	}
	if from.stream() {
		m.target.Loose = true
	}
	if to.vm == "" && os.Getuid() != 0 {
		m.target.Owners = false
	}
	show, done := c.progress()
	if f.quiet {
		show = func(banger.Progress) {}
	}
	m.show = show
	report, err := m.run(ctx, from, to)
	done()
	if err != nil {
		return err
	}
	m.tell(report)
	if to.stream() {
		return nil
	}
	return c.printCopied(report)
}

// printCopied prints what was copied, for programs alone.
func (c *CLI) printCopied(r parcel.Report) error {
	if !c.json {
		return nil
	}
	return c.printJSON(map[string]int64{"files": r.Files, "bytes": r.Bytes, "skipped": r.Skipped})
}

// mover is one copy.
type mover struct {
	cli    *CLI
	flags  copyFlags
	source parcel.Source
	target parcel.Target
	show   func(banger.Progress)
	moved  int64
}

func (m *mover) run(ctx context.Context, from, to copyPlace) (parcel.Report, error) {
	var src, dst *agent.Client
	for vm, client := range map[string]**agent.Client{from.vm: &src, to.vm: &dst} {
		if vm == "" {
			continue
		}
		c, err := m.cli.agentOf(ctx, vm)
		if err != nil {
			return parcel.Report{}, err
		}
		defer c.Close()
		*client = c
	}
	if from.vm != "" && from.vm == to.vm {
		src = dst
	}
	switch {
	case src == nil && from.stream():
		return dst.CopyTo(ctx, m.flags.user, m.target, m.count(m.cli.Stdin))
	case src == nil:
		return m.join(func(w io.Writer) (parcel.Report, error) { return parcel.Pack(w, m.source) },
			func(r io.Reader) (parcel.Report, error) { return dst.CopyTo(ctx, m.flags.user, m.target, m.count(r)) })
	case dst == nil && to.stream():
		if isTerminal(m.cli.Stdout) {
			return parcel.Report{}, usageError{errors.New("a tar stream is not for a terminal"), nil}
		}
		return src.CopyFrom(ctx, m.flags.user, m.source, func(r io.Reader) error {
			_, err := io.Copy(m.cli.Stdout, m.count(r))
			return err
		})
	case dst == nil:
		var report parcel.Report
		there, err := src.CopyFrom(ctx, m.flags.user, m.source, func(r io.Reader) (err error) {
			report, err = parcel.Unpack(m.count(r), m.target)
			return err
		})
		return both(there, report), err
	}
	return m.join(func(w io.Writer) (parcel.Report, error) {
		return src.CopyFrom(ctx, m.flags.user, m.source, func(r io.Reader) error {
			_, err := io.Copy(w, m.count(r))
			return err
		})
	}, func(r io.Reader) (parcel.Report, error) { return dst.CopyTo(ctx, m.flags.user, m.target, r) })
}

// both puts what the two sides left out together.
func both(packed, unpacked parcel.Report) parcel.Report {
	unpacked.Skipped += packed.Skipped
	if packed.First != "" {
		unpacked.First = packed.First
	}
	unpacked.Shrunk = packed.Shrunk
	return unpacked
}

// join lets what is packed be unpacked. The side that failed by itself is the
// one whose error is told.
func (m *mover) join(pack func(io.Writer) (parcel.Report, error), unpack func(io.Reader) (parcel.Report, error)) (parcel.Report, error) {
	r, w := io.Pipe()
	var packed parcel.Report
	var failed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		packed, failed = pack(w)
		_ = w.CloseWithError(failed)
	}()
	unpacked, err := unpack(r)
	_ = r.CloseWithError(errOther)
	<-done
	if failed != nil && !errors.Is(failed, errOther) {
		err = failed
	}
	return both(packed, unpacked), err
}

// errOther says that the other side of a copy has failed.
var errOther = errors.New("the other side has ended")

// count shows how much has gone through r.
func (m *mover) count(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		m.moved += int64(n)
		m.show(banger.Progress{Step: "copying", Done: m.moved})
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// tell says what was not copied.
func (m *mover) tell(r parcel.Report) {
	if m.flags.quiet {
		return
	}
	if r.Skipped > 0 {
		more := ""
		if r.Skipped > 1 {
			more = fmt.Sprintf(" and %d more", r.Skipped-1)
		}
		fmt.Fprintf(m.cli.Stderr, "banger: left out what cannot be copied: %s%s\n", visible(clip(r.First)), more)
	}
	if r.Shrunk != "" {
		fmt.Fprintf(m.cli.Stderr, "banger: %s became shorter while it was copied; its end is zeros\n", visible(clip(r.Shrunk)))
	}
}

// agentOf connects to the agent of a VM.
func (c *CLI) agentOf(ctx context.Context, name string) (*agent.Client, error) {
	vm, err := c.findVM(ctx, name)
	if err != nil {
		return nil, err
	}
	return c.dialAgent(ctx, vm)
}

// completePlaces completes VM: and, where that is not begun, files.
func (c *CLI) completePlaces(cmd *cobra.Command, a []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(a) > 1 || strings.ContainsAny(word, ":/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := c.completeVMs(cmd, a, word)
	var places []string
	for _, n := range names {
		if strings.HasPrefix(n, word) {
			places = append(places, n+":")
		}
	}
	if len(places) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return places, cobra.ShellCompDirectiveNoSpace
}
