package torchfile

import (
	"strings"

	"github.com/spin-native/spin/weights"
)

// kind is what a global of the table stands for.
type kind uint8

const (
	inert       kind = iota // a name that may be a key or a value, and is never called
	opaque                  // a class whose objects become placeholders
	dictionary              // dict and its relatives
	size                    // torch.Size, a tuple
	storageType             // dtype says which; "" is bytes without a type
	elementType             // torch.float32 and the like
	parameter               // takes a tensor, is that tensor
	rebuildTensor
	rebuildTensorV2
	rebuildTensorV3
)

type global struct {
	name  string // module and name
	kind  kind
	dtype weights.DType
}

// globals is everything that a file may name, by "module name".
var globals = table()

func table() map[string]*global {
	t := map[string]*global{}
	add := func(k kind, d weights.DType, module string, names ...string) {
		for _, n := range names {
			t[module+" "+n] = &global{name: module + "." + n, kind: k, dtype: d}
		}
	}
	add(rebuildTensor, "", "torch._utils", "_rebuild_tensor")
	add(rebuildTensorV2, "", "torch._utils", "_rebuild_tensor_v2")
	add(rebuildTensorV3, "", "torch._utils", "_rebuild_tensor_v3")
	add(parameter, "", "torch._utils", "_rebuild_parameter", "_rebuild_parameter_with_state")
	add(parameter, "", "torch.nn.parameter", "Parameter")
	add(dictionary, "", "collections", "OrderedDict", "defaultdict", "Counter")
	add(size, "", "torch", "Size")

	for name, d := range map[string]weights.DType{
		"Double": weights.F64, "Float": weights.F32, "Half": weights.F16, "BFloat16": weights.BF16, "Long": weights.I64,
		"Int": weights.I32, "Short": weights.I16, "Char": weights.I8, "Byte": weights.U8, "Bool": weights.BOOL,
		"ComplexFloat": weights.C64,
	} {
		add(storageType, d, "torch", name+"Storage")
		add(storageType, d, "torch.cuda", name+"Storage") // before PyTorch 0.4
	}
	add(storageType, "", "torch.storage", "UntypedStorage")
	for name, d := range map[string]weights.DType{
		"float64": weights.F64, "float32": weights.F32, "float16": weights.F16, "bfloat16": weights.BF16,
		"int64": weights.I64, "int32": weights.I32, "int16": weights.I16, "int8": weights.I8, "uint8": weights.U8,
		"uint16": weights.U16, "uint32": weights.U32, "uint64": weights.U64, "bool": weights.BOOL, "complex64": weights.C64,
		"float8_e4m3fn": weights.F8E4M3, "float8_e5m2": weights.F8E5M2, "float8_e8m0fnu": weights.F8E8M0,
		"float8_e4m3fnuz": weights.F8E4M3FNUZ, "float8_e5m2fnuz": weights.F8E5M2FNUZ,
	} {
		add(elementType, d, "torch", name)
	}

	// What surrounds the tensors of training checkpoints. None of it matters for a network.
	add(opaque, "", "torch", "device")
	add(opaque, "", "torch.serialization", "_get_layout")
	add(opaque, "", "_codecs", "encode") // bytes, in protocol 2
	for _, module := range []string{"builtins", "__builtin__"} {
		add(opaque, "", module, "set", "frozenset", "bytearray", "complex")
		add(inert, "", module, "bool", "dict", "float", "int", "list", "long", "str", "tuple", "unicode")
	}
	add(inert, "", "typing", "Any")
	for _, module := range []string{"numpy.core.multiarray", "numpy._core.multiarray"} {
		add(opaque, "", module, "scalar")
	}
	add(opaque, "", "numpy", "dtype")
	add(opaque, "", "argparse", "Namespace")
	add(opaque, "", "pathlib", "Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
	add(opaque, "", "omegaconf.dictconfig", "DictConfig")
	add(opaque, "", "omegaconf.listconfig", "ListConfig")
	add(opaque, "", "omegaconf.base", "ContainerMetadata", "Metadata")
	add(opaque, "", "omegaconf.nodes", "AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode")
	for _, module := range []string{"pytorch_lightning.utilities.parsing", "lightning_fabric.utilities.data",
		"lightning.fabric.utilities.data", "lightning.pytorch.utilities.parsing"} {
		add(dictionary, "", module, "AttributeDict")
	}
	return t
}

// callbackModules hold classes that old training checkpoints use as keys of their table of callbacks.
var callbackModules = []string{"pytorch_lightning.callbacks.", "lightning.pytorch.callbacks."}

// lookup finds a global, or ends the reading.
func lookup(at int, module, name string) *global {
	if g, ok := globals[module+" "+name]; ok {
		return g
	}
	full := module + "." + name
	for _, m := range callbackModules {
		if strings.HasPrefix(module, m) {
			return &global{name: full, kind: inert}
		}
	}
	advice := ""
	if len(name) > 0 && name[0] >= 'A' && name[0] <= 'Z' { // a class
		advice = " (if a whole model was saved, save its state_dict() instead)"
	}
	forbid(at, "names the global %s, which is not on the list of what a checkpoint may use; nothing was executed%s", quote(full), advice)
	return nil
}
