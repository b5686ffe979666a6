package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// pairs finds what belongs together.
func (f *evaluateFlags) pairs(results []string) (list []*evaluation, notes []string, err error) {
	if f.manifest != "" {
		list, err = readManifest(f.manifest)
		return list, nil, err
	}
	truths, err := files(f.truth, isPicture)
	if err != nil {
		return nil, nil, fmt.Errorf("--truth: %w", err)
	}
	inputs, measurements := map[string]string{}, map[string]string{}
	if f.inputs != "" {
		if inputs, err = files(f.inputs, isPicture); err != nil {
			return nil, nil, fmt.Errorf("--inputs: %w", err)
		}
	}
	if f.measurements != "" {
		if measurements, err = files(f.measurements, isMeasurement); err != nil {
			return nil, nil, fmt.Errorf("--measurements: %w", err)
		}
	}
	for _, folder := range results {
		found, err := files(folder, isPicture)
		if err != nil {
			return nil, nil, err
		}
		missing := 0
		for _, name := range sortedKeys(found) {
			truth, ok := truths[name]
			if !ok && len(found) == 1 && len(truths) == 1 {
				truth, ok = truths[sortedKeys(truths)[0]], true // two single pictures may be called as they like
			}
			if !ok {
				return nil, nil, fmt.Errorf("%s has no truth: expected %s with an extension of pictures in %s", found[name], name, f.truth)
			}
			e := &evaluation{Name: name, Method: filepath.Base(filepath.Clean(folder)), Result: found[name], Truth: truth, Input: inputs[name], Measurement: measurements[name]}
			if f.measurements != "" && e.Measurement == "" {
				return nil, nil, fmt.Errorf("%s has no measurement: expected %s.safetensors in %s", found[name], name, f.measurements)
			}
			list = append(list, e)
		}
		for name := range truths {
			if _, ok := found[name]; !ok {
				missing++
			}
		}
		if missing > 0 && len(found) > 1 {
			notes = append(notes, fmt.Sprintf("%s has no result for %d of the %d pictures in %s: the means are over the others", folder, missing, len(truths), f.truth))
		}
	}
	return list, notes, nil
}

var pictureEndings = []string{".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}

func isPicture(path string) bool {
	return slices.Contains(pictureEndings, strings.ToLower(filepath.Ext(path)))
}

// files finds the files of a folder by name without extension; a single file is one of them.
func files(path string, wanted func(string) bool) (map[string]string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	paths := []string{path}
	if st.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		paths = nil
		for _, e := range entries {
			if !e.IsDir() && wanted(e.Name()) {
				paths = append(paths, filepath.Join(path, e.Name()))
			}
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("%s holds no files of the kind that is needed there", path)
		}
	}
	found := map[string]string{}
	for _, p := range paths {
		name := filepath.Base(p)
		name = strings.TrimSuffix(strings.TrimSuffix(name, ".zst"), filepath.Ext(strings.TrimSuffix(name, ".zst")))
		if other, ok := found[name]; ok {
			return nil, fmt.Errorf("%s and %s have the same name without extension: keep one of them", other, p)
		}
		found[name] = p
	}
	return found, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// maxManifest bounds a manifest, in bytes.
const maxManifest = 64 << 20

// readManifest reads CSV with a header, or a JSON array of objects.
func readManifest(path string) (list []*evaluation, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxManifest {
		return nil, fmt.Errorf("%s: more than %d MB", path, maxManifest>>20)
	}
	if strings.EqualFold(filepath.Ext(path), ".json") {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&list); err != nil {
			return nil, fmt.Errorf("%s: %w: expected an array of objects with result, truth and, optionally, measurement, input, method and name", path, err)
		}
	} else if list, err = manifestCSV(text); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s lists nothing", path)
	}
	dir := filepath.Dir(path)
	for i, e := range list {
		if e == nil || e.Result == "" || e.Truth == "" {
			return nil, fmt.Errorf("%s: entry %d has no result or no truth", path, i+1)
		}
		if e.Method == "" {
			e.Method = "result"
		}
		if e.Name == "" {
			e.Name = strings.TrimSuffix(filepath.Base(e.Truth), filepath.Ext(e.Truth))
		}
		e.Figures = nil
		for _, p := range []*string{&e.Result, &e.Truth, &e.Measurement, &e.Input} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(dir, *p)
			}
		}
	}
	return list, nil
}

func manifestCSV(text []byte) (list []*evaluation, err error) {
	r := csv.NewReader(bytes.NewReader(text))
	r.TrimLeadingSpace = true
	head, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("no header: %w", err)
	}
	for i, name := range head {
		head[i] = strings.TrimSpace(strings.ToLower(name))
		if !slices.Contains([]string{"name", "method", "result", "truth", "measurement", "input"}, head[i]) {
			return nil, fmt.Errorf("column %q: expected result, truth and, optionally, measurement, input, method and name in the first line", name)
		}
	}
	if !slices.Contains(head, "result") || !slices.Contains(head, "truth") {
		return nil, errors.New("the first line names the columns; result and truth must be among them")
	}
	for {
		row, err := r.Read()
		if err == io.EOF {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		var e evaluation
		for i, name := range head {
			*map[string]*string{"name": &e.Name, "method": &e.Method, "result": &e.Result, "truth": &e.Truth, "measurement": &e.Measurement, "input": &e.Input}[name] = strings.TrimSpace(row[i])
		}
		list = append(list, &e)
	}
}
