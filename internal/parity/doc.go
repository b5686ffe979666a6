// Package parity runs cases: folders that hold inputs, weights and the outputs that another implementation computed. It
// is what `spin-native check` prints and what the tests of the networks compare with.
//
// A case is a folder with
//
//	case.json         kind, configuration, list of weights files, runs, tolerances
//	io.safetensors    every input and expected output, NCHW
//	model.*           the weights
//
// Each entry of "weights" holds the same model and must give the same results.
package parity
