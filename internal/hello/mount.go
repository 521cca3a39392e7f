package hello

// MountSubsystem mounts a folder of the host. It takes one line of JSON, a
// Mount, and answers two: a MountTicket at once, a MountResult once the folder is
// mounted, or is not. In between a stream to DataPort, which begins with the
// ticket's token and a newline, carries 9P2000.L, of which the host is the server;
// it lasts as long as the mount.
const MountSubsystem = "mount@banger"

// MaxMount bounds each of the lines, in bytes.
const MaxMount = 16 << 10

// Mount says where a folder of the host is to be mounted, in the place of what
// an agent before this one may have mounted there.
type Mount struct {
	Target   string `json:"target"` // absolute
	ReadOnly bool   `json:"read_only,omitempty"`
}

// MountTicket names the order for its stream.
type MountTicket struct {
	Token string `json:"token"` // TokenSize hexadecimal digits
}

// MountResult is what became of it.
type MountResult struct {
	Error string `json:"error,omitempty"` // empty: it is mounted
}
