package dockerfile

import (
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// run resolves a RUN.
func (s *stageBuilder) run(c *instructions.RunCommand, scope *vars) (any, error) {
	op := &Run{Env: s.environment(), Dir: s.dir("."), User: s.Config.User}
	switch mode := instructions.GetNetwork(c); mode {
	case instructions.NetworkNone:
		op.NoNetwork = true
	case instructions.NetworkHost:
		return nil, unsupported("RUN --network=host: the command runs in a machine of its own, whose network is not the host's, so it")
	}
	if mode := instructions.GetSecurity(c); mode != instructions.SecuritySandbox {
		return nil, unsupported("RUN --security=%s", mode)
	}
	if len(instructions.GetDevices(c)) > 0 {
		return nil, unsupported("RUN --device")
	}
	for _, m := range instructions.GetMounts(c) {
		mount, err := s.mount(m)
		if err != nil {
			return nil, err
		}
		op.Mounts = append(op.Mounts, mount)
	}
	for _, name := range proxies {
		if value, ok := s.p.options.Args[name]; ok {
			if _, set := scope.Get(name); !set {
				op.Proxies = append(op.Proxies, name+"="+value)
			}
		}
	}
	return op, s.commandLine(op, c)
}

// environment is what a command of the stage gets: arguments, and the
// environment, which goes before them.
func (s *stageBuilder) environment() []string { return s.scope().list() }

// commandLine resolves the command of a RUN with its heredocs, as BuildKit does:
// one that is a heredoc is a script, with a #! line a file of its own; any
// other heredoc is left to the shell.
func (s *stageBuilder) commandLine(op *Run, c *instructions.RunCommand) error {
	line := c.CmdLine
	if len(c.Files) > 0 {
		if len(line) != 1 || !c.PrependShell {
			return invalid("a heredoc needs the shell form of RUN")
		}
		data := c.Files[0].Data
		if c.Files[0].Chomp {
			data = parser.ChompHeredocContent(data)
		}
		switch doc := parser.MustParseHeredoc(line[0]); {
		case doc == nil:
			full := line[0]
			for _, f := range c.Files {
				full += "\n" + f.Data + f.Name
			}
			line = []string{full}
		case strings.HasPrefix(data, "#!"):
			name := path.Base(c.Files[0].Name)
			op.Files = []File{{Name: name, Data: data}}
			line = []string{ScriptDir + "/" + name}
		default:
			line = []string{data}
		}
	}
	if c.PrependShell {
		line = append(s.shell()[:len(s.shell()):len(s.shell())], line...)
	}
	op.Argv = line
	return op.check()
}

// check refuses what no guest could be told to run.
func (r *Run) check() error {
	if len(r.Argv) == 0 || r.Argv[0] == "" {
		return invalid("RUN without a command")
	}
	size := 0
	for _, list := range [][]string{r.Argv, r.Env, r.Proxies} {
		for _, word := range list {
			size += len(word) + 8
			if strings.ContainsRune(word, 0) {
				return invalid("a NUL byte in its words or variables")
			}
		}
	}
	for _, f := range r.Files {
		size += len(f.Data)
	}
	if size > maxScript {
		return invalid("the command with its variables is longer than %d KiB", maxScript>>10)
	}
	return nil
}

// mount resolves --mount of a RUN.
func (s *stageBuilder) mount(m *instructions.Mount) (Mount, error) {
	switch m.Type {
	case instructions.MountTypeCache, instructions.MountTypeTmpfs:
	case instructions.MountTypeBind:
		return Mount{}, unsupported("RUN --mount=type=bind: COPY the files instead; it")
	default:
		return Mount{}, unsupported("RUN --mount=type=%s", m.Type)
	}
	if m.From != "" || m.Source != "" {
		return Mount{}, unsupported("RUN --mount=type=%s with from or source", m.Type)
	}
	mount := Mount{Type: string(m.Type), Target: s.dir(m.Target), Size: m.SizeLimit, Mode: 0o755}
	if m.Target == "" || mount.Target == "/" {
		return Mount{}, invalid("RUN --mount=type=%s without a target", m.Type)
	}
	for _, taken := range []string{"/proc", "/sys", "/dev"} {
		if mount.Target == taken || strings.HasPrefix(mount.Target, taken+"/") {
			return Mount{}, invalid("RUN --mount at %s, which is the kernel's", mount.Target)
		}
	}
	if m.Type == instructions.MountTypeCache {
		if mount.ID = m.CacheID; mount.ID == "" {
			mount.ID = mount.Target
		}
		for _, n := range []struct {
			from *uint64
			to   *uint32
		}{{m.Mode, &mount.Mode}, {m.UID, &mount.UID}, {m.GID, &mount.GID}} {
			if n.from != nil {
				*n.to = uint32(*n.from)
			}
		}
	}
	return mount, checkPath(mount.Target)
}

// copy resolves a COPY.
func (s *stageBuilder) copy(c *instructions.CopyCommand) (any, error) {
	if c.Parents {
		return nil, unsupported("COPY --parents")
	}
	if len(c.ExcludePatterns) > 0 {
		return nil, unsupported("COPY --exclude")
	}
	op := &Copy{Chown: c.Chown, Chmod: c.Chmod}
	if c.From != "" {
		if k := s.p.find(c.From, s.Index); k >= 0 {
			op.From.Stage = s.p.done[k]
		} else if strings.EqualFold(c.From, s.Name) {
			return nil, invalid("COPY --from=%s: a stage cannot copy from itself", c.From)
		} else {
			op.From.Image = c.From
		}
	}
	if len(c.SourceContents) > 0 && c.From != "" {
		return nil, invalid("COPY --from with a heredoc")
	}
	return op, s.files(op, c.SourcesAndDest)
}

// files resolves sources and destination.
func (s *stageBuilder) files(op *Copy, c instructions.SourcesAndDest) error {
	for _, src := range c.SourcePaths {
		clean := strings.TrimPrefix(path.Clean("/"+src), "/") // out of the context is not to be had
		if clean == "" {
			clean = "."
		}
		if err := checkPath(clean); err != nil {
			return err
		}
		if _, err := path.Match(clean, ""); err != nil {
			return invalid("source %q: %w", src, err)
		}
		op.Sources = append(op.Sources, clean)
	}
	for _, f := range c.SourceContents {
		op.Files = append(op.Files, File{Name: path.Base(f.Path), Data: f.Data})
	}
	if err := checkMode(op.Chmod); err != nil {
		return err
	}
	return s.destination(op, c.DestPath, len(op.Sources)+len(op.Files))
}

func checkMode(mode string) error {
	if mode == "" {
		return nil
	}
	if n, err := strconv.ParseUint(mode, 8, 32); err != nil || n > 0o7777 {
		return unsupported("--chmod=%.40s: an octal number is; it", mode)
	}
	return nil
}

var checksumGrammar = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`) })

// addFiles resolves an ADD.
func (s *stageBuilder) addFiles(c *instructions.AddCommand) (any, error) {
	if len(c.ExcludePatterns) > 0 {
		return nil, unsupported("ADD --exclude")
	}
	if c.KeepGitDir != nil {
		return nil, unsupported("ADD --keep-git-dir, or any git repository,")
	}
	op := &Copy{Chown: c.Chown, Chmod: c.Chmod, Unpack: c.Unpack == nil || *c.Unpack, Checksum: c.Checksum}
	local := c.SourcesAndDest
	local.SourcePaths = nil
	for _, src := range c.SourcePaths {
		switch {
		case isGit(src):
			return nil, unsupported("ADD of a git repository")
		case strings.HasPrefix(src, "http://"), strings.HasPrefix(src, "https://"):
			if len(c.SourcePaths)+len(c.SourceContents) > 1 {
				return nil, unsupported("ADD of a URL beside other sources")
			}
			op.URL = src
			op.Unpack = c.Unpack != nil && *c.Unpack
		default:
			local.SourcePaths = append(local.SourcePaths, src)
		}
	}
	switch {
	case c.Checksum != "" && op.URL == "":
		return nil, unsupported("ADD --checksum of what is not a URL")
	case c.Checksum != "" && !checksumGrammar().MatchString(c.Checksum):
		return nil, invalid("--checksum=%.80q: want sha256: and 64 hex digits", c.Checksum)
	}
	return op, s.files(op, local)
}

func isGit(src string) bool {
	return strings.HasPrefix(src, "git://") || strings.HasPrefix(src, "git@") || strings.HasPrefix(src, "ssh://") ||
		strings.HasPrefix(src, "http") && strings.Contains(src, "://") && strings.HasSuffix(strings.SplitN(src, "#", 2)[0], ".git")
}

// maxPort is the last TCP port.
const maxPort = 65535

func parsePorts(spec string) (first, last int, proto string, err error) {
	ports, proto, ok := strings.Cut(spec, "/")
	if proto = strings.ToLower(proto); !ok {
		proto = "tcp"
	}
	a, b, isRange := strings.Cut(ports, "-")
	if !isRange {
		b = a
	}
	first, err1 := strconv.Atoi(a)
	last, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil || first < 1 || last < first || last > maxPort || proto != "tcp" && proto != "udp" && proto != "sctp" {
		return 0, 0, "", invalid("EXPOSE %.40q: want PORT[-PORT][/tcp|udp|sctp]", spec)
	}
	return first, last, proto, nil
}

func portName(n int, proto string) string { return strconv.Itoa(n) + "/" + proto }
