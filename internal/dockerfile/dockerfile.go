// Package dockerfile turns the text of a Dockerfile into stages of resolved steps, picks the files of a context that a step copies, and names each step by what goes into it.
//
// It runs nothing and knows no machine: what a stage is based on comes through a
// callback, the context as an fs.FS. The language is that of BuildKit's parser
// (docs.docker.com/reference/dockerfile); what banger cannot do is refused here,
// with the file and the line, before anything is made.
package dockerfile

import (
	"fmt"
	"time"

	"banger"
)

// Limits of what a Dockerfile may hold.
const (
	maxText   = 1 << 20  // bytes of the file
	maxSteps  = 2000     // instructions of all stages
	maxWord   = 16 << 20 // bytes that the variables in one word may make of it
	maxValue  = 64 << 10 // bytes of one variable: execve(2) takes 128 KiB
	maxScript = 192 << 10
)

// Config is how an image is run: image-spec v1.1, config.md, with the fields that
// Docker adds to it.
type Config struct {
	User         string              `json:",omitempty"`
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string            `json:",omitempty"`
	Entrypoint   []string            `json:",omitempty"`
	Cmd          []string            `json:",omitempty"`
	Volumes      map[string]struct{} `json:",omitempty"`
	WorkingDir   string              `json:",omitempty"`
	Labels       map[string]string   `json:",omitempty"`
	StopSignal   string              `json:",omitempty"`
	Healthcheck  *Healthcheck        `json:",omitempty"`
	OnBuild      []string            `json:",omitempty"`
	Shell        []string            `json:",omitempty"`
}

// Healthcheck is recorded for others: banger runs none.
type Healthcheck struct {
	Test          []string      `json:",omitempty"`
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// Plan is all that has to be done for one target: no other stages are in it.
type Plan struct {
	Stages   []*Stage // each behind those that it needs; the last one is the target
	Warnings []string // for a person, for instance of build arguments that nothing uses
}

// Stage is one stage with every variable resolved.
type Stage struct {
	Name   string // as the Dockerfile has it; else stage-N, or empty where there is only one
	Index  int    // its place in the Dockerfile, from 0
	Base   Source
	Line   int
	Steps  []Step
	Config Config // as its last step leaves it
	Author string
}

// Source is where files come from: exactly one of the four, or the zero value,
// the build context.
type Source struct {
	Scratch bool   // nothing at all; only as the base of a stage
	Image   string // a reference, as the Dockerfile has it
	Stage   *Stage
}

// Step is one instruction.
type Step struct {
	Line int
	Text string // the instruction on one line, for people and for the image's history
	Op   any    // *Run, *Copy, *Mkdir, or nil for one that only changes the configuration
}

// Run is a command to be run in the stage's root.
type Run struct {
	Argv      []string
	Files     []File // to be in ScriptDir while it runs
	Env       []string
	Proxies   []string // of the environment too, but not of what the result hangs on
	Dir       string   // absolute
	User      string   // user[:group]; empty is root
	Mounts    []Mount
	NoNetwork bool
}

// ScriptDir is where a run finds its inline files.
const ScriptDir = "/dev/pipes"

// File is an inline file (a heredoc).
type File struct {
	Name string
	Data string
}

// Mount is something that is there for one run alone.
type Mount struct {
	Type   string // cache or tmpfs
	Target string // absolute
	ID     string // of a cache: runs with the same ID share it, of other builds too
	Size   int64  // of a tmpfs, in bytes; 0: no limit of its own
	Mode   uint32 // of a cache directory
	UID    uint32
	GID    uint32
}

// Copy puts files into the stage's root.
type Copy struct {
	From    Source
	Sources []string // patterns, relative to the root of From
	Files   []File
	URL     string // instead of sources
	// Checksum is of what URL has to give, sha256:...; may be empty.
	Checksum string
	Dest     string // absolute and clean
	// IntoDir is set where Dest is a directory, whatever is there now.
	IntoDir bool
	Chown   string // user[:group]; empty is 0:0
	Chmod   string // octal; empty: as they are
	Unpack  bool   // tar archives among the sources are unpacked
}

// Mkdir makes sure of a directory.
type Mkdir struct {
	Path string
	User string // who owns what has to be made
}

// Options of File.Plan.
type Options struct {
	Args   map[string]string // of --build-arg
	Target string            // the name or number of a stage; empty: the last one
	Arch   string            // of this host, as OCI has it: amd64
	// Base gives the configuration of an image that a stage begins with.
	Base func(ref string) (Config, error)
}

// at makes an error of a line: FILE:LINE: what.
func (f *Dockerfile) at(line int, err error) error {
	if line <= 0 {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	return fmt.Errorf("%s:%d: %w", f.Name, line, err)
}

// invalid is an error of the text.
func invalid(format string, args ...any) error {
	return banger.Errorf(banger.Invalid, format, args...)
}

// unsupported is an error of what banger does not do.
func unsupported(format string, args ...any) error {
	return banger.Errorf(banger.Unsupported, format+" is not supported", args...).
		WithHint("what is: docs/images.md, Building")
}
