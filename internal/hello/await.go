package hello

// AwaitSubsystem takes one line, what to wait for: AwaitTCP or AwaitUnit and
// what it is for. It answers with a line for each change of what was seen in
// its place, and ends with the exit status 0 when it is there. It waits until the
// session is closed.
const AwaitSubsystem = "await@banger"

// The beginnings of what can be waited for.
const (
	AwaitTCP  = "tcp:"  // then a port of the guest's loopback, which somebody listens on
	AwaitUnit = "unit:" // then the name of a unit of systemd, which is active
)

// MaxAwait bounds a line of AwaitSubsystem, in bytes, both ways.
const MaxAwait = 512
