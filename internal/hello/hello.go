// Package hello is how host and guest find each other on one raw byte stream, and what the host tells the guest.
//
// The stream is a virtio-serial port. It has no message boundaries, and around
// a reconnect of either end bytes may be lost, stale or half a frame of the
// session before. So both sides prove with fresh nonces that the other one
// hears them now, in single lines, before they speak yamux:
//
//	guest                                        host
//	  |   <-- banger1 reset ----------------------- |   I am new here, say hello again
//	  | --- banger1 hello <g> <stage> ----------->  |   g is new in every hello
//	  |   <-- banger1 ok <g> <h> <config json> ---- |   h is new in every ok
//	  | --- banger1 go <h> ---------------------->  |
//	  |                                             |
//	  |   stage boot:  the host waits for the next hello
//	  |   stage agent: yamux, the guest is its server
//	  |                                             |
//	  | --- banger1 fail <json {"message"}> ----->  |   pid 1 cannot go on
//
// The guest takes only the ok for its newest g, the host only the go for its
// newest h; both skip whatever else comes. A line is sent with a newline in
// front, so that half a line before it cannot swallow it. A side that finds no
// answer repeats itself behind a filler of newlines that is longer than any
// frame (MaxFrame) the other side may still be waiting for the rest of: a
// yamux frame never begins with a newline, so the other side's session breaks
// and it comes back here.
package hello

import "time"

// The stages of a guest that says hello.
const (
	Boot  = "boot"  // pid 1 wants its configuration
	Agent = "agent" // the agent wants to speak yamux
)

// Limits of the lines, in bytes with the newline.
const (
	MaxOK   = 256 << 10 // an ok, which holds the configuration
	MaxLine = 1 << 10   // any other line but fail
	MaxFail = 32 << 10  // a fail: MaxMessage bytes, escaped
)

// MaxMessage bounds the text of a fail, in bytes.
const MaxMessage = 4 << 10

// FlatRoot is the word of the kernel's command line that says that the machine's
// root is its own disk alone, a copy of the image. It is no part of Config
// because the guest mounts its root while the host's answer is under way.
const FlatRoot = "banger.root=flat"

// MaxFrame bounds the data of one yamux frame, in bytes, in both directions.
// What is written to a yamux stream has to be cut accordingly (see Chunk), and
// Guard refuses what is longer.
const MaxFrame = 64 << 10

const magic = "banger1"

// Config is what the host tells the guest at each hello.
type Config struct {
	Version        string   `json:"version"`               // of banger on the host
	ID             string   `json:"id"`                    // of the VM, 12 hex digits
	Hostname       string   `json:"hostname"`              // a DNS label
	MachineID      string   `json:"machine_id"`            // for /etc/machine-id, 32 hex digits
	HostKey        string   `json:"host_key"`              // private SSH host key, OpenSSH PEM
	AuthorizedKeys []string `json:"authorized_keys"`       // authorized_keys lines
	Time           int64    `json:"time"`                  // the host's clock, nanoseconds since 1970
	Net            *Net     `json:"net,omitempty"`         // nil: no network
	Init           string   `json:"init,omitempty"`        // auto, banger, systemd or provision; empty is auto
	Env            []string `json:"env,omitempty"`         // the image's, NAME=value
	WorkingDir     string   `json:"working_dir,omitempty"` // the image's
	User           string   `json:"user,omitempty"`        // the image's: user[:group], names or numbers
	Modules        bool     `json:"modules,omitempty"`     // the fourth disk has the kernel's modules
	Files          string   `json:"files,omitempty"`       // the device of a tar of files for the root, to be written once
	Mounts         int      `json:"mounts,omitempty"`      // so many folders the host is going to have mounted before the machine is ready
}

// Net is the guest's one network interface.
type Net struct {
	MAC     string   `json:"mac"`              // finds the interface, 02:...
	Address string   `json:"address"`          // with prefix length: 192.168.127.2/24
	Gateway string   `json:"gateway"`          // an address
	DNS     []string `json:"dns"`              // addresses
	Search  []string `json:"search,omitempty"` // DNS search domains
}

// Stream is the raw byte stream: a net.Conn, or an *os.File of a device that
// the Go poller knows.
type Stream interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}
