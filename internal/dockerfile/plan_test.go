package dockerfile

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"banger"
)

// base is the image that every reference means here.
func base(ref string) (Config, error) {
	if strings.HasPrefix(ref, "missing") {
		return Config{}, banger.Errorf(banger.NotFound, "no image named %q", ref)
	}
	return Config{Env: []string{"PATH=/bin", "FROM=" + ref}, Cmd: []string{"/bin/bash"}, OnBuild: nil}, nil
}

func planOf(text string, o Options) (*Plan, error) {
	f, err := Parse("Dockerfile", []byte(text))
	if err != nil {
		return nil, err
	}
	if o.Base == nil {
		o.Base = base
	}
	o.Arch = "amd64"
	return f.Plan(o)
}

func mustPlan(t *testing.T, text string, o Options) *Plan {
	t.Helper()
	p, err := planOf(text, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// target is the last stage with its operations alone.
func target(p *Plan) (*Stage, []any) {
	s := p.Stages[len(p.Stages)-1]
	var ops []any
	for _, step := range s.Steps {
		if step.Op != nil {
			ops = append(ops, step.Op)
		}
	}
	return s, ops
}

func TestPlanOps(t *testing.T) {
	t.Parallel()
	env := []string{"PATH=/bin", "FROM=b"}
	for _, tt := range []struct {
		name, text string
		want       any
	}{
		{"shell", "RUN echo a && \\\n  echo b", &Run{Argv: []string{"/bin/sh", "-c", "echo a &&   echo b"}, Env: env, Dir: "/"}},
		{"exec", `RUN ["a", "b c"]`, &Run{Argv: []string{"a", "b c"}, Env: env, Dir: "/"}},
		{"another shell", "SHELL [\"bash\", \"-ec\"]\nRUN x", &Run{Argv: []string{"bash", "-ec", "x"}, Env: env, Dir: "/"}},
		{"heredoc", "RUN <<EOF\na\nb $X\nEOF", &Run{Argv: []string{"/bin/sh", "-c", "a\nb $X\n"}, Env: env, Dir: "/"}},
		{"heredoc without tabs", "RUN <<-EOF\n\ta\n\tEOF", &Run{Argv: []string{"/bin/sh", "-c", "a\n"}, Env: env, Dir: "/"}},
		{"script", "RUN <<EOF\n#!/usr/bin/python3\nprint(1)\nEOF", &Run{Argv: []string{"/bin/sh", "-c", "/dev/pipes/EOF"},
			Files: []File{{"EOF", "#!/usr/bin/python3\nprint(1)\n"}}, Env: env, Dir: "/"}},
		{"heredoc of the shell", "RUN cat <<A >x\none\nA", &Run{Argv: []string{"/bin/sh", "-c", "cat <<A >x\none\nA"}, Env: env, Dir: "/"}},
		{"user", "USER me:us\nRUN x", &Run{Argv: []string{"/bin/sh", "-c", "x"}, Env: env, Dir: "/", User: "me:us"}},
		{"no network", "RUN --network=none x", &Run{Argv: []string{"/bin/sh", "-c", "x"}, Env: env, Dir: "/", NoNetwork: true}},
		{"mounts", "RUN --mount=type=cache,target=/c,id=me,uid=7,mode=0700 --mount=type=tmpfs,target=t,size=1m x", &Run{
			Argv: []string{"/bin/sh", "-c", "x"}, Env: env, Dir: "/", Mounts: []Mount{
				{Type: "cache", Target: "/c", ID: "me", UID: 7, Mode: 0o700}, {Type: "tmpfs", Target: "/t", Size: 1 << 20, Mode: 0o755}}}},
		{"copy", "COPY a /b", &Copy{Sources: []string{"a"}, Dest: "/b"}},
		{"copy into", "COPY --chown=1:2 --chmod=755 --link a ../b/ /c/", &Copy{Sources: []string{"a", "b"}, Dest: "/c", IntoDir: true, Chown: "1:2", Chmod: "755"}},
		{"copy the context", "COPY . .", &Copy{Sources: []string{"."}, Dest: "/", IntoDir: true}},
		{"copy a heredoc", "COPY <<EOF /x\nhello $FROM\nEOF", &Copy{Files: []File{{"EOF", "hello b\n"}}, Dest: "/x"}},
		{"copy a quoted heredoc", "COPY <<\"EOF\" /x\nhello $FROM\nEOF", &Copy{Files: []File{{"EOF", "hello $FROM\n"}}, Dest: "/x"}},
		{"copy from an image", "COPY --from=other:1 /x y", &Copy{From: Source{Image: "other:1"}, Sources: []string{"x"}, Dest: "/y"}},
		{"add", "ADD x.tar /y/", &Copy{Sources: []string{"x.tar"}, Dest: "/y", IntoDir: true, Unpack: true}},
		{"add a URL", "ADD --checksum=sha256:" + strings.Repeat("a", 64) + " https://x/y.tgz /z", &Copy{URL: "https://x/y.tgz",
			Checksum: "sha256:" + strings.Repeat("a", 64), Dest: "/z"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, ops := target(mustPlan(t, "FROM b\n"+tt.text, Options{}))
			if len(ops) != 1 || !reflect.DeepEqual(ops[0], tt.want) {
				got, _ := json.Marshal(ops)
				want, _ := json.Marshal(tt.want)
				t.Errorf("got  %s\nwant [%s]", got, want)
			}
		})
	}
}

func TestPlanWorkdir(t *testing.T) {
	t.Parallel()
	s, ops := target(mustPlan(t, "FROM b\nWORKDIR /a\nWORKDIR b\nUSER u\nWORKDIR ../c\nCOPY x .\nRUN y", Options{}))
	var dirs []string
	for _, op := range ops {
		switch op := op.(type) {
		case *Mkdir:
			dirs = append(dirs, op.Path+" "+op.User)
		case *Copy:
			dirs = append(dirs, op.Dest)
		case *Run:
			dirs = append(dirs, op.Dir)
		}
	}
	if want := []string{"/a ", "/a/b ", "/a/c u", "/a/c", "/a/c"}; !slices.Equal(dirs, want) || s.Config.WorkingDir != "/a/c" {
		t.Errorf("got %q, want %q", dirs, want)
	}
}

func TestPlanConfig(t *testing.T) {
	t.Parallel()
	s, _ := target(mustPlan(t, `FROM b
ENV A=1 B="two words" PATH=$PATH:/x
ENV C $A-${B:-none}-${NONE:-none}
LABEL k=v "with space"=$A
EXPOSE 80 90-91/udp $A
VOLUME /data ["x"]
VOLUME ["/json"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=2 CMD curl x
ENTRYPOINT ["/e"]
USER me
ONBUILD RUN later
MAINTAINER somebody`, Options{}))
	want := Config{User: "me", Env: []string{"PATH=/bin:/x", "FROM=b", "A=1", "B=two words", "C=1-two words-none"}, Entrypoint: []string{"/e"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "90/udp": {}, "91/udp": {}, "1/tcp": {}},
		Volumes:      map[string]struct{}{"/data": {}, "[x]": {}, "/json": {}},
		Labels:       map[string]string{"k": "v", "with space": "1"}, StopSignal: "SIGINT", OnBuild: []string{"RUN later"},
		Healthcheck: &Healthcheck{Test: []string{"CMD-SHELL", "curl x"}, Interval: 5e9, Retries: 2}}
	if !reflect.DeepEqual(s.Config, want) || s.Author != "somebody" {
		got, _ := json.Marshal(s.Config)
		js, _ := json.Marshal(want)
		t.Errorf("got  %s\nwant %s", got, js)
	}
}

func TestPlanArgs(t *testing.T) {
	t.Parallel()
	text := `ARG BASE=b
ARG TAG=$BASE-1
FROM $TAG
ARG V=1
ARG W=$V-x
ARG BASE
ARG UNSET
ARG TARGETARCH
ENV E=env
ARG E=arg
RUN x`
	run := func(args map[string]string) (*Run, *Plan) {
		p := mustPlan(t, text, Options{Args: args})
		_, ops := target(p)
		return ops[0].(*Run), p
	}
	got, _ := run(nil)
	if want := []string{"V=1", "W=1-x", "BASE=b", "TARGETARCH=amd64", "E=env", "PATH=/bin", "FROM=b-1"}; !slices.Equal(got.Env, want) {
		t.Errorf("got %q, want %q", got.Env, want)
	}
	got, p := run(map[string]string{"V": "2", "BASE": "z", "http_proxy": "p", "NOBODY": "x", "UNSET": ""})
	if want := []string{"V=2", "W=2-x", "BASE=z", "UNSET=", "TARGETARCH=amd64", "E=env", "PATH=/bin", "FROM=z-1"}; !slices.Equal(got.Env, want) {
		t.Errorf("got %q, want %q", got.Env, want)
	}
	if !slices.Equal(got.Proxies, []string{"http_proxy=p"}) {
		t.Errorf("proxies %q", got.Proxies)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "NOBODY") {
		t.Errorf("warnings %q", p.Warnings)
	}
}

func TestPlanStages(t *testing.T) {
	t.Parallel()
	text := `FROM a AS build
RUN make
FROM unused AS nobody
RUN x
FROM build AS test
RUN test
FROM scratch
COPY --from=build /out /
COPY --from=0 /more /
COPY --from=other /x /`
	for _, tt := range []struct {
		target string
		names  []string
	}{{"", []string{"build", "stage-3"}}, {"test", []string{"build", "test"}}, {"BUILD", []string{"build"}}, {"1", []string{"nobody"}}} {
		p := mustPlan(t, text, Options{Target: tt.target})
		var names []string
		for _, s := range p.Stages {
			names = append(names, s.Name)
		}
		if !slices.Equal(names, tt.names) {
			t.Errorf("target %q: %q, want %q", tt.target, names, tt.names)
		}
	}
	p := mustPlan(t, text, Options{})
	s, ops := target(p)
	if !s.Base.Scratch || ops[0].(*Copy).From.Stage != p.Stages[0] || ops[1].(*Copy).From.Stage != p.Stages[0] || ops[2].(*Copy).From.Image != "other" {
		t.Errorf("%+v", s)
	}
}

// The triggers of a base run first, and are not handed on.
func TestPlanOnbuild(t *testing.T) {
	t.Parallel()
	config := Config{OnBuild: []string{"COPY a /a", "ENV X=1"}}
	s, ops := target(mustPlan(t, "FROM b\nRUN x", Options{Base: func(string) (Config, error) { return config, nil }}))
	if len(ops) != 2 || ops[0].(*Copy).Dest != "/a" || ops[1].(*Run).Env[1] != "X=1" || s.Config.OnBuild != nil || s.Config.Env[0] != "PATH="+defaultPath {
		t.Errorf("%+v", s)
	}
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct {
		kind banger.Kind
		says string
	}{
		"":                                       {banger.Invalid, "Dockerfile: file with no instructions"},
		"RUN x":                                  {banger.Invalid, "Dockerfile:1: no build stage"},
		"FROM a\nFOO x":                          {banger.Invalid, "Dockerfile:2: unknown instruction: FOO"},
		"FROM a\n\nCOPY x":                       {banger.Invalid, "Dockerfile:3: COPY requires"},
		"FROM a\nRUN <<EOF\nx":                   {banger.Invalid, "Dockerfile:2: unterminated heredoc"},
		"FROM missing":                           {banger.NotFound, "Dockerfile:1: no image named"},
		"FROM $NONE":                             {banger.Invalid, "Dockerfile:1: "},
		"FROM --platform=linux/arm64 a":          {banger.Unsupported, "Dockerfile:1: a build for"},
		"FROM a\nRUN --mount=type=secret,id=x y": {banger.Unsupported, "Dockerfile:2: RUN --mount=type=secret is not supported"},
		"FROM a\nRUN --mount=type=bind,target=/x y":                               {banger.Unsupported, "Dockerfile:2: RUN --mount=type=bind"},
		"FROM a\nRUN --mount=type=tmpfs,target=/proc/x y":                         {banger.Invalid, "Dockerfile:2: RUN --mount at /proc/x"},
		"FROM a\nRUN --network=host y":                                            {banger.Unsupported, "Dockerfile:2: RUN --network=host"},
		"FROM a\nRUN --security=insecure y":                                       {banger.Unsupported, "Dockerfile:2: RUN --security"},
		"FROM a\nADD git@x:y /z":                                                  {banger.Unsupported, "Dockerfile:2: ADD of a git"},
		"FROM a\nADD --checksum=md5:1 https://x/y /z":                             {banger.Invalid, "Dockerfile:2: --checksum"},
		"FROM a\nCOPY --chmod=u+x a /b":                                           {banger.Unsupported, "Dockerfile:2: --chmod"},
		"FROM a\nCOPY a b /c":                                                     {banger.Invalid, "Dockerfile:2: with several sources"},
		"FROM a\nCOPY --parents a /b/":                                            {banger.Unsupported, "Dockerfile:2: COPY --parents"},
		"FROM a AS x\nCOPY --from=x a b":                                          {banger.Invalid, "Dockerfile:2: COPY --from=x"},
		"FROM a\nEXPOSE 99999":                                                    {banger.Invalid, "Dockerfile:2: EXPOSE"},
		"FROM a\nONBUILD FROM x":                                                  {banger.Invalid, "Dockerfile:2: "},
		"FROM a\nARG A=" + strings.Repeat("x", 40<<10) + "\nARG B=$A$A\nARG C=$B": {banger.Invalid, "Dockerfile:3: the value of B is longer"},
		"FROM a\nARG A=" + strings.Repeat("x", 60<<10) + "\nRUN x\nARG B=" + strings.Repeat("$A", 1000): {banger.Invalid, "Dockerfile:4: its variables"},
	} {
		_, err := planOf(text, Options{})
		var own *banger.Error
		if !errors.As(err, &own) || own.Kind != want.kind || !strings.HasPrefix(err.Error(), want.says) {
			t.Errorf("%.60q: %v, want %s %q", text, err, want.kind, want.says)
		}
	}
}

// The parser and the expansion of variables end, and do not panic, whatever the text.
func FuzzPlan(f *testing.F) {
	for _, seed := range []string{"FROM a\nRUN x", "ARG A=1\nFROM $A AS b\nCOPY --from=b <<E /x\n$A\nE\n", "# escape=`\nFROM a\nRUN a`\nb",
		"FROM a\nRUN --mount=type=cache,target=/x <<-E y\n\tE", "FROM a\nENV A=${B:-$C} D=${A//x/y}\nEXPOSE $A 1-2", "FROM scratch\nADD http://x/y z\nONBUILD RUN x"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := planOf(string(text), Options{Args: map[string]string{"A": "x y"}})
		if err != nil {
			var own *banger.Error
			if !errors.As(err, &own) {
				t.Fatalf("not one of ours: %v", err)
			}
			return
		}
		for _, s := range p.Stages {
			key := ""
			for _, step := range s.Steps {
				key = step.Key(key, "")
			}
		}
	})
}
