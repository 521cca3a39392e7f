//go:build e2e && large

package e2e

import "testing"

func TestManyLarge(t *testing.T) { many(t, 50) }
