// Package imagefile reads and writes the pictures that go into and come out of
// the engine.
//
// Read turns a PNG, JPEG, WebP, TIFF or BMP file into float32 values in
// [-1, 1], the range in which the networks and the solver work, and keeps what
// the engine does not touch (transparency, bit depth, colour profile) so that
// Write can put it back. Grey, palette and CMYK pictures become RGB.
//
// # Rules
//
//   - Pixels are RGB interleaved, row by row: value (x, y, c) is Pix[(y*W+x)*3+c].
//   - x = v/127.5 - 1 for 8-bit samples and v/32767.5 - 1 for 16-bit ones; back by
//     rounding half away from zero, after clipping.
//   - Colours are never premultiplied with alpha, so the colour under a
//     transparent pixel survives a round trip.
//   - The EXIF orientation is applied while reading and is not written again.
//   - Colour profiles are carried along, never converted (see Image.ProfileName).
//   - Files are told apart by their content; the extension decides only how an
//     output is written.
//   - A file is not trusted: the size it claims is checked against a limit and
//     against the amount of data present before anything large is allocated, and
//     a panic in a decoder becomes an error.
//   - Outputs are written whole or not at all.
//
// Every error about a file is a *Error: one line that names the file and says what
// to do.
package imagefile
