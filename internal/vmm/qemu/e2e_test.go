//go:build e2e

package qemu

import (
	"testing"

	"banger/internal/vmm/vmmtest"
)

func TestConformance(t *testing.T) { vmmtest.Run(t, New()) }
