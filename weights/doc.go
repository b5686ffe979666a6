// Package weights reads and writes the files that hold a network: safetensors, plain, zstd-compressed or sharded.
//
//	f, err := weights.Open("model.safetensors") // or .zst, a folder, or a *.safetensors.index.json
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	info, err := f.Info()                            // configuration, schedule, ranges, from the metadata
//	s := f.Scope().At("input_blocks", 3, 0)
//	w := s.Floats("in_layers.2.weight", 64, 32, 3, 3) // panics with *tensor.Error if it is not so
//	...
//	return f.CheckAllRead()
//
// # Trust
//
// Files come from strangers. The header is read by a parser of its own that refuses every doubt: duplicate names or
// fields, numbers that are not plain integers, products that overflow, spans that leave a gap, overlap or leave a tail,
// names that are not UTF-8. It is stricter than the reference implementation in these points, so that no two readers
// see two models in one file:
//
//   - duplicate tensor names, metadata keys and fields of an entry are refused
//   - the header begins with '{' (no space before it); spaces and newlines after it are allowed
//   - "__metadata__" is an object of strings, not null
//   - limits: header 100,000,000 bytes; 100,000 tensors; 100,000 metadata entries; 32 dimensions; nesting 64;
//     64 unknown fields in an entry (otherwise ignored)
//   - element types of less than a byte are unknown here
//
// A refusal is a *FormatError and matches ErrFormat. No refusal allocates more than the size of the file plus 64 MB.
//
// # Rules
//
//   - Tensor.Data is the file itself, mapped and read-only: writing to it is a fault, and it is gone after Close. If the
//     file is truncated while it is mapped, touching Data can kill the program. Floats, Ints, To and Encode copy, and
//     turn that fault into an error; what they return is the caller's own and outlives Close.
//   - Scope panics with *tensor.Error, to be caught with tensor.Catch; everything else returns errors.
//   - A File may be read by several goroutines at once, but not while it is closed.
package weights
