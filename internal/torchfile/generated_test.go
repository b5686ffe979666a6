package torchfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func errorIs(err, target error) bool { return errors.Is(err, target) }

// dangerous are names that real attacks use, and some that only look harmless.
var dangerous = []string{
	"os system", "posix system", "nt system", "os popen", "os execv", "posix spawn", "subprocess Popen", "subprocess call",
	"subprocess check_output", "subprocess run", "builtins eval", "builtins exec", "builtins compile", "builtins open",
	"builtins getattr", "builtins setattr", "builtins __import__", "builtins breakpoint", "builtins globals", "builtins vars",
	"builtins object", "builtins type", "builtins map", "builtins apply", "__builtin__ eval", "__builtin__ execfile",
	"__builtin__ file", "__builtin__ getattr", "__builtin__ apply", "importlib import_module", "imp load_source", "sys modules",
	"sys exit", "runpy run_path", "pty spawn", "socket socket", "urllib.request urlopen", "requests get", "shutil rmtree",
	"webbrowser open", "ctypes CDLL", "code interact", "pdb run", "timeit timeit", "cProfile run", "pip main",
	"pip._internal main", "pickle loads", "_pickle loads", "dill loads", "cloudpickle loads", "joblib load", "numpy load",
	"numpy.testing._private.utils runstring", "numpy.f2py.crackfortran getlincoef", "functools partial", "functools reduce",
	"operator attrgetter", "operator methodcaller", "itertools starmap", "types FunctionType", "types CodeType",
	"copyreg _reconstructor", "copy_reg _reconstructor", "marshal loads", "asyncio run", "multiprocessing Process",
	"torch load", "torch.jit load", "torch.hub load", "torch.hub load_state_dict_from_url", "torch.serialization load",
	"torch._tensor _rebuild_from_type_v2", "torch._utils _import_dotted_name", "torch.utils.cpp_extension load",
	"torch.storage _load_from_bytes", "torch.nn.modules.conv Conv2d", "torch Tensor", "torch._utils _rebuild_sparse_tensor",
	"collections namedtuple", "collections OrderedDict.__init__", "typing get_type_hints", "pathlib Path.unlink",
	"torch._utils __builtins__", "pytorch_lightning Trainer", "__main__ Evil", "", " ", "collections ", " OrderedDict",
}

// TestGenerated breaks one rule at a time in files that are otherwise right. Every result must be refused, with a typed
// error, little memory and in little time.
func TestGenerated(t *testing.T) {
	total := 0
	try := func(t *testing.T, name string, b []byte) *Error {
		t.Helper()
		total++
		return refused(t, name, b)
	}
	t.Run("truncated", func(t *testing.T) {
		for _, name := range []string{"good/state_dict.pt", "good/state_dict_stream.pt", "formats/protocol4.pt"} {
			b := read(t, name)
			for n := 1; n < len(b); n++ {
				try(t, fmt.Sprint(name, n), b[:n:n])
			}
		}
		b := read(t, "good/state_dict.pt")
		begin, end := dataPickle(t, b)
		accepted(t, repacked(t, b, b[begin:end]))
		for n := begin; n < end; n++ {
			try(t, fmt.Sprint("pickle", n), repacked(t, b, b[begin:n]))
		}
	})
	t.Run("longer", func(t *testing.T) {
		for _, name := range []string{"good/state_dict.pt", "good/state_dict_stream.pt"} {
			b := read(t, name)
			for _, tail := range []string{"\x00", ".", "PK\x05\x06", strings.Repeat("\x00", 100), string(b)} {
				try(t, name, append(bytes.Clone(b), tail...))
				try(t, name, append([]byte(tail), b...))
			}
		}
		b := read(t, "good/state_dict.pt")
		begin, end := dataPickle(t, b)
		for _, tail := range []string{"\x00", ".", "N.", string(b[begin:end])} {
			try(t, "pickle", repacked(t, b, append(bytes.Clone(b[begin:end]), tail...)))
		}
	})
	t.Run("opcodes", func(t *testing.T) {
		var bad []byte
		for op := range 256 {
			if !isAllowed(byte(op)) {
				bad = append(bad, byte(op))
			}
		}
		require.Len(t, bad, 256-49)
		k := 0
		replace := func(b []byte, at int, ops []byte, wrap func([]byte) []byte, shift int) {
			for _, op := range ops {
				c := bytes.Clone(b)
				c[at] = op
				e := try(t, fmt.Sprintf("opcode %#x at %d", op, at), wrap(c))
				require.ErrorIs(t, e, ErrForbidden)
				require.Equal(t, int64(at+shift), e.Offset)
			}
		}
		some := func() []byte { // all in turn, a few for each place
			k += 5
			return []byte{bad[k%len(bad)], bad[(k+1)%len(bad)], bad[(k+2)%len(bad)], bad[(k+3)%len(bad)], bad[(k+4)%len(bad)]}
		}
		good := pickled(text("w"), float4(), text("n"), num(3), text("t"), "\x88", text("f"), "G\x3f\xf0\x00\x00\x00\x00\x00\x00")
		accepted(t, checkpoint(good))
		list, _ := opcodes(t, good, 0)
		for _, at := range list {
			replace(good, at, bad, checkpoint, len("a/data.pkl")+localSize)
		}
		b := read(t, "good/state_dict_stream.pt")
		for at, i := 0, 0; i < 5; i++ {
			list, end := opcodes(t, b, at)
			for _, at := range list {
				if at > 0 { // without PROTO at the beginning it is no pickle to begin with
					replace(b, at, some(), bytes.Clone, 0)
				}
			}
			at = end
		}
	})
	t.Run("globals", func(t *testing.T) {
		for _, g := range dangerous {
			module, name, _ := strings.Cut(g, " ")
			byLine, byStack := "c"+module+"\n"+name+"\n", text(module)+text(name)+"\x93"
			for _, global := range []string{byLine, byStack} {
				for where, pickle := range map[string][]byte{
					"called":     pickled(text("w"), float4(), text("x"), global+tuple(text("touch EXECUTED"))+"R"),
					"made":       pickled(text("w"), float4(), text("x"), global+")\x81"),
					"built":      pickled(text("w"), float4(), text("x"), global+"}b"),
					"named":      pickled(text("w"), float4(), text("x"), global),
					"key":        pickled(text("w"), float4(), global, "N"),
					"dropped":    pickled(text("w"), float4(), global+"0"),
					"hook":       pickled(text("w"), rebuild+tuple(storageID("FloatStorage", "0", 4), num(0), nums(4), nums(1), "\x89", global)+"R"),
					"type":       pickled(text("w"), view(tuple(text("storage"), global, text("0"), text("cpu"), num(4))+"Q", 0, nums(4), nums(1))),
					"location":   pickled(text("w"), view(tuple(text("storage"), "ctorch\nFloatStorage\n", text("0"), global, num(4))+"Q", 0, nums(4), nums(1))),
					"attributes": []byte(proto2 + ordered + "(" + text("w") + float4() + "u}" + text("_metadata") + global + "sb."),
				} {
					e := try(t, g+" "+where, checkpoint(pickle))
					require.ErrorIs(t, e, ErrForbidden, "%s %s: %v", g, where, e)
				}
			}
		}
		for _, inert := range []string{"cbuiltins\nint\n", "ctyping\nAny\n", "cpytorch_lightning.callbacks.x\nY\n", "ctorch\nFloatStorage\n",
			"ctorch\nfloat32\n"} {
			accepted(t, checkpoint(pickled(text("w"), float4(), text("x"), inert)))
			for _, call := range []string{")R", ")\x81", "(" + text("x") + "tR"} {
				require.ErrorIs(t, try(t, inert, checkpoint(pickled(text("w"), float4(), text("x"), inert+call))), ErrForbidden)
			}
		}
	})
	t.Run("lengths", func(t *testing.T) {
		for _, n := range []uint64{100, 1 << 16, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 40, 1 << 62, 1 << 63, 1<<64 - 1} {
			l4, l8 := string(le.AppendUint32(nil, uint32(min(n, 1<<32-1)))), string(le.AppendUint64(nil, n))
			for _, op := range []string{"X" + l4, "T" + l4, "B" + l4, "\x8b" + l4, "\x8d" + l8, "\x8e" + l8, "\x96" + l8, "\x95" + l8} {
				for _, pickle := range []string{proto2 + op + ".", proto2 + "}" + op + "abc."} {
					try(t, fmt.Sprintf("%q", op), checkpoint([]byte(pickle)))
				}
			}
			for _, op := range []string{"q", "h", "r" + l4, "j" + l4} { // puts need an object, gets an index that is known
				try(t, fmt.Sprintf("%q", op), checkpoint([]byte(proto2+op+".")))
			}
		}
		for _, op := range []string{"U", "C", "\x8a", "\x8c"} {
			try(t, op, checkpoint([]byte(proto2+op+"\xff.")))
		}
	})
	t.Run("tensors", func(t *testing.T) {
		st := storageID("FloatStorage", "0", 4)
		shape, stride, hooks, grad := nums(2), nums(2), ordered, "\x88"
		huge := []int64{-1, -1 << 63, 1<<63 - 1, 1 << 62, 1 << 61, 1 << 60, 1 << 33, 1 << 32, 1 << 31, 5}
		var bad []string
		for _, n := range huge {
			bad = append(bad, view(st, n, shape, stride), view(st, 0, nums(n), nums(1)), view(st, 0, nums(2, n), nums(1, 1)),
				view(st, 0, nums(2), nums(n)), view(st, 0, nums(2, 2), nums(n, n)), view(st, 0, nums(0, n, n), nums(1, 1, n)),
				view(storageID("FloatStorage", "0", n), 0, shape, stride), view(storageID("DoubleStorage", "0", n), 0, nums(1), nums(1)),
				view(storageID("ByteStorage", "0", n), 0, nums(1), nums(1)))
		}
		// A zero dimension makes strides harmless, as in PyTorch, and a small product with it too.
		bad = slices.DeleteFunc(bad, func(s string) bool { return s == view(st, 0, nums(0, 5, 5), nums(1, 1, 5)) })
		for _, n := range []int64{1 << 24, 1 << 28, 1 << 40, 1 << 60} { // expanded beyond reason
			bad = append(bad, view(st, 0, nums(n), nums(0)), view(st, 0, nums(4, n), nums(1, 0)), view(st, 0, nums(n, 4), nums(0, 1)))
		}
		for _, key := range []string{"", "..", "../0", "4", "00", "0/0", "/0", "0\x00", "data/0", strings.Repeat("0", 65), "ü"} {
			bad = append(bad, view(storageID("FloatStorage", key, 4), 0, shape, stride))
		}
		for _, class := range []string{"DoubleStorage", "HalfStorage", "ByteStorage", "UntypedStorage", "float32", "QInt8Storage", "Size"} {
			bad = append(bad, view(storageID(class, "0", 4), 0, shape, stride))
		}
		untyped := tuple(text("storage"), "ctorch.storage\nUntypedStorage\n", text("0"), text("cpu"), num(16)) + "Q"
		bad = append(bad, view(untyped, 0, nums(1), nums(1)), view(st, 0, nums(slices.Repeat([]int64{1}, 33)...), nums(slices.Repeat([]int64{1}, 33)...)),
			view(st, 0, nums(1<<40), nums(1<<40)))
		id := []string{text("storage"), "ctorch\nFloatStorage\n", text("0"), text("cpu"), num(4)}
		args := []string{st, num(0), shape, stride, grad, hooks}
		wrong := []string{"N", "\x88", "G\x00\x00\x00\x00\x00\x00\x00\x00", text("x"), "]", ")", "}" + text("a") + "Ns", num(-7), "C\x01a",
			"\x8f", "ctorch\nSize\n", "\x8a\x09123456789"}
		for i := range id {
			for _, w := range wrong {
				c := slices.Clone(id)
				c[i] = w
				if i == 3 && w == text("x") {
					continue // any device will do
				}
				bad = append(bad, view(tuple(c...)+"Q", 0, shape, stride))
			}
			bad = append(bad, view(tuple(id[:i]...)+"Q", 0, shape, stride))
		}
		bad = append(bad, view(tuple(append(slices.Clone(id), "N")...)+"Q", 0, shape, stride))
		for i := range args {
			for _, w := range wrong {
				c := slices.Clone(args)
				c[i] = w
				if i == 4 && w == "\x88" || i == 5 && w == "N" {
					continue
				}
				bad = append(bad, rebuild+tuple(c...)+"R")
			}
			bad = append(bad, rebuild+tuple(args[:i]...)+"R", rebuild+tuple(args...)+"\x81")
		}
		for _, w := range wrong[1:] { // the metadata of a tensor: conjugate, negative
			if w != "}" {
				bad = append(bad, rebuild+tuple(append(slices.Clone(args), w)...)+"R")
			}
		}
		bad = append(bad, rebuild+tuple(append(slices.Clone(args), "N", "N")...)+"R")
		for _, w := range wrong {
			bad = append(bad, "ctorch._utils\n_rebuild_parameter\n"+tuple(w, "\x88", ordered)+"R", "ctorch._utils\n_rebuild_parameter\n"+w+"R",
				"ctorch.nn.parameter\nParameter\n"+tuple(w)+"\x81")
		}
		bad = append(bad, "ctorch._utils\n_rebuild_parameter\n)R", float4()+")R", float4()+"}b", st+"}b")
		for _, d := range []string{"cbuiltins\nint\n", "ctorch\nFloatStorage\n", text("float32"), "N"} { // the type of version 3
			bad = append(bad, "ctorch._utils\n_rebuild_tensor_v3\n"+
				tuple(untyped, num(0), shape, stride, grad, hooks, d)+"R")
		}
		accepted(t, checkpoint(pickled(text("w"), rebuild+tuple(args...)+"R")))
		accepted(t, checkpoint(pickled(text("w"), rebuild+tuple(st, num(0), shape, stride, grad, "N", "}")+"R")))
		for i, s := range bad {
			try(t, fmt.Sprint("tensor ", i), checkpoint(pickled(text("w"), s)))
			try(t, fmt.Sprint("tensor ", i), checkpoint(pickled(text("v"), float4(), text("w"), s)))
		}
		// One storage, declared in two ways.
		try(t, "two types", checkpoint(pickled(text("v"), float4(), text("w"), view(storageID("IntStorage", "0", 4), 0, nums(1), nums(1)))))
	})
	t.Run("structure", func(t *testing.T) {
		w := text("w") + float4()
		for i, pickle := range []string{
			// Not a table of tensors.
			"}.", "].", ").", "N.", float4() + ".", storageID("FloatStorage", "0", 4) + ".", "ctorch\nSize\n.", "\x8f.", "C\x00.",
			"}" + text("a") + "Ns.", "}" + text("a") + storageID("FloatStorage", "0", 4) + "s.",
			// Names that occur twice.
			"}(" + w + w + "u.", "}(" + w + text("w") + "Nu.", "}(" + text("a.b") + float4() + text("a") + "}" + text("b") + float4() + "su.",
			"}(" + w + num(1) + float4() + text("1") + float4() + "u.", "}(" + w + text("a") + num(1) + text("a") + num(2) + "u.",
			"ccollections\nOrderedDict\n(](" + text("w") + float4() + "\x86" + text("w") + float4() + "\x86etR.",
			// Keys that Python would not take.
			"}(" + w + "]N" + "u.", "}(" + w + "}N" + "u.", "}(" + w + float4() + "N" + "u.",
			// Within itself.
			"}q\x00(" + w + text("x") + "h\x00u.", "}q\x00(" + w + text("x") + "]h\x00au.", "]q\x00(" + float4() + "h\x00e.",
			"}q\x00(" + w + text("x") + "(h\x00tu.", "ccollections\nOrderedDict\n)Rq\x00(" + w + text("x") + "h\x00u.",
			// More or less than one object.
			"}" + w + "s}.", "}(" + w + "u(.", "}(" + w + ".", "((}(" + w + "u.", ".", "(.", "}(" + w + "u0.",
			// The wrong target.
			"](" + w + "u.", "}(" + w + "e.", "}" + float4() + "a.", "](" + w + "\x90.", ")" + w + "s.", "N" + w + "s.", ")(" + w + "e.",
			"N}b.", "]}b.", text("x") + "}b.", "}(" + text("w") + "u.", "}(" + w + text("v") + "u.",
			// Bad text, bad frames, bad protocols.
			"}(" + w + text("\xff") + "Nu.", "}(" + w + text("a") + text("\xed\xa0\x80") + "u.", "}(" + w + "U\x01\xe9Nu.",
			"\x80\x02}(" + w + "u.", "}(" + w + "u\x80\x02.", "\x95\x01\x00\x00\x00\x00\x00\x00\x00}(" + w + "u.\x95",
			"\x95\x02\x00\x00\x00\x00\x00\x00\x00X\x01\x00\x00\x00a0}(" + w + "u.",
			"\x95\x20\x00\x00\x00\x00\x00\x00\x00\x95\x01\x00\x00\x00\x00\x00\x00\x00}(" + w + "u.",
			"h\x00.", "}(" + w + "h\x05u.", "q\x00.", "(q\x00.", "\x94.", "0.", "1.", "t.", "u.", "e.", "\x85.", "N\x86.", "NN\x87.", "R.", "NR.", "Q.",
			"\x93.", text("a") + "\x93.", "N" + text("a") + "\x93.", "\x81.", ")\x81.", ")R.", "))R.", ")N\x81.", "b.", "Nb.", "s.", "NNs.", "a.", "Na.",
			// Constructors that are given nonsense.
			"ccollections\nOrderedDict\n" + tuple(num(1)) + "R.", "ccollections\nOrderedDict\n" + tuple("]("+num(1)+"e") + "R.",
			"ccollections\nOrderedDict\n" + tuple("}", "}") + "R.", "ccollections\nOrderedDict\nNR.", "ctorch\nSize\n)R.",
			"ctorch\nSize\n" + tuple(num(1)) + "R.", "c" + strings.Repeat("a", 300) + "\nb\n.", "ca\n", "c", "cab",
		} {
			try(t, fmt.Sprint("structure ", i), checkpoint([]byte(proto2+pickle)))
		}
		for v := range 256 {
			if v < 2 || v > 5 {
				try(t, fmt.Sprint("protocol ", v), checkpoint(append([]byte{0x80, byte(v)}, pickled(w)[2:]...)))
			}
		}
	})
	t.Run("bombs", func(t *testing.T) {
		const n = 300_000
		w := text("w") + float4()
		many := func(s string) string { return strings.Repeat(s, n) }
		doubled := func(first, join string) string { // 2^60 leaves
			var b strings.Builder
			b.WriteString(first + "q\x00")
			for i := range 60 {
				fmt.Fprintf(&b, "0"+join, string([]byte{'h', byte(i)}), string([]byte{'h', byte(i)}), string([]byte{'q', byte(i + 1)}))
			}
			return b.String()
		}
		var memo strings.Builder
		memo.WriteString("N")
		for i := range n {
			memo.WriteString("r" + string(le.AppendUint32(nil, uint32(i*7919))))
		}
		// A dictionary of 1,000 keys, copied again and again.
		var keys strings.Builder
		for i := range 1000 {
			keys.WriteString(num(int64(i)) + "N")
		}
		copies := "}(" + keys.String() + "uq\x00" + strings.Repeat("ccollections\nCounter\nh\x00\x85R0", 20_000)
		// Few lists, reached in very many ways.
		var wide strings.Builder
		wide.WriteString("](" + strings.Repeat("N", 100) + "eq\x00")
		for i := range 12 {
			fmt.Fprintf(&wide, "0](%seq%s", strings.Repeat(string([]byte{'h', byte(i)}), 30), string([]byte{byte(i + 1)}))
		}
		for name, pickle := range map[string]string{
			"lists in lists":   many("]") + many("a") + ".",
			"tuples in tuples": "N" + many("\x85") + ".",
			"dicts in dicts":   "}(" + w + "u" + many("}"+num(1)) + "N" + many("s") + ".",
			"marks":            many("("),
			"marks on marks":   many("((t"),
			"nones":            many("N") + ".",
			"lists":            many("]") + ".",
			"dicts":            many("}") + ".",
			"integers":         many("M\xff\xff") + ".",
			"orderly dicts":    strings.Repeat("ccollections\nOrderedDict\n)R", n/10),
			"texts":            "}" + many("U\x01a") + ".",
			"memo":             memo.String(),
			"memoized":         "N" + many("\x94"),
			"copies":           copies,
			"doubled lists":    doubled("]", "](%s%se%s") + ".",
			"doubled tuples":   "}(" + w + text("x") + doubled(")", "%s%s\x86%s") + "u.",
			"doubled dicts":    "}(" + w + text("x") + doubled("}", "}(K\x00%sK\x01%su%s") + "u.",
			"wide lists":       "}(" + w + text("x") + wide.String() + "u.",
			"globals":          many("ctyping\nAny\n"),
			"callbacks":        strings.Repeat("cpytorch_lightning.callbacks.a\nB\n", n/10),
			"longs":            many("\x8a\x09123456789"),
			"tensors":          "]" + float4() + "q\x01a(" + many("h\x01") + "e.",
			"parameters":       strings.Repeat("ctorch._utils\n_rebuild_parameter\n", n/10),
			"ids":              storageID("FloatStorage", "0", 4)[:len(storageID("FloatStorage", "0", 4))-1] + "q\x00" + many("h\x00Q"),
			"long names":       "}" + text(strings.Repeat("a", 1<<20)) + float4() + "s.",
			"long paths":       "}" + text(strings.Repeat("a", 800)) + "}" + text(strings.Repeat("a", 800)) + float4() + "ss.",
			"unended names":    many("c"),
		} {
			start := time.Now()
			e := try(t, name, checkpoint([]byte(proto2+pickle)))
			t.Logf("%-16s %8d bytes %8v %v", name, len(pickle), time.Since(start).Round(time.Millisecond), e.Msg)
		}
		// 100,001 tensors, and views of one storage that would fill a disk.
		var all, whole strings.Builder
		for i := range 100_001 {
			all.WriteString(num(int64(i)) + "h\x01")
		}
		try(t, "100,001 tensors", zipped(file{"a/data.pkl", []byte(proto2 + float4() + "q\x010}(" + all.String() + "u.")},
			file{"a/data/0", make([]byte, 16)}, file{"a/data/1", make([]byte, 32<<20)}))
		for i := range 2000 {
			whole.WriteString(num(int64(i)) + "h\x01")
		}
		big := zipped(file{"a/data.pkl", []byte(proto2 + view(storageID("ByteStorage", "0", 1<<20), 0, nums(1<<20), nums(1)) + "q\x010}(" + whole.String() + "u.")},
			file{"a/data/0", make([]byte, 1<<20)})
		try(t, "views", big)
		try(t, "copies", zipped(file{"a/data.pkl", pickled(text("w"), view(storageID("ByteStorage", "0", 1<<20), 0, nums(20<<20), nums(0)))},
			file{"a/data/0", make([]byte, 1<<20)}))
	})
	t.Run("zip", func(t *testing.T) {
		good := zipped(file{"a/data.pkl", pickled(text("w"), float4())}, file{"a/byteorder", []byte("little")},
			file{"a/data/0", []byte("0123456789abcdef")}, file{"a/version", []byte("3\n")})
		accepted(t, good)
		for name, b := range map[string][]byte{"python": good, "torch": read(t, "good/state_dict.pt"), "formats": read(t, "formats/protocol4.pt")} {
			for _, f := range zipFields(t, b) {
				for _, v := range f.wrong(b) {
					c := bytes.Clone(b)
					copy(c[f.at:f.at+f.size], le.AppendUint64(nil, v))
					try(t, fmt.Sprintf("%s: %s at %d is %#x", name, f.name, f.at, v), c)
				}
			}
			a := readZip(b, newBudget(len(b)))
			for _, e := range a.entries {
				used := strings.Contains(e.name, "/data") || strings.HasSuffix(e.name, "byteorder")
				if !used || strings.Contains(e.name, "/.data") {
					continue
				}
				for at := e.begin; at < e.end; at++ {
					c := bytes.Clone(b)
					c[at] ^= 1 << (at % 8)
					try(t, fmt.Sprintf("%s: bit of %s at %d", name, e.name, at), c)
				}
			}
		}
		tree, data := file{"a/data.pkl", pickled(text("w"), float4())}, file{"a/data/0", []byte("0123456789abcdef")}
		for _, name := range []string{"a/../b", "a/./b", "a//b", "/a/b", "a/b/", "a", "b/c", "a\\b", "a/b\\c", "a/\x00", "a/\xff", "", "/", "a/", "../a/b",
			"a/data.pkl", "a/data/0", "C:/b", "a/b/../../c", strings.Repeat("a/", 30_000)} {
			try(t, name, zipped(tree, data, file{name, nil}))
			try(t, name, zipped(file{name, nil}, tree, data))
		}
		for i, files := range [][]file{{}, {tree}, {data}, {tree, file{"a/data/0", data.data[:15]}}, {tree, file{"a/data/0", append(data.data, 0)}},
			{tree, data, file{"a/byteorder", []byte("big")}}, {tree, data, file{"a/byteorder", nil}}, {tree, data, file{"a/byteorder", []byte("little\n")}},
			{file{"a/data.pkl", nil}, data}, {file{"data.pkl", tree.data}, file{"data/0", data.data}},
			{file{"a/b/data.pkl", tree.data}, file{"a/b/data/0", data.data}}} {
			try(t, fmt.Sprint("files ", i), zipped(files...))
		}
	})
	t.Run("stream", func(t *testing.T) {
		b := read(t, "good/state_dict_stream.pt")
		var ends []int
		at := 0
		for range 5 {
			_, at = opcodes(t, b, at)
			ends = append(ends, at)
		}
		for i := range 5 { // one pickle replaced by another thing
			begin := 0
			if i > 0 {
				begin = ends[i-1]
			}
			for j, p := range []string{"N.", "}.", "].", "K\x01.", text("x") + ".", "", "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x18.", "M\xea\x03.",
				"}" + text("little_endian") + "\x89s.", "](" + text("1") + "e.", "](Ne.", float4() + ".", storageID("FloatStorage", "0", 1) + ".", "cos\nsystem\n."} {
				if i == 2 && p == "}." {
					continue // no properties are harmless
				}
				try(t, fmt.Sprint("stream ", i, j), append(append(bytes.Clone(b[:begin]), proto2+p...), b[ends[i]:]...))
			}
			try(t, fmt.Sprint("stream without ", i), append(bytes.Clone(b[:begin]), b[ends[i]:]...))
		}
		for at := ends[4]; at < len(b); { // the counts of the storages
			n := le.Uint64(b[at:])
			for _, v := range []uint64{0, n - 1, n + 1, 1 << 31, 1 << 61, 1 << 62, -n, 1<<64 - 1} {
				if v == n {
					continue
				}
				c := bytes.Clone(b)
				le.PutUint64(c[at:], v)
				try(t, fmt.Sprintf("count %d at %d", v, at), c)
			}
			elem := 4
			if n == 1 { // num_batches_tracked
				elem = 8
			}
			at += 8 + elem*int(n)
		}
	})
	t.Logf("%d malformed files", total)
	require.Greater(t, total, 10_000)
}

// zipField is a number in the structure of an archive that must be as it is.
type zipField struct {
	name     string
	at, size int
	also     []uint64 // other values that say the same
}

func (f zipField) wrong(b []byte) []uint64 {
	var raw [8]byte
	copy(raw[:], b[f.at:f.at+f.size])
	v, mask := le.Uint64(raw[:]), uint64(1)<<(8*f.size)-1
	if f.size == 8 {
		mask = 1<<64 - 1
	}
	var list []uint64
	for _, w := range []uint64{0, 1, v + 1, v - 1, v ^ 1, v << 1, v ^ 8, mask, mask >> 1, mask>>1 + 1, mask - 1} {
		if w &= mask; w != v && !slices.Contains(f.also, w) && !slices.Contains(list, w) {
			list = append(list, w)
		}
	}
	return list
}

// zipFields finds the numbers of an archive that is known to be right.
func zipFields(t *testing.T, b []byte) []zipField {
	_, at, end := directory(b)
	var list []zipField
	add := func(name string, at, size int, also ...uint64) { list = append(list, zipField{name, at, size, also}) }
	for at < end {
		names, extra := int(u16(b, at+28)), int(u16(b, at+30))
		h := int(u32(b, at+42))
		later := u16(b, at+8)&flagDescriptor != 0
		size := int(u32(b, at+24))
		add("signature", at, 4)
		add("flags", at+8, 2)
		add("method", at+10, 2)
		add("crc", at+16, 4)
		add("packed size", at+20, 4)
		add("size", at+24, 4)
		add("name length", at+28, 2)
		add("extra length", at+30, 2)
		add("comment length", at+32, 2)
		add("disk", at+34, 2)
		add("offset", at+42, 4)
		for i := range names {
			add("name", at+centralSize+i, 1)
			add("local name", h+localSize+i, 1)
		}
		var left []uint64
		if later {
			left = []uint64{0, 1<<32 - 1, uint64(u32(b, at+16))}
		}
		add("local signature", h, 4)
		add("local flags", h+6, 2)
		add("local method", h+8, 2)
		add("local crc", h+14, 4, left...)
		if later {
			left = []uint64{0, 1<<32 - 1, uint64(size)}
		}
		add("local packed size", h+18, 4, left...)
		add("local size", h+22, 4, left...)
		add("local name length", h+26, 2)
		add("local extra length", h+28, 2)
		if later {
			d := h + localSize + int(u16(b, h+26)) + int(u16(b, h+28)) + size
			for i := range 4 {
				add("descriptor", d+4*i, 4)
			}
		}
		at += centralSize + names + extra
	}
	require.Equal(t, end, at)
	last := len(b) - endSize
	var see32 []uint64
	if end != last {
		see32 = []uint64{1<<32 - 1}
		add("end64 signature", end, 4)
		add("end64 size", end+4, 8)
		add("end64 disk", end+16, 4)
		add("end64 directory disk", end+20, 4)
		for i := range 4 {
			add("end64 directory", end+24+8*i, 8)
		}
		add("locator signature", end+end64Size, 4)
		add("locator disk", end+end64Size+4, 4)
		add("locator offset", end+end64Size+8, 8)
		add("locator disks", end+end64Size+16, 4, 0, 1)
	}
	add("end signature", last, 4)
	add("end disk", last+4, 2)
	add("end directory disk", last+6, 2)
	add("end count here", last+8, 2)
	add("end count", last+10, 2)
	add("end size", last+12, 4, see32...)
	add("end offset", last+16, 4, see32...)
	add("end comment", last+20, 2)
	return list
}
