// Package banger holds the nouns of banger, its errors and the Go client of its daemon.
package banger
