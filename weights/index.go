package weights

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	indexSuffix = ".safetensors.index.json"
	maxIndex    = 64 << 20 // bytes; the longest published ones have a few hundred thousand
	maxShards   = 1000
)

// inFolder finds the one thing to open in a folder.
func inFolder(dir string) (string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var indices, files, others []string
	for _, e := range list {
		switch name := e.Name(); {
		case strings.HasSuffix(name, indexSuffix):
			indices = append(indices, name)
		case strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".safetensors.zst"):
			files = append(files, name)
		case strings.HasSuffix(name, ".bin") || strings.HasSuffix(name, ".pt") || strings.HasSuffix(name, ".ckpt"):
			others = append(others, name)
		}
	}
	switch {
	case len(indices) == 1:
		return filepath.Join(dir, indices[0]), nil
	case len(indices) == 0 && len(files) == 1:
		return filepath.Join(dir, files[0]), nil
	case len(indices)+len(files) > 0:
		all := append(indices, files...)
		return "", &FormatError{File: dir, Msg: fmt.Sprintf("the folder holds several models (%s, %s, ...): name the file", all[0], all[1])}
	case len(others) > 0:
		return "", &FormatError{File: dir, Msg: fmt.Sprintf("the folder holds no safetensors file, but %s%s", others[0], convertFirst)}
	}
	return "", &FormatError{File: dir, Msg: "the folder holds no *.safetensors file and no *" + indexSuffix}
}

// member says in which shard an index puts a tensor.
type member struct {
	tensor, shard string
	at            int64
}

// openIndex opens the shards that an index names. They must hold exactly what it says.
func openIndex(path string) (_ *File, err error) {
	bad := func(at int64, tensor, format string, args ...any) error {
		return &FormatError{File: path, Offset: at, Tensor: tensor, Msg: fmt.Sprintf(format, args...)}
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxIndex {
		return nil, bad(0, "", "an index of %d bytes, at most %d are allowed", st.Size(), maxIndex)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	members, err := parseIndex(b)
	if err != nil {
		if e, ok := err.(*FormatError); ok {
			e.File = path
		}
		return nil, err
	}

	f := &File{path: path, meta: map[string]string{}}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	// Members come grouped by shard, and within it by name as the layout does.
	for len(members) > 0 {
		shard := members[0].shard
		n := slices.IndexFunc(members, func(m member) bool { return m.shard != shard })
		if n < 0 {
			n = len(members)
		}
		s, l, err := openSource(filepath.Join(filepath.Dir(path), shard))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, bad(members[0].at, members[0].tensor, "shard %s is missing", quote(shard))
		}
		if err != nil {
			return nil, err
		}
		f.sources = append(f.sources, s)
		have := l.tensors(s)
		for i, m := range members[:n] {
			switch {
			case i >= len(have) || have[i].Name > m.tensor:
				return nil, bad(m.at, m.tensor, "not in its shard %s", quote(shard))
			case have[i].Name < m.tensor:
				return nil, bad(m.at, have[i].Name, "in shard %s, but not in the index", quote(shard))
			}
		}
		if n < len(have) {
			return nil, bad(members[n-1].at, have[n].Name, "in shard %s, but not in the index", quote(shard))
		}
		f.tensors = append(f.tensors, have...)
		for k, v := range l.meta {
			if _, ok := f.meta[k]; !ok {
				f.meta[k] = v
			}
		}
		members = members[n:]
	}
	slices.SortFunc(f.tensors, func(a, b Tensor) int { return cmp.Compare(a.Name, b.Name) })
	return f, nil
}

// parseIndex reads {"metadata": ..., "weight_map": {tensor: shard}} and sorts by shard and tensor.
func parseIndex(b []byte) ([]member, error) {
	var members []member
	var mapped bool
	var unknown []string
	shards := map[string]bool{}
	s := &scanner{b: b}
	err := s.object("'{'", func(key string, at int) error {
		if key != "weight_map" {
			if slices.Contains(unknown, key) || len(unknown) == maxUnknown {
				return s.fail(at, "field "+quote(key)+" occurs twice, or there are too many")
			}
			unknown = append(unknown, key)
			return s.skip(0)
		}
		if mapped {
			return s.fail(at, "weight_map occurs twice")
		}
		mapped = true
		return s.object("an object as weight_map", func(tensor string, at int) error {
			shard, err := s.str("the name of a shard")
			switch {
			case err != nil:
				return err
			case len(members) == maxTensors:
				return s.fail(at, fmt.Sprintf("more than %d tensors", maxTensors))
			case !plainName(shard):
				return s.fail(at, "shard "+quote(shard)+" is not the plain name of a .safetensors file beside the index")
			}
			if shards[shard] = true; len(shards) > maxShards {
				return s.fail(at, fmt.Sprintf("more than %d shards", maxShards))
			}
			members = append(members, member{tensor, shard, int64(at)})
			return nil
		})
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && !mapped {
		err = s.fail(0, "no weight_map")
	}
	if err == nil && len(members) == 0 {
		err = s.fail(0, "weight_map is empty")
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Or(cmp.Compare(a.tensor, b.tensor), cmp.Compare(a.at, b.at)) })
	for i := 1; i < len(members); i++ {
		if members[i].tensor == members[i-1].tensor {
			return nil, &FormatError{Offset: members[i].at, Tensor: members[i].tensor, Msg: "name occurs twice"}
		}
	}
	slices.SortStableFunc(members, func(a, b member) int { return cmp.Compare(a.shard, b.shard) })
	return members, nil
}

// plainName reports whether a shard's name stays in the folder, on every system.
func plainName(name string) bool {
	return strings.HasSuffix(name, ".safetensors") && !strings.ContainsAny(name, `/\:`) &&
		!strings.ContainsRune(name, 0) && filepath.IsLocal(name)
}
