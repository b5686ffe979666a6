// Package torchfile reads the checkpoints that PyTorch writes (.pt, .pth, .ckpt, .bin), without Python and without
// executing anything.
//
//	f, err := torchfile.Open("model.ckpt")
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	for _, t := range f.Tensors() { // by name: "state_dict.model.input_blocks.0.0.weight", ...
//		...
//	}
//	scale, ok := f.Values()["scale_factor"].(float64)
//
// Both containers are read: the zip archive, and the older stream of pickles followed by raw storages. The file is mapped;
// a tensor whose elements lie in order is a part of the mapping, every other view is copied into order.
//
// # What a file can do
//
// The tree of a checkpoint is a pickle, which is a program for a small stack machine that may call any function of
// Python. The machine here knows no functions. It has the opcodes that picklers emit for plain data, tensors and storages
// (see opcodes.go), and a fixed table of names (see globals.go) each of which stands for one thing built in here: a
// dictionary, a storage type, the rebuilding of a tensor. What training frameworks leave in a checkpoint beside its
// tensors (callback classes as keys, configuration objects) is in the table as inert: such an object becomes a
// placeholder, and what it holds is dropped. Every other opcode or name is an error matching ErrForbidden, whether it is
// called or not.
//
// # Trust
//
// An error is an *Error, which says where in the file it is, and matches weights.ErrFormat; those of the operating
// system are passed on as they are. The reader is stricter than torch.load in these points, so that no two readers see
// two models in one file:
//
//   - zip: the entries are stored, not compressed nor encrypted, lie in one folder, have different names, and follow each
//     other without a gap or overlap up to the directory, which ends at the end record, which ends the file; local headers
//     and descriptors agree with the directory; the CRC-32 of the tree and of every storage that a tensor uses is right
//   - stream: no bytes after the last storage; the storages are those that the tree names
//   - pickle: nothing after STOP, one object on the stack; text is UTF-8; no key of a dictionary occurs twice
//   - storages have exactly the size that the tree declares; little-endian only
//   - two tensors or values with one name, a container within itself, more than 64 levels, or no tensor at all are refused
//   - tensors are dense, of a type that safetensors has, with at most 32 dimensions, without hooks, conjugate or negative bit
//
// Before tensors are copied into order, a file can make the reader allocate at most its own size plus 40 MB. All tensors
// together may describe at most 16 times the file plus 16 MB, those to be copied twice the file plus 16 MB.
package torchfile
