// Command rawport is a machine's init that does nothing but move bytes over the raw port to the host, to measure it.
//
// After the handshake it takes orders, a letter and a number of bytes in eight:
// it reads as many and answers "k" (r), or writes as many (w).
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"banger/internal/guest/sshd"
	"banger/internal/hello"
)

func main() {
	fmt.Println("rawport:", run())
	select {} // pid 1 must not end
}

func run() error {
	ctx := context.Background() // as long as the machine lives
	port, err := sshd.OpenPort(ctx, sshd.PortName)
	if err != nil {
		return err
	}
	_, st, err := sshd.Ask(ctx, port, hello.Agent)
	if err != nil {
		return err
	}
	buf := make([]byte, hello.MaxFrame)
	for {
		var order [9]byte
		if _, err := io.ReadFull(st, order[:]); err != nil {
			return err
		}
		n := int64(binary.BigEndian.Uint64(order[1:]))
		if order[0] == 'w' {
			for ; n > 0; n -= int64(len(buf)) {
				if _, err := st.Write(buf[:min(n, int64(len(buf)))]); err != nil {
					return err
				}
			}
			continue
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(st, n), buf); err != nil {
			return err
		}
		if _, err := st.Write([]byte("k")); err != nil {
			return err
		}
	}
}
