// Package arch holds the tests of the project's architecture.
package arch
