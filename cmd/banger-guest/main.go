// Command banger-guest is the one program that banger puts into a guest: pid 1, the shutdown of it, and the agent.
package main

import (
	"os"

	"banger/internal/guest"
)

func main() { os.Exit(guest.Main(os.Getpid(), os.Args)) }
