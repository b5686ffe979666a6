package checkpoint

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spin-native/spin/internal/dryrun"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// bareUNet takes an upstream UNet under its own names: guided-diffusion's, unless it is asked for or proves to be CompVis'.
func (m *Model) bareUNet(f *input, list []weights.Tensor, o Options) error {
	c := Component{Role: RoleUNet, Source: SourceGuided}
	latent, err := o.given(FamilyLatent)
	if err != nil {
		return err
	}
	s := shapesOf(list)
	_, transformer := s.find(".transformer_blocks.0.attn2.to_k.weight")
	if latent != nil || transformer || o.Source == SourceLatent {
		return m.latentUNet(list, nil, o)
	}
	given, err := o.given(FamilyGuided)
	if err != nil {
		return err
	}
	c.Tensors, c.Info, err = guidedUNet(list, given, o)
	c.namesUnder(m.prefix)
	m.Components = append(m.Components, c)
	return err
}

// guidedUNet proves that the tensors are a UNet of guided-diffusion and completes its configuration.
func guidedUNet(list []weights.Tensor, given *weights.Info, o Options) ([]weights.Tensor, weights.Info, error) {
	var info weights.Info
	found, err := inferUNet(shapesOf(list))
	if err != nil {
		return nil, info, err
	}
	g, err := guidedConfig(found)
	if err != nil {
		return nil, info, err
	}
	if given != nil {
		info = *given
		if err := sameGuided(*given, g); err != nil {
			return nil, info, err
		}
		c, _ := nn.ParseUNetConfig(given.Model)
		g = untold(g, c)
		o.override(&g)
		if model := marshal(g); string(model) != string(marshal(c)) {
			info.Model = model // a flag changed something; else the text stays as it was
		}
		o.overrideInfo(&info)
	} else {
		info = guessGuided(&g, o)
	}
	tensors, err := fitted(list, unetLayout(found))
	if err != nil {
		return nil, info, err
	}
	return tensors, info, checkGuided(g, tensors)
}

// override takes what the options say about heads.
func (o Options) override(g *nn.UNetConfig) {
	if o.Heads > 0 {
		g.NumHeads, g.NumHeadChannels = o.Heads, -1
	}
	if o.HeadChannels > 0 {
		g.NumHeadChannels = o.HeadChannels
	}
	if o.NewAttentionOrder {
		g.UseNewAttentionOrder = true
	}
}

func (o Options) overrideInfo(i *weights.Info) {
	if o.ImageSize > 0 {
		i.ImageSize = o.ImageSize
	}
	if o.Prediction != "" {
		i.Prediction = o.Prediction
	}
	if o.Schedule != "" {
		i.Schedule = schedules[o.Schedule]
	}
}

// untold gives a configuration that was found the fields that leave no trace in the tensors.
func untold(found, given nn.UNetConfig) nn.UNetConfig {
	found.NumHeads, found.NumHeadChannels, found.NumHeadsUpsample = given.NumHeads, given.NumHeadChannels, given.NumHeadsUpsample
	found.UseNewAttentionOrder = given.UseNewAttentionOrder
	if found.ResBlockUpDown || len(found.ChannelMult) == 1 {
		found.ConvResample = given.ConvResample
	}
	if len(found.ChannelMult) == 1 {
		found.ResBlockUpDown = given.ResBlockUpDown
	}
	if len(given.AttentionResolutions) > 0 {
		// Beyond the last level they mean nothing, and their order neither.
		list := slices.DeleteFunc(slices.Sorted(slices.Values(given.AttentionResolutions)), func(r int) bool {
			return r >= 1<<len(found.ChannelMult) || r&(r-1) != 0
		})
		if slices.Equal(slices.Compact(list), found.AttentionResolutions) {
			found.AttentionResolutions = given.AttentionResolutions
		}
	}
	return found
}

// sameGuided holds a configuration against what the tensors tell.
func sameGuided(given weights.Info, found nn.UNetConfig) error {
	c, err := nn.ParseUNetConfig(given.Model)
	if err != nil {
		return wrong(err)
	}
	want := c.InChannels
	if given.LearnedRange {
		want *= 2
	}
	if c.OutChannels != want {
		return fail(ErrConfig, "the configuration has out_channels %d, but in_channels %d and learned_range %v mean %d", c.OutChannels, c.InChannels, given.LearnedRange, want)
	}
	return contradiction(c, untold(found, c))
}

// contradiction is the error for a configuration that is of another network than the tensors.
func contradiction[T any](given, found T) error {
	field, a, b := difference(given, found)
	if field == "" {
		return nil
	}
	return fail(ErrConfig, "the configuration has %s %s, but the tensors mean %s: it is of another network, check %s", field, marshal(a), marshal(b), field)
}

// guessGuided fills in what nobody said: from the preset whose tensors look the same, else what is most common.
func guessGuided(g *nn.UNetConfig, o Options) weights.Info {
	info := newInfo(FamilyGuided, "", 0, linear, g)
	info.LearnedRange = g.OutChannels == 2*g.InChannels
	var guesses []string
	guess := func(asked bool, format string, args ...any) {
		if !asked {
			guesses = append(guesses, fmt.Sprintf(format, args...))
		}
	}
	heads := o.Heads > 0 || o.HeadChannels > 0
	name := ""
	for _, p := range sortedPresets() {
		if p.UNet == nil || p.UNet.Family != FamilyGuided || sameGuided(*p.UNet, *g) != nil {
			continue
		}
		c, _ := nn.ParseUNetConfig(p.UNet.Model)
		*g = untold(*g, c)
		name, info.Schedule, info.ImageSize = p.Name, p.UNet.Schedule, p.UNet.ImageSize
		break
	}
	why := "the file does not tell"
	if name != "" {
		why = "as in preset " + name + ", which has the same tensors"
	} else {
		g.NumHeadChannels, g.NumHeads = -1, 1
		for _, width := range []int{64, 32} {
			fits := g.ChannelMult[len(g.ChannelMult)-1]*float64(g.ModelChannels) >= float64(width)
			for l, m := range g.ChannelMult {
				if slices.Contains(g.AttentionResolutions, 1<<l) || l == len(g.ChannelMult)-1 {
					fits = fits && int(m*float64(g.ModelChannels))%width == 0
				}
			}
			if fits {
				g.NumHeadChannels = width
				break
			}
		}
		info.ImageSize = map[int]int{4: 64, 5: 128, 6: 256, 7: 512}[len(g.ChannelMult)]
		if info.ImageSize == 0 {
			info.ImageSize = 64
		}
	}
	if g.NumHeadChannels > 0 {
		guess(heads, "num_head_channels %d: %s", g.NumHeadChannels, why)
	} else {
		guess(heads, "num_heads %d: %s", g.NumHeads, why)
	}
	guess(o.NewAttentionOrder, "use_new_attention_order %v: %s", g.UseNewAttentionOrder, why)
	guess(o.Schedule != "", "schedule %s: %s", inWords(info.Schedule), why)
	guess(o.ImageSize > 0, "image_size %d: %s", info.ImageSize, why)
	guess(o.Prediction != "", "prediction %s: %s", info.Prediction, why)
	o.override(g)
	o.overrideInfo(&info)
	info.Model, info.Guesses = marshal(g), guesses
	return info
}

func inWords(s weights.Schedule) string {
	if s.Kind == "explicit" {
		return fmt.Sprintf("of %d explicit steps", s.T)
	}
	return fmt.Sprintf("%s from %g to %g in %d steps", s.Kind, s.BetaFirst, s.BetaLast, s.T)
}

// checkGuided builds the network of the configuration from the tensors, without computing anything.
func checkGuided(c nn.UNetConfig, list []weights.Tensor) error {
	if err := c.Check(); err != nil {
		return wrong(err)
	}
	f, err := weights.FromTensors("model", list, nil)
	if err != nil {
		return err
	}
	shapes := f.ShapesOnly()
	d, err := dryrun.Open(dryrun.Machine{})
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := nn.LoadUNet(d.Device, shapes.Scope(), c, nn.LoadOptions{}); err != nil {
		return err
	}
	return shapes.CheckAllRead()
}

// latentDiffusion takes a checkpoint of CompVis' LatentDiffusion: the UNet, the first stage, the schedule.
func (m *Model) latentDiffusion(f *input, list []weights.Tensor, o Options) error {
	unet, rest := under(list, "model.diffusion_model.")
	stage, rest := under(rest, "first_stage_model.")
	ema, rest := under(rest, "model_ema.")
	var schedule *weights.Schedule
	var scale float64
	var other []weights.Tensor
	for _, t := range rest {
		switch {
		case t.Name == "betas":
			s, err := scheduleOf(t)
			if err != nil {
				return err
			}
			schedule = &s
		case t.Name == "scale_factor":
			v, err := t.Floats()
			if err != nil || len(v) != 1 {
				return failTensor(ErrShape, t.Name, "is not one number")
			}
			scale = float64(v[0])
		default:
			other = append(other, t)
		}
	}
	if schedule == nil { // both follow from each other
		for _, t := range other {
			if t.Name == "alphas_cumprod" {
				s, err := scheduleOfProducts(t)
				if err != nil {
					return err
				}
				schedule = &s
			}
		}
	}
	if v, ok := f.values["scale_factor"].(float64); ok && scale == 0 {
		scale = v
	}
	if err := m.passOver(other, m.prefix, latentRest); err != nil {
		return err
	}
	if len(unet) > 0 {
		chosen, err := m.average(unet, ema, "diffusion_model.", m.prefix, m.prefix+"model.diffusion_model.", o.RawWeights)
		if err != nil {
			return err
		}
		if err := m.latentUNet(chosen, schedule, o); err != nil {
			return err
		}
		c := &m.Components[len(m.Components)-1]
		c.namesUnder(m.prefix + "model.diffusion_model.")
		if len(ema) > 0 && !o.RawWeights {
			for _, t := range c.Tensors {
				c.From[t.Name] = m.prefix + "model_ema." + strings.ReplaceAll("diffusion_model."+t.Name, ".", "")
			}
		}
	} else if len(ema) > 0 {
		return fail(ErrUnsupported, "a moving average without the weights that it is of: its names have lost their dots and cannot be read")
	}
	if len(stage) > 0 {
		if err := m.firstStage(stage, "first_stage_model.", schedule, scale, o); err != nil {
			return err
		}
		m.Components[len(m.Components)-1].namesUnder(m.prefix + "first_stage_model.")
	}
	return nil
}

// latentRest are the other tensors of such a checkpoint, by the beginning of their names, and why they are not needed.
var latentRest = [][2]string{
	{"cond_stage_model.", "the encoder of conditions is not converted"},
	{"embedding_manager.", "the encoder of conditions is not converted"},
	{"loss.", "only for training"},
	{"logvar", "only for training"},
	{"lvlb_weights", "only for training"},
	{"alphas_cumprod", "follows from the betas"},
	{"sqrt_", "follows from the betas"},
	{"log_one_minus_alphas_cumprod", "follows from the betas"},
	{"posterior_", "follows from the betas"},
	{"ddim_", "follows from the betas"},
	{"cond_ids", "only for training"},
}

// firstStageRest are the other tensors of a first stage.
var firstStageRest = [][2]string{
	{"loss.", "only for training"},
	{"colorize", "only for logging"},
}

// passOver notes tensors that are known and not needed. Any other is an error.
func (m *Model) passOver(list []weights.Tensor, prefix string, known [][2]string) error {
	by := map[string][]weights.Tensor{}
	for _, t := range list {
		i := slices.IndexFunc(known, func(k [2]string) bool { return strings.HasPrefix(t.Name, k[0]) })
		if i < 0 {
			return failTensor(ErrUnused, t.Name, "has no place in the network, and nothing is known of it")
		}
		by[known[i][1]] = append(by[known[i][1]], t)
	}
	for _, k := range known {
		m.leftOut(by[k[1]], prefix, k[1])
		delete(by, k[1])
	}
	return nil
}

// average gives the moving average of the tensors, if there is one and raw is not wanted. Its names have no dots.
// inside is what stands before the names without dots; emaAt and rawAt say where the two lie in the file.
func (m *Model) average(list, ema []weights.Tensor, inside, emaAt, rawAt string, raw bool) ([]weights.Tensor, error) {
	if len(ema) == 0 {
		return list, nil
	}
	byName := map[string]weights.Tensor{}
	for _, t := range ema {
		byName[t.Name] = t
	}
	for _, k := range []string{"decay", "num_updates"} { // of the averaging itself
		if _, ok := byName[k]; ok {
			delete(byName, k)
			m.LeftOut = append(m.LeftOut, emaAt+"model_ema."+k)
		}
	}
	out := make([]weights.Tensor, 0, len(list))
	for _, t := range list {
		name := strings.ReplaceAll(inside+t.Name, ".", "")
		e, ok := byName[name]
		switch {
		case !ok:
			return nil, failTensor(ErrMissing, "model_ema."+name, "is missing from the moving average: take the raw weights")
		case !slices.Equal(e.Shape, t.Shape):
			return nil, failTensor(ErrShape, "model_ema."+name, "has shape %v, but the raw weights %v", e.Shape, t.Shape)
		}
		delete(byName, name)
		e.Name = t.Name
		out = append(out, e)
	}
	if len(byName) > 0 {
		var names []string
		for n := range byName {
			names = append(names, n)
		}
		return nil, failTensor(ErrUnused, "model_ema."+slices.Min(names), "averages a tensor that is not there")
	}
	if raw {
		for _, t := range list {
			m.LeftOut = append(m.LeftOut, emaAt+"model_ema."+strings.ReplaceAll(inside+t.Name, ".", ""))
		}
		m.note("left out the moving average (%d tensors): the raw weights were asked for", len(out))
		return list, nil
	}
	for _, t := range list {
		m.LeftOut = append(m.LeftOut, rawAt+t.Name)
	}
	m.note("left out %d raw tensors: the moving average was taken", len(list))
	return out, nil
}

// scheduleOf recognises the rule behind an array of betas, within the precision it is stored in, or keeps the array.
func scheduleOf(t weights.Tensor) (weights.Schedule, error) {
	v, err := t.Floats()
	if err != nil {
		return weights.Schedule{}, err
	}
	s := weights.Schedule{Kind: "explicit", T: len(v)}
	for _, b := range v {
		s.Betas = append(s.Betas, short(b))
	}
	if _, err := s.Values(); err != nil || len(t.Shape) != 1 {
		return s, failTensor(ErrConfig, t.Name, "is no schedule of noise: %v", cmp.Or(err, fmt.Errorf("shape %v", t.Shape)))
	}
	precision := 4 * map[weights.DType]float64{weights.F16: 0x1p-11, weights.BF16: 0x1p-8}[t.DType]
	return simplify(s, max(precision, 0x1p-22)), nil
}

// scheduleOfProducts is for files that keep the products of 1-beta only, which determine the betas less exactly.
func scheduleOfProducts(t weights.Tensor) (weights.Schedule, error) {
	v, err := t.Floats()
	if err != nil {
		return weights.Schedule{}, err
	}
	s := weights.Schedule{Kind: "explicit", T: len(v)}
	last := 1.0
	for _, p := range v {
		s.Betas = append(s.Betas, 1-float64(p)/last)
		last = float64(p)
	}
	if _, err := s.Values(); err != nil {
		return s, failTensor(ErrConfig, t.Name, "is no schedule of noise: %v", err)
	}
	return simplify(s, 2e-3), nil
}

// short is the number of the fewest digits that float32 rounds to v.
func short(v float32) float64 {
	f, _ := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	return f
}

// simplify turns explicit betas into a rule that gives the same within a relative precision.
func simplify(s weights.Schedule, precision float64) weights.Schedule {
	first, last := s.Betas[0], s.Betas[s.T-1]
	rules := []weights.Schedule{linear, ldmLinear, sdLinear}
	for _, kind := range []string{"linear", "scaled-linear"} {
		rules = append(rules, weights.Schedule{Kind: kind, BetaFirst: first, BetaLast: last})
	}
	for _, r := range rules {
		r.T = s.T
		values, err := r.Values()
		if err != nil {
			continue
		}
		same := true
		for i, v := range values {
			same = same && math.Abs(v-s.Betas[i]) <= precision*v
		}
		if same {
			return r
		}
	}
	return s
}

// latentUNet takes a UNet of CompVis under its own names.
func (m *Model) latentUNet(list []weights.Tensor, schedule *weights.Schedule, o Options) error {
	c, err := inferUNet(shapesOf(list))
	if err != nil {
		return err
	}
	if c.StemChannels != 0 {
		return failTensor(ErrUnsupported, "input_blocks.0.0.weight", "has %d outputs, but the embedding of time %d: latent-diffusion has equal numbers", c.StemChannels, c.ModelChannels)
	}
	given, err := o.given(FamilyLatent)
	if err != nil {
		return err
	}
	if o.Preset != "" && given == nil {
		return fail(ErrConfig, "preset %s has no UNet of latent-diffusion, but the file holds one", quote(o.Preset))
	}
	info := newInfo(FamilyLatent, "", 0, ldmLinear, c)
	why := ""
	if given == nil {
		why = "the file does not tell"
		for _, p := range sortedPresets() {
			if p.UNet != nil && p.UNet.Family == FamilyLatent && sameLatent(*p.UNet, c) == nil {
				given, why = p.UNet, "as in preset "+p.Name+", which has the same tensors"
				break
			}
		}
		if given != nil {
			copied := *given
			copied.Name, copied.Downsampling = "", 0 // which no tensor proves
			given = &copied
		}
	}
	if given != nil {
		if err := sameLatent(*given, c); err != nil {
			return err
		}
		known, _ := ParseUNetConfig(given.Model)
		info, c = *given, known
	} else {
		guessHeads(&c)
		info.ImageSize = 64
		info.LearnedRange = c.OutChannels == 2*c.InChannels
		if c.ContextDim > 0 && c.InChannels == 4 {
			info.Schedule = sdLinear
		}
	}
	overrideHeads(&c, o)
	if schedule != nil {
		info.Schedule = *schedule
	}
	o.overrideInfo(&info)
	if why != "" {
		guess := func(asked bool, format string, args ...any) {
			if !asked {
				info.Guesses = append(info.Guesses, fmt.Sprintf(format, args...)+": "+why)
			}
		}
		guess(o.Heads > 0 || o.HeadChannels > 0, "heads %v", c.Heads)
		guess(o.NewAttentionOrder || c.ContextDim > 0, "use_new_attention_order %v", c.UseNewAttentionOrder)
		guess(o.ImageSize > 0, "image_size %d", info.ImageSize)
		guess(o.Prediction != "", "prediction %s", info.Prediction)
		guess(schedule != nil || o.Schedule != "", "schedule %s", inWords(info.Schedule))
	}
	if err := wrong(c.Check()); err != nil {
		return err
	}
	info.Model = marshal(c)
	tensors, err := fitted(list, unetLayout(c))
	m.Components = append(m.Components, Component{Role: RoleUNet, Source: SourceLatent, Info: info, Tensors: tensors})
	return err
}

// sameLatent holds a configuration against what the tensors tell.
func sameLatent(given weights.Info, found nn.LatentUNetConfig) error {
	c, err := ParseUNetConfig(given.Model)
	if err != nil {
		return err
	}
	found.Heads, found.UseNewAttentionOrder = c.Heads, c.UseNewAttentionOrder
	found.NormGroups, found.NormEps, found.DownsamplePadding = c.NormGroups, c.NormEps, c.DownsamplePadding
	found.TimeCosFirst, found.TimeFreqShift, found.TransformerNormEps = c.TimeCosFirst, c.TimeFreqShift, c.TransformerNormEps
	if found.MiddleNormGroups > 0 && c.MiddleNormGroups > 0 || found.MiddleAttention != nn.AttendSelf {
		found.MiddleNormGroups = c.MiddleNormGroups
	}
	return contradiction(c, found)
}

// guessHeads takes what the published networks have: 8 heads with transformers, or heads of 64 where those project by
// matrices, and heads of 32 channels without.
func guessHeads(c *nn.LatentUNetConfig) {
	for l, ch := range c.Channels {
		n := 1
		switch {
		case c.LinearProjection && ch%64 == 0:
			n = ch / 64
		case c.ContextDim > 0 && ch%8 == 0:
			n = 8
		case c.ContextDim == 0 && ch%32 == 0:
			n = ch / 32
		}
		if !c.Attends(l) {
			n = 1
		}
		c.Heads = append(c.Heads, n)
	}
}

func overrideHeads(c *nn.LatentUNetConfig, o Options) {
	for l, ch := range c.Channels {
		switch {
		case !c.Attends(l):
		case o.Heads > 0:
			c.Heads[l] = o.Heads
		case o.HeadChannels > 0:
			c.Heads[l] = ch / o.HeadChannels
			if ch%o.HeadChannels != 0 {
				c.Heads[l] = 0 // which Check refuses
			}
		}
	}
	c.UseNewAttentionOrder = c.UseNewAttentionOrder || o.NewAttentionOrder
}

// bareFirstStage takes a first stage under its own names, as its own training saves it.
func (m *Model) bareFirstStage(_ *input, list []weights.Tensor, o Options) error {
	return m.firstStage(list, "", nil, 0, o)
}

func (m *Model) firstStage(list []weights.Tensor, prefix string, schedule *weights.Schedule, scale float64, o Options) error {
	ema, list := under(list, "model_ema.")
	var rest []weights.Tensor
	list = slices.DeleteFunc(slices.Clone(list), func(t weights.Tensor) bool {
		known := slices.ContainsFunc(firstStageRest, func(k [2]string) bool { return strings.HasPrefix(t.Name, k[0]) })
		if known {
			rest = append(rest, t)
		}
		return known
	})
	if err := m.passOver(rest, m.prefix+prefix, firstStageRest); err != nil {
		return err
	}
	if len(ema) > 0 {
		// The average is of the losses' tensors too.
		both, err := m.average(slices.Concat(list, rest), ema, "", m.prefix+prefix, m.prefix+prefix, o.RawWeights)
		if err != nil {
			return err
		}
		list = slices.DeleteFunc(both, func(t weights.Tensor) bool {
			return slices.ContainsFunc(rest, func(r weights.Tensor) bool { return r.Name == t.Name })
		})
	}
	c, err := inferAutoencoder(shapesOf(list))
	if err != nil {
		return err
	}
	given, err := o.given(FamilyKL, FamilyVQ)
	if err != nil {
		return err
	}
	if o.Preset != "" && given == nil {
		return fail(ErrConfig, "preset %s has no first stage, but the file holds one", quote(o.Preset))
	}
	info := newInfo(familyOf(c), "", 256, ldmLinear, c)
	why := "the file does not tell"
	guessed := given == nil
	if guessed {
		c.ScaleFactor = 1
		if c.DoubleZ {
			c.ScaleFactor = 0.18215 // of Stable Diffusion, which most of these belong to
		}
		for _, p := range sortedPresets() {
			if p.FirstStage != nil && p.FirstStage.Family == familyOf(c) && sameFirstStage(*p.FirstStage, c) == nil {
				known, _ := ParseAutoencoderConfig(p.FirstStage.Model)
				why, c, info.ImageSize = "as in preset "+p.Name+", which has the same tensors", known, p.FirstStage.ImageSize
				break
			}
		}
	} else {
		if err := sameFirstStage(*given, c); err != nil {
			return err
		}
		info = *given
		c, _ = ParseAutoencoderConfig(given.Model)
	}
	if guessed && scale == 0 && o.ScaleFactor == 0 {
		info.Guesses = append(info.Guesses, fmt.Sprintf("scale_factor %g: %s", c.ScaleFactor, why))
	}
	if guessed && o.ImageSize == 0 {
		info.Guesses = append(info.Guesses, fmt.Sprintf("image_size %d: %s", info.ImageSize, why))
	}
	switch {
	case o.ScaleFactor > 0:
		c.ScaleFactor = o.ScaleFactor
	case scale != 0:
		c.ScaleFactor = short(float32(scale))
	}
	if schedule != nil {
		info.Schedule = *schedule
	}
	if _, also := m.Component(RoleUNet); also {
		o.ImageSize = 0 // that was meant for the UNet
	}
	o.overrideInfo(&info)
	if err := wrong(c.Check()); err != nil {
		return err
	}
	info.Model = marshal(c)
	tensors, err := fitted(list, autoencoderLayout(c))
	m.Components = append(m.Components, Component{Role: RoleFirstStage, Source: SourceLatent, Info: info, Tensors: tensors})
	return err
}

func sameFirstStage(given weights.Info, found nn.AutoencoderConfig) error {
	c, err := ParseAutoencoderConfig(given.Model)
	if err != nil {
		return err
	}
	if given.Family != familyOf(found) {
		return fail(ErrConfig, "the configuration is for %s, but the file holds %s", given.Family, familyOf(found))
	}
	found.NormGroups, found.NormEps, found.LookupFromCode = c.NormGroups, c.NormEps, c.LookupFromCode
	found.ScaleFactor, found.ShiftFactor, found.LatentsMean, found.LatentsStd = c.ScaleFactor, c.ShiftFactor, c.LatentsMean, c.LatentsStd
	return contradiction(c, found)
}
