// Package atomicfile writes files whole or not at all.
//
// A file is written beside its target under a temporary name, flushed to the disk and renamed over the target, and the
// rename is flushed too. Whatever goes wrong before the rename leaves the target as it was and no temporary behind:
//
//	f, err := atomicfile.Create("out.png")
//	if err != nil {
//		return err
//	}
//	defer f.Abort() // does nothing after Commit
//	... write to f ...
//	return f.Commit()
//
// WriteFile does the same for a function that writes. Rules: a target that exists is replaced, so ask RefuseExisting
// first where that must not happen; a target that is not a regular file (a device, a pipe) is refused; a symbolic link
// is followed, so that the file it names is replaced and not the link.
package atomicfile
