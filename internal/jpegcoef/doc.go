// Package jpegcoef reads the quantised coefficients of JPEG files, and the tables that they were quantised with, as they
// are in the file: no inverse transform, no colours. It knows baseline, extended and progressive files of 8 bits with
// Huffman coding.
//
// A file may say anything. Sizes are checked before memory is taken, progressive scans are bounded in number, and a file
// that ends early or is broken is an error, never a crash or a hang.
package jpegcoef
