package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spin-native/spin/weights"
)

// input is an open file, or several shards that act as one.
type input struct {
	path    string
	tensors []weights.Tensor
	values  map[string]any // plain numbers and strings of a PyTorch file
	info    *weights.Info  // of a file that was converted before
}

// read opens weights of any kind; Model.Close closes them.
func (m *Model) read(path string) (*input, error) {
	torch, err := isTorch(path)
	if err != nil {
		return nil, err
	}
	if torch {
		f, err := openTorch(path)
		if err != nil {
			return nil, err
		}
		m.closers = append(m.closers, f)
		return &input{path: path, tensors: f.Tensors(), values: f.Values()}, nil
	}
	f, err := weights.Open(path)
	if err != nil {
		return nil, err
	}
	m.closers = append(m.closers, f)
	return inputOf(f)
}

func inputOf(f *weights.File) (*input, error) {
	r := &input{path: f.Path(), values: map[string]any{}}
	for _, name := range f.Names() {
		t, _ := f.Tensor(name)
		r.tensors = append(r.tensors, t)
	}
	if len(r.tensors) == 0 {
		return nil, fail(ErrUnrecognised, "no tensors")
	}
	switch info, err := f.Info(); {
	case err == nil:
		r.info = &info
	case !errors.Is(err, weights.ErrNoInfo):
		return nil, err
	}
	return r, nil
}

// isTorch reports whether a file is a PyTorch checkpoint, a zip archive or a pickle, by its first bytes.
func isTorch(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return false, err
	}
	b := make([]byte, 9)
	n, err := io.ReadFull(f, b)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return false, err
	}
	b = b[:n]
	// The length of a safetensors header may look like the beginning of a pickle; then its brace follows.
	if len(b) == 9 && b[8] == '{' && bytes.Equal(b[4:8], make([]byte, 4)) {
		return false, nil
	}
	return bytes.HasPrefix(b, []byte("PK\x03\x04")) || len(b) > 1 && b[0] == 0x80 && b[1] >= 2 && b[1] <= 5, nil
}

const (
	configFile   = "config.json"
	pipelineFile = "model_index.json"
	maxJSON      = 1 << 20 // bytes; real ones have a few thousand
	maxIndexJSON = 64 << 20
	maxNesting   = 32
	maxShards    = 1000
)

// readJSON reads one object as its fields. Duplicate keys, deep nesting and oversized files are refused: encoding/json
// would let the last of two equal keys win.
func readJSON(path string, most int64) (map[string]json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, &Error{Kind: ErrConfig, File: path, Msg: fmt.Sprintf("more than %d bytes", most)}
	}
	m, err := parseJSON(b)
	return m, in(path, err)
}

func parseJSON(b []byte) (map[string]json.RawMessage, error) {
	if err := checkJSON(b); err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fail(ErrConfig, "not a JSON object: %v", err)
	}
	if m == nil {
		return nil, fail(ErrConfig, "not a JSON object")
	}
	return m, nil
}

// checkJSON refuses nesting beyond maxNesting and equal keys in one object.
func checkJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	type level struct {
		keys map[string]bool // of an object
		key  bool            // a key comes next
	}
	var stack []level
	for {
		t, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fail(ErrConfig, "not JSON: %v", err)
		}
		if t == json.Delim('}') || t == json.Delim(']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if n := len(stack); n > 0 && stack[n-1].keys != nil {
			top := &stack[n-1]
			if top.key {
				k := t.(string)
				if top.keys[k] {
					return fail(ErrConfig, "field %s occurs twice", quote(k))
				}
				top.keys[k], top.key = true, false
				continue
			}
			top.key = true // after this value
		}
		switch t {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
		case json.Delim('['):
			stack = append(stack, level{})
		}
		if len(stack) > maxNesting {
			return fail(ErrConfig, "nested deeper than %d", maxNesting)
		}
	}
}

// The files that a component of diffusers may come in: name, variant, extension, and whether it is an index.
var componentFile = regexp.MustCompile(`^[A-Za-z0-9_-]+?(?:\.([A-Za-z0-9_]+))?\.(safetensors|bin)$|^[A-Za-z0-9_-]+\.(safetensors|bin)\.index(?:\.([A-Za-z0-9_]+))?\.json$`)

// shardName matches a shard, which counts only through its index.
var shardName = regexp.MustCompile(`-\d{5}-of-\d{5}\.(safetensors|bin)$`)

// weightsOf finds the weights in the folder of a component: of the variant asked for, else in full precision, else of
// the only variant; safetensors before PyTorch.
func weightsOf(dir, variant string) (string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	found := map[string]map[string]string{} // variant, then extension
	for _, e := range list {
		g := componentFile.FindStringSubmatch(e.Name())
		if g == nil || shardName.MatchString(e.Name()) {
			continue
		}
		v, ext := g[1]+g[4], g[2]+g[3]
		if found[v] == nil {
			found[v] = map[string]string{}
		}
		if other := found[v][ext]; other != "" {
			return "", &Error{Kind: ErrMixed, File: dir, Msg: fmt.Sprintf("the folder holds %s and %s: name the file", other, e.Name())}
		}
		found[v][ext] = e.Name()
	}
	pick := func(v string) (string, bool) {
		for _, ext := range []string{"safetensors", "bin"} {
			if name := found[v][ext]; name != "" {
				return filepath.Join(dir, name), true
			}
		}
		return "", false
	}
	if path, ok := pick(variant); ok {
		return path, nil
	}
	var all []string
	for v := range found {
		all = append(all, v)
	}
	slices.Sort(all)
	if variant == "" && len(all) == 1 {
		path, _ := pick(all[0])
		return path, nil
	}
	if len(all) == 0 {
		return "", &Error{Kind: ErrMissing, File: dir, Msg: "the folder holds no weights (*.safetensors, *.bin)"}
	}
	return "", &Error{Kind: ErrMissing, File: dir, Msg: fmt.Sprintf("no weights of variant %s, but of %s", quote(variant), quote(strings.Join(all, ", ")))}
}

// readAll reads weights or an index of weights.
func (m *Model) readAll(path string) (*input, error) {
	if !strings.HasSuffix(path, ".json") || strings.HasSuffix(path, ".safetensors.index.json") {
		return m.read(path)
	}
	fields, err := readJSON(path, maxIndexJSON)
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error { return in(path, fail(ErrConfig, format, args...)) }
	var where map[string]string
	if err := json.Unmarshal(fields["weight_map"], &where); err != nil || len(where) == 0 {
		return nil, bad("no weight_map of names to files")
	}
	var shards []string
	for _, shard := range where {
		if !slices.Contains(shards, shard) {
			shards = append(shards, shard)
		}
		if len(shards) > maxShards {
			return nil, bad("more than %d shards", maxShards)
		}
	}
	slices.Sort(shards)
	all := &input{path: path, values: map[string]any{}}
	for _, shard := range shards {
		if strings.ContainsAny(shard, "/\\:\x00") || !filepath.IsLocal(shard) {
			return nil, bad("shard %s is not the plain name of a file beside the index", quote(shard))
		}
		f, err := m.read(filepath.Join(filepath.Dir(path), shard))
		if err != nil {
			return nil, err
		}
		for _, t := range f.tensors {
			if where[t.Name] != shard {
				return nil, bad("tensor %s is in shard %s, but not so in the index", quote(t.Name), quote(shard))
			}
			delete(where, t.Name)
			all.tensors = append(all.tensors, t)
		}
	}
	for name, shard := range where {
		return nil, bad("tensor %s is not in its shard %s", quote(name), quote(shard))
	}
	return all, nil
}

// torchFile is an open PyTorch checkpoint: names are joined with '.'.
type torchFile interface {
	Tensors() []weights.Tensor
	Values() map[string]any
	Close() error
}
