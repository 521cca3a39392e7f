// Package architecture holds the rules of this code base as tests.
package architecture
