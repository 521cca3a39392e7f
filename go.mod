module banger

go 1.26.0

require (
	github.com/google/go-containerregistry v0.22.1 // references, logins and token exchange of registries
	github.com/hashicorp/yamux v0.1.2 // many streams over the one virtio-serial port
	github.com/klauspost/compress v1.20.3 // gzip 1.3 times as fast as the standard library's, and zstd
	github.com/mikelolasagasti/xz v1.0.1 // xz, with its filter for x86 code, which ulikunitz/xz lacks: kernels and tars packed with it
	github.com/moby/buildkit v0.31.2 // the parser of Dockerfiles, and nothing else of it
	github.com/moby/patternmatcher v0.6.1 // .dockerignore files, as docker reads them
	github.com/pelletier/go-toml/v2 v2.4.3 // the configuration file, with the line of what is wrong in it
	github.com/pierrec/lz4/v4 v4.1.33 // kernels packed with lz4
	github.com/pkg/sftp v1.13.12 // the sftp subsystem of the guest's SSH server
	github.com/spf13/cobra v1.10.2 // commands, help and shell completions
	github.com/ulikunitz/xz v0.5.17 // kernels packed with lzma
	golang.org/x/crypto v0.58.0 // SSH, the protocol between host and guest
	golang.org/x/sys v0.49.0 // system calls that package syscall lacks
	golang.org/x/term v0.47.0 // raw mode and size of a terminal
)

// Test dependencies.
require (
	github.com/hugelgupf/p9 v0.3.0 // somebody else's 9P client, against the server of shared folders
	github.com/rogpeppe/go-internal v1.16.0 // testscript: the command line's contract as scripts
)

require (
	github.com/agext/levenshtein v1.2.3 // indirect
	github.com/containerd/typeurl/v2 v2.3.0 // indirect
	github.com/docker/cli v29.7.2+incompatible // indirect
	github.com/docker/docker-credential-helpers v0.9.8 // indirect
	github.com/docker/go-units v0.5.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/kr/fs v0.1.0 // indirect
	github.com/moby/docker-image-spec v1.3.1 // indirect
	github.com/opencontainers/go-digest v1.0.0 // indirect
	github.com/opencontainers/image-spec v1.1.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/planetscale/vtprotobuf v0.6.1-0.20240319094008-0393e58bdf10 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	github.com/tonistiigi/go-csvvalue v0.0.0-20240814133006-030d3b2625d0 // indirect
	github.com/u-root/uio v0.0.0-20230305220412-3e8cd9d6bf63 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/tools v0.49.0 // indirect
	google.golang.org/protobuf v1.36.11 // indirect
	gotest.tools/v3 v3.5.2 // indirect
)
