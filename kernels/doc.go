// Package kernels holds the options of banger's own guest kernels, and the
// tests of them and of scripts/make-generic-kernel.sh, which builds them.
package kernels
