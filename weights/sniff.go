package weights

import (
	"bytes"
	"unicode/utf8"
)

const convertFirst = ": convert it first to safetensors, for example with safetensors.torch.save_file"

// signatures of what people pass by mistake.
var signatures = []struct{ magic, is string }{
	{"PK\x03\x04", "a zip archive, probably a PyTorch checkpoint (.pt, .ckpt)" + convertFirst},
	{"PK\x05\x06", "an empty zip archive"},
	{"\x80\x02", "a Python pickle, probably an old PyTorch checkpoint (.pt, .ckpt)" + convertFirst},
	{"\x80\x03", "a Python pickle" + convertFirst},
	{"\x80\x04", "a Python pickle" + convertFirst},
	{"\x80\x05", "a Python pickle" + convertFirst},
	{"GGUF", "a GGUF file; only safetensors can be read"},
	{"\x93NUMPY", "a NumPy array" + convertFirst},
	{"\x89HDF", "an HDF5 file" + convertFirst},
	{"\x89PNG", "a PNG picture, not weights"},
	{"\xff\xd8\xff", "a JPEG picture, not weights"},
	{"GIF8", "a GIF picture, not weights"},
	{"\x7fELF", "a program, not weights"},
	{"\x1f\x8b", "gzip-compressed: decompress it first, or use zstd"},
}

// textSignatures count only for files that begin with text: a length field can look like a single character.
var textSignatures = []struct{ magic, is string }{
	{"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'"},
	{"<", "a web page or XML, not weights: the download went wrong"},
	{"{", "JSON text, not weights: give the .safetensors file or its *.safetensors.index.json"},
	{"", "text, not weights"},
}

// advice says what a file that is not safetensors looks like from its first bytes, and what to do; "" if unknown.
func advice(b []byte) string {
	if len(b) == 0 {
		return "; the file is empty"
	}
	list := signatures
	if isText(b[:min(len(b), 256)]) {
		list = textSignatures
	}
	for _, s := range list {
		if bytes.HasPrefix(b, []byte(s.magic)) {
			return "; this looks like " + s.is
		}
	}
	return ""
}

// isText reports whether b, at least the length field long, has no control characters and is UTF-8, its end apart.
func isText(b []byte) bool {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 && len(b)-i >= utf8.UTFMax || r < ' ' && r != '\n' && r != '\r' && r != '\t' {
			return false
		}
		i += n
	}
	return len(b) >= 8
}
