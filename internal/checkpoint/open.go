package checkpoint

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// The roles of components.
const (
	RoleUNet       = "unet"
	RoleFirstStage = "first_stage"
)

// The sources, for Options.Source.
const (
	SourceGuided    = "guided-diffusion"
	SourceLatent    = "latent-diffusion"
	SourceDiffusers = "diffusers"
)

// Sources lists them.
func Sources() []string { return []string{SourceGuided, SourceLatent, SourceDiffusers} }

// Options say what a file does not. The zero value leaves everything to the file, or to guesses.
type Options struct {
	Source     string        // whose file it must be; "": whatever it is
	Preset     string        // a known network
	Config     *weights.Info // everything about the one network in the file, instead of a preset
	RawWeights bool          // of a checkpoint with both, the trained weights and not their moving average
	Variant    string        // of a diffusers folder: fp16, non_ema, ...; "": full precision, or the only one there is

	// What leaves no trace in the tensors. 0 and "" leave it to the preset or a guess.
	Heads             int
	HeadChannels      int
	NewAttentionOrder bool
	ImageSize         int
	Prediction        string // eps, v or x0
	Schedule          string // linear, cosine, ldm or sd
	ScaleFactor       float64
}

// Model is what a file or folder holds.
type Model struct {
	Components []Component // the UNet first
	Notes      []string    // what was left out or chosen, in words
	LeftOut    []string    // every tensor that was left out, by its name in the file

	prefix  string // of the state dict in the file
	closers []io.Closer
}

// Component is one network.
type Component struct {
	Role    string // unet or first_stage
	Source  string // one of Sources, or "spin" for a file that was converted before
	Info    weights.Info
	Tensors []weights.Tensor  // by upstream name, sorted; their data ends with Model.Close
	From    map[string]string // names in the source where they differ, by upstream name; pieces joined with " + "
}

// Close unmaps the files. The tensors are dead then.
func (m *Model) Close() error {
	var err error
	for _, c := range m.closers {
		err = errors.Join(err, c.Close())
	}
	m.closers, m.Components = nil, nil
	return err
}

// Component finds one by its role.
func (m *Model) Component(role string) (Component, bool) {
	for _, c := range m.Components {
		if c.Role == role {
			return c, true
		}
	}
	return Component{}, false
}

func (m *Model) note(format string, args ...any) {
	m.Notes = append(m.Notes, fmt.Sprintf(format, args...))
}

// Open reads a file or a folder, whatever it is. Every error is an *Error or comes from the readers of the files.
func Open(path string, o Options) (m *Model, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	m = &Model{}
	defer func() {
		if err == nil {
			err = m.pair()
		}
		if err != nil {
			err = in(path, err)
			m.Close()
			m = nil
		}
	}()
	st, err := os.Stat(path)
	if err != nil {
		return m, err
	}
	if st.IsDir() {
		if exists(filepath.Join(path, pipelineFile)) {
			return m, m.pipeline(path, o)
		}
		if exists(filepath.Join(path, configFile)) {
			if err := m.folder(path, o, nil); err != nil {
				return m, err
			}
			return m, o.mustFit(m)
		}
		if parts := convertedParts(path); parts != nil {
			return m, m.parts(parts, o)
		}
	}
	f, err := m.read(path)
	if err != nil {
		return m, err
	}
	return m, m.file(f, o)
}

// Converted takes files that the converter wrote and that are open already. They are the model's: Close closes them, and so
// does an error.
func Converted(files ...*weights.File) (*Model, error) {
	m := &Model{}
	for _, f := range files {
		m.closers = append(m.closers, f)
	}
	for _, f := range files {
		r, err := inputOf(f)
		if err == nil && r.info == nil {
			err = fail(ErrConfig, "the file was not converted: it does not tell what it is")
		}
		if err == nil {
			err = m.converted(r, Options{})
		}
		if err != nil {
			m.Close()
			return nil, in(f.Path(), err)
		}
	}
	return m, nil
}

// convertedParts finds what the converter made of an input of several networks: a file for each role.
func convertedParts(dir string) []string {
	var parts []string
	for _, role := range []string{RoleUNet, RoleFirstStage} {
		for _, ext := range []string{".safetensors", ".safetensors.zst", ".safetensors.index.json"} {
			if path := filepath.Join(dir, role+ext); exists(path) {
				parts = append(parts, path)
				break
			}
		}
	}
	if len(parts) < 2 {
		return nil // the readers of single files say what is wrong, if anything is
	}
	return parts
}

// parts takes the files of convertedParts, which say everything themselves.
func (m *Model) parts(paths []string, o Options) error {
	if o.Preset != "" || o.Config != nil {
		return fail(ErrConfig, "the folder holds converted files, which need no preset and no configuration: leave it away, or name one of the files")
	}
	for i, role := range []string{RoleUNet, RoleFirstStage} {
		f, err := m.read(paths[i])
		if err == nil {
			err = m.file(f, o)
		}
		if err != nil {
			return in(paths[i], err)
		}
		if len(m.Components) != i+1 || m.Components[i].Role != role {
			return in(paths[i], fail(ErrMixed, "expected one network with the role %s", role))
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (o Options) check() error {
	if o.Preset != "" {
		if _, ok := FindPreset(o.Preset); !ok {
			return fail(ErrConfig, "preset %s is not known: expected one of %s", quote(o.Preset), strings.Join(PresetNames(), ", "))
		}
		if o.Config != nil {
			return fail(ErrConfig, "a preset and a configuration exclude each other")
		}
	}
	if o.Source != "" && !slices.Contains(Sources(), o.Source) {
		return fail(ErrConfig, "source %s is not known: expected one of %s", quote(o.Source), strings.Join(Sources(), ", "))
	}
	if o.Schedule != "" {
		if _, ok := schedules[o.Schedule]; !ok {
			return fail(ErrConfig, "schedule %s is not known: expected one of %s", quote(o.Schedule), strings.Join(slices.Sorted(maps.Keys(schedules)), ", "))
		}
	}
	if o.Heads < 0 || o.HeadChannels < 0 || o.Heads > 0 && o.HeadChannels > 0 {
		return fail(ErrConfig, "heads %d and head channels %d: one positive number is enough", o.Heads, o.HeadChannels)
	}
	if o.ImageSize < 0 || o.ScaleFactor < 0 {
		return fail(ErrConfig, "image size %d and scale factor %g cannot be negative", o.ImageSize, o.ScaleFactor)
	}
	return nil
}

// schedules are those that can be asked for by name.
var schedules = map[string]weights.Schedule{"linear": linear, "cosine": cosine(1000), "ldm": ldmLinear, "sd": sdLinear}

// given is what the options say about a network of these families, or nil.
func (o Options) given(families ...string) (*weights.Info, error) {
	var found []weights.Info
	switch {
	case o.Config != nil:
		found = []weights.Info{*o.Config}
	case o.Preset != "":
		p, _ := FindPreset(o.Preset)
		found = p.Infos()
	}
	for _, i := range found {
		if slices.Contains(families, i.Family) {
			return &i, nil
		}
	}
	return nil, nil
}

// mustFit fails if the options describe a network and none of the components is one.
func (o Options) mustFit(m *Model) error {
	var families []string
	switch {
	case o.Config != nil:
		families = []string{o.Config.Family}
	case o.Preset != "":
		p, _ := FindPreset(o.Preset)
		for _, i := range p.Infos() {
			families = append(families, i.Family)
		}
	default:
		return nil
	}
	var have []string
	for _, c := range m.Components {
		if slices.Contains(families, c.Info.Family) {
			return nil
		}
		have = append(have, c.Info.Family)
	}
	return fail(ErrConfig, "the configuration is for %s, but the file holds %s", strings.Join(families, " and "), strings.Join(have, " and "))
}

// file takes what one set of tensors holds.
func (m *Model) file(f *input, o Options) error {
	if f.info != nil {
		return m.converted(f, o)
	}
	prefix, kind, err := recognise(f.tensors, o.RawWeights)
	if err != nil {
		return err
	}
	list, outside := under(f.tensors, prefix)
	m.leftOut(outside, "", "outside of "+printable(strings.TrimSuffix(prefix, ".")))
	m.prefix = prefix
	if o.Source != "" && kind.source != o.Source && !(kind.bare && o.Source != SourceDiffusers) {
		return fail(ErrConfig, "the file comes from %s, not from %s", kind.source, o.Source)
	}
	if err := kind.take(m, f, list, o); err != nil {
		return err
	}
	slices.SortStableFunc(m.Components, func(a, b Component) int { return -cmp.Compare(a.Role, b.Role) })
	return o.mustFit(m)
}

// leftOut notes tensors that are passed over, and why, by the first part of their names.
func (m *Model) leftOut(list []weights.Tensor, prefix, why string) {
	if len(list) == 0 {
		return
	}
	count := map[string]int{}
	for _, t := range list {
		part, _, _ := strings.Cut(t.Name, ".")
		count[part]++
		m.LeftOut = append(m.LeftOut, prefix+t.Name)
	}
	parts := slices.Sorted(maps.Keys(count))
	for i := range parts {
		parts[i] = printable(parts[i])
	}
	m.note("left out %d tensors (%s): %s", len(list), why, strings.Join(parts, ", "))
}

// kind is a network, or several, that the names of tensors betray.
type kind struct {
	name   string
	source string
	bare   bool     // an upstream UNet, guided-diffusion's or CompVis'
	needs  []string // all of these names...
	prefix []string // ...or one name that begins so
	take   func(m *Model, f *input, list []weights.Tensor, o Options) error
}

var kinds []kind

func init() { // not a literal: its functions refer to it
	kinds = []kind{
		{name: "a latent-diffusion checkpoint", source: SourceLatent, prefix: []string{"model.diffusion_model.", "first_stage_model."}, take: (*Model).latentDiffusion},
		{name: "a UNet", source: SourceGuided, bare: true, needs: []string{"input_blocks.0.0.weight"}, take: (*Model).bareUNet},
		{name: "a first stage", source: SourceLatent, needs: []string{"encoder.down.0.block.0.conv1.weight"}, take: (*Model).bareFirstStage},
		{name: "a diffusers UNet", source: SourceDiffusers, needs: []string{"conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"}, take: (*Model).diffusersFile},
		{name: "a diffusers autoencoder", source: SourceDiffusers, needs: []string{"encoder.down_blocks.0.resnets.0.conv1.weight"}, take: (*Model).diffusersFile},
		{name: "a tiny autoencoder", source: SourceDiffusers, needs: []string{"encoder.layers.0.weight", "decoder.layers.0.weight"}, take: (*Model).diffusersFile},
	}
}

// nests are under which names people save a state dict, in the order of preference.
var nests = []string{"state_dict", "model_state_dict", "ema", "ema_model", "model_ema", "model", "net", "module", "unet"}

// recognise finds the state dict of a network in the file.
func recognise(list []weights.Tensor, raw bool) (prefix string, k kind, err error) {
	order := slices.Clone(nests)
	if raw {
		slices.SortStableFunc(order, func(a, b string) int {
			return cmp.Compare(strings.Count(a, "ema"), strings.Count(b, "ema"))
		})
	}
	prefixes := []string{""}
	for _, a := range order {
		prefixes = append(prefixes, a+".")
	}
	for _, a := range order {
		for _, b := range order {
			prefixes = append(prefixes, a+"."+b+".")
		}
	}
	for _, p := range prefixes {
		inside, _ := under(list, p)
		if len(inside) == 0 {
			continue
		}
		s := shapesOf(inside)
		var found []kind
		for _, k := range kinds {
			if k.matches(s) {
				found = append(found, k)
			}
		}
		switch {
		case len(found) == 1:
			return p, found[0], nil
		case len(found) > 1:
			return "", kind{}, fail(ErrMixed, "the file holds %s and %s under one name: split it first", found[0].name, found[1].name)
		}
	}
	if len(list) == 0 {
		return "", kind{}, fail(ErrUnrecognised, "no tensors")
	}
	return "", kind{}, fail(ErrUnrecognised, "%d tensors, the first is %s: no network that is known here has such names", len(list), quote(list[0].Name))
}

func (k kind) matches(s shapes) bool {
	for _, p := range k.prefix {
		for name := range s {
			if strings.HasPrefix(name, p) {
				return true
			}
		}
	}
	for _, name := range k.needs {
		if _, ok := s[name]; !ok {
			return false
		}
	}
	return len(k.needs) > 0
}

// under splits a list into what begins with the prefix, without it, and the rest.
func under(list []weights.Tensor, prefix string) (inside, outside []weights.Tensor) {
	for _, t := range list {
		if rest, ok := strings.CutPrefix(t.Name, prefix); ok {
			t.Name = rest
			inside = append(inside, t)
		} else {
			outside = append(outside, t)
		}
	}
	return inside, outside
}

// converted takes a file that carries its Info. A preset or a configuration replaces that.
func (m *Model) converted(f *input, o Options) error {
	info := *f.info
	var err error
	if i, _ := o.given(FamilyGuided, FamilyLatent, FamilyKL, FamilyVQ, FamilyTiny); i != nil {
		info = *i
	}
	c := Component{Source: "spin", Info: info}
	switch info.Family {
	case FamilyGuided:
		c.Role = RoleUNet
		c.Tensors, c.Info, err = guidedUNet(f.tensors, &info, o)
	case FamilyLatent:
		c.Role = RoleUNet
		var config nn.LatentUNetConfig
		if config, err = ParseUNetConfig(info.Model); err == nil {
			if o.Heads > 0 || o.HeadChannels > 0 || o.NewAttentionOrder {
				overrideHeads(&config, o)
				c.Info.Model, err = marshal(config), wrong(config.Check())
			}
		}
		if err == nil {
			c.Tensors, err = fitted(f.tensors, unetLayout(config))
		}
	case FamilyKL, FamilyVQ:
		c.Role = RoleFirstStage
		var config nn.AutoencoderConfig
		if config, err = ParseAutoencoderConfig(info.Model); err == nil {
			if familyOf(config) != info.Family {
				return fail(ErrConfig, "num_embeddings is %d, which is not of family %s", config.NumEmbeddings, info.Family)
			}
			c.Tensors, err = fitted(f.tensors, autoencoderLayout(config))
		}
	case FamilyTiny:
		c.Role = RoleFirstStage
		var config nn.TinyConfig
		if config, err = ParseTinyConfig(info.Model); err == nil {
			c.Tensors, err = fitted(f.tensors, tinyLayout(config))
		}
	default:
		return fail(ErrUnsupported, "family %s is not known", quote(info.Family))
	}
	o.overrideInfo(&c.Info)
	m.Components = append(m.Components, c)
	return err
}

// namesUnder records where in the file a component's tensors were, for reports.
func (c *Component) namesUnder(prefix string) {
	if prefix == "" {
		return
	}
	c.From = map[string]string{}
	for _, t := range c.Tensors {
		c.From[t.Name] = prefix + t.Name
	}
}

// fitted holds tensors with our names against a layout.
func fitted(list []weights.Tensor, want []param) ([]weights.Tensor, error) {
	return assemble(list, sameNames(want), want)
}
