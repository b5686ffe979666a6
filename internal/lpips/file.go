package lpips

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spin-native/spin/internal/torchfile"
	"github.com/spin-native/spin/weights"
)

// Key is the metadata key that marks a file of LPIPS weights.
const Key = "spin.lpips"

// Info describes a file of LPIPS weights.
type Info struct {
	Format  int    `json:"format"`  // 1
	Net     string `json:"net"`     // alex or vgg
	Version string `json:"version"` // of the linear heads: 0.1
}

func weightName(index int) string { return fmt.Sprintf("features.%d.weight", index) }
func biasName(index int) string   { return fmt.Sprintf("features.%d.bias", index) }
func headName(layer int) string   { return fmt.Sprintf("lin%d.model.1.weight", layer) }

// Is reports whether a file holds LPIPS weights.
func Is(f *weights.File) bool {
	_, ok := f.Metadata()[Key]
	return ok
}

// ReadInfo is what a file of LPIPS weights says about itself.
func ReadInfo(f *weights.File) (*Info, error) {
	var info Info
	text, ok := f.Metadata()[Key]
	if !ok {
		return nil, fmt.Errorf("%s holds no LPIPS weights: convert --family lpips makes such a file", f.Path())
	}
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", f.Path(), Key, err)
	}
	if _, ok := nets[info.Net]; !ok || info.Format != 1 {
		return nil, fmt.Errorf("%s: LPIPS with the backbone %q in format %d, expected alex or vgg in format 1", f.Path(), info.Net, info.Format)
	}
	return &info, nil
}

// Weights are a backbone and its heads, read but not yet written.
type Weights struct {
	Info    Info
	Tensors []weights.Tensor // by the names of torchvision and of the lpips package
	closers []io.Closer
}

// Close closes the files. The tensors are dead then.
func (w *Weights) Close() error {
	var err error
	for _, c := range w.closers {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Read takes a backbone (torchvision's alexnet or vgg16) and the linear heads (the lpips package's weights/v0.1/alex.pth or
// vgg.pth) from their files, PyTorch or safetensors. heads may be empty where the first file is the state dict of a whole
// lpips.LPIPS. Nothing is executed. What does not belong to LPIPS, torchvision's classifier for example, is left out.
func Read(backbone, heads string) (w *Weights, err error) {
	w = &Weights{Info: Info{Format: 1, Version: "0.1"}}
	defer func() {
		if err != nil {
			w.Close()
			w = nil
		}
	}()
	all := map[string]weights.Tensor{}
	for _, path := range []string{backbone, heads} {
		if path == "" {
			continue
		}
		list, c, err := tensors(path)
		if err != nil {
			return w, err
		}
		w.closers = append(w.closers, c)
		for _, t := range list {
			// lpips.LPIPS keeps the layers of torchvision under net.sliceN, with their numbers.
			if rest, ok := strings.CutPrefix(t.Name, "net.slice"); ok {
				if _, name, ok := strings.Cut(rest, "."); ok {
					t.Name = "features." + name
				}
			}
			all[t.Name] = t
		}
	}
	w.Info.Net = "alex"
	if _, ok := all[weightName(28)]; ok {
		w.Info.Net = "vgg"
	}
	in, tap := 3, 0
	take := func(name string, shape ...int) (weights.Tensor, error) {
		t, ok := all[name]
		if !ok {
			return t, fmt.Errorf("no tensor %s in %s: expected torchvision's alexnet or vgg16, and the heads of the lpips package with --lpips-heads", name, strings.Trim(backbone+" and "+heads, " and "))
		}
		fits := len(t.Shape) == len(shape)
		for i := range min(len(shape), len(t.Shape)) {
			fits = fits && (shape[i] == 0 || shape[i] == t.Shape[i])
		}
		if !fits {
			return t, fmt.Errorf("tensor %s has shape %v, expected %v (0: any) of LPIPS with %s", name, t.Shape, shape, w.Info.Net)
		}
		w.Tensors = append(w.Tensors, t)
		return t, nil
	}
	for _, l := range nets[w.Info.Net] {
		t, err := take(weightName(l.index), 0, in, l.size, l.size)
		if err != nil {
			return w, err
		}
		in = t.Shape[0]
		if _, err := take(biasName(l.index), in); err != nil {
			return w, err
		}
		if l.tap {
			if _, err := take(headName(tap), 1, in, 1, 1); err != nil {
				return w, err
			}
			tap++
		}
	}
	slices.SortFunc(w.Tensors, func(a, b weights.Tensor) int { return strings.Compare(a.Name, b.Name) })
	return w, nil
}

// Metadata marks the file that the tensors go into.
func (w *Weights) Metadata() map[string]string {
	text, err := json.Marshal(w.Info)
	if err != nil {
		panic(fmt.Sprintf("lpips: %v", err)) // two strings and a number
	}
	return map[string]string{Key: string(text)}
}

// tensors opens a file of PyTorch or safetensors.
func tensors(path string) ([]weights.Tensor, io.Closer, error) {
	head := make([]byte, 16)
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	n, _ := io.ReadFull(f, head)
	f.Close()
	if torchfile.Sniff(head[:n]) {
		t, err := torchfile.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return t.Tensors(), t, nil
	}
	s, err := weights.Open(path)
	if err != nil {
		return nil, nil, err
	}
	var list []weights.Tensor
	for _, name := range s.Names() {
		t, _ := s.Tensor(name)
		list = append(list, t)
	}
	return list, s, nil
}
