package hello

// CopySubsystem moves files. It takes one line of JSON, a parcel.Order, and
// answers two: a parcel.Ticket at once, a parcel.Result at the end. Its exit
// status is 0 if the second one was written.
//
// The data go over a stream of their own, to DataPort, which begins with the
// ticket's token and a newline: whoever was let in by SSH moves them without
// being slowed down by its encryption, which a machine without AES of its own
// spends most of its time on. The way is the host user's own, as that of SSH is.
const CopySubsystem = "copy@banger"

// DataPort is the port for the data of a CopySubsystem.
const DataPort = 23

// RoleCopy is the argument of GuestProgram that carries a parcel.Order out: the
// order and then data on stdin, data on stdout, a parcel.Result on stderr.
const RoleCopy = "copy"

// TokenSize is the length of a token, in hexadecimal digits.
const TokenSize = 32
