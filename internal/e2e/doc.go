// Package e2e drives the real binary, daemon and machines from end to end.
package e2e
