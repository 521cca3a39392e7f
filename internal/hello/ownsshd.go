package hello

// OwnSSHDSubsystem lets a key in at the SSH server that the image itself runs. It
// takes one line of JSON, an OwnSSHD, and answers one, an OwnSSHDKeys.
const OwnSSHDSubsystem = "own-sshd@banger"

// OwnSSHD says whose key is to be let in, and as whom.
type OwnSSHD struct {
	User string `json:"user"` // empty is root
	Key  string `json:"key"`  // a line of authorized_keys; empty: nobody is let in, only the host keys are told
}

// OwnSSHDKeys are the host keys of that server, public, in the format of authorized_keys.
type OwnSSHDKeys struct {
	HostKeys []string `json:"host_keys"`
}

// MaxOwnSSHD bounds an OwnSSHD in JSON, in bytes.
const MaxOwnSSHD = 16 << 10
