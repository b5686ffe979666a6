package arch

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/internal/testkit"
)

const module = "github.com/spin-native/spin/"

// below lists what each library package may import of the module. Packages under cmd, tools and internal are wiring and
// may import what they need; no library package may import them.
var below = map[string][]string{
	"kernels":            {},
	"kernels/ref":        {"kernels"},
	"kernels/cpu":        {"kernels", "kernels/ref"}, // ref: the fallback without cgo
	"kernels/cuda":       {"kernels", "internal/lazycuda"},
	"kernels/kerneltest": {"kernels", "kernels/ref"},
	"tensor":             {"kernels"},
	"weights":            {"tensor", "internal/atomicfile"},
	"weights/photo":      {"weights"},
	"weights/latent":     {"weights"},
	"nn":                 {"kernels", "tensor", "weights"},
	"solver":             {"kernels", "tensor", "weights"},
	"solver/optest":      {"tensor", "solver"},
}

// outside lists what library packages may import beyond the standard library.
var outside = []string{
	"github.com/klauspost/compress", "github.com/x448/float16", "gorgonia.org/cu", "golang.org/x/sys",
}

type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
	Doc        string
}

func list(t *testing.T, args ...string) []pkg {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Standard,Doc"}, args...)...)
	cmd.Dir = testkit.Root()
	out, err := cmd.Output()
	require.NoError(t, err)
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		require.NoError(t, dec.Decode(&p))
		all = append(all, p)
	}
	return all
}

func TestImportsPointDownward(t *testing.T) {
	for _, p := range append(list(t, "./..."), list(t, "-tags=cuda", "./...")...) {
		name := strings.TrimPrefix(p.ImportPath, module)
		require.NotEmpty(t, p.Doc, "package %s has no package comment", name)
		allowed, library := below[name]
		if !library {
			top, _, _ := strings.Cut(name, "/")
			require.Contains(t, []string{"cmd", "internal", "tools", "examples"}, top, "package %s is not in the table of imports", name)
			for _, i := range p.Imports {
				require.False(t, top != "tools" && strings.HasPrefix(i, "gonum.org/v1/plot"), "%s imports %s: plots are made by tools, no program draws them", name, i)
			}
			continue
		}
		for _, i := range p.Imports {
			if own, ok := strings.CutPrefix(i, module); ok {
				require.Contains(t, allowed, own, "%s imports %s", name, own)
				continue
			}
			first, _, _ := strings.Cut(i, "/")
			if !strings.Contains(first, ".") || i == "C" {
				continue // the standard library
			}
			fine := name == "kernels/kerneltest" && strings.HasPrefix(i, "github.com/stretchr/testify")
			for _, o := range outside {
				fine = fine || i == o || strings.HasPrefix(i, o+"/")
			}
			require.True(t, fine, "%s imports %s, which is not among the library dependencies", name, i)
		}
	}
}
