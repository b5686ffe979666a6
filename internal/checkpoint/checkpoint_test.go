package checkpoint

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/weights"
)

// compvis is a configuration file of latent-diffusion, as far as it describes networks.
type compvis struct {
	Target string `json:"target"`
	Params struct {
		EmbedDim   int     `json:"embed_dim"`
		NEmbed     int     `json:"n_embed"`
		DDConfig   ddconf  `json:"ddconfig"`
		First      float64 `json:"linear_start"`
		Last       float64 `json:"linear_end"`
		Timesteps  int     `json:"timesteps"`
		UNetConfig struct {
			Params struct {
				In          int   `json:"in_channels"`
				Out         int   `json:"out_channels"`
				Model       int   `json:"model_channels"`
				Attention   []int `json:"attention_resolutions"`
				Blocks      int   `json:"num_res_blocks"`
				Mult        []int `json:"channel_mult"`
				Transformer bool  `json:"use_spatial_transformer"`
				Depth       int   `json:"transformer_depth"`
				Context     int   `json:"context_dim"`
			} `json:"params"`
		} `json:"unet_config"`
		FirstStage *compvis `json:"first_stage_config"`
	} `json:"params"`
}

type ddconf struct {
	DoubleZ    bool  `json:"double_z"`
	Z          int   `json:"z_channels"`
	Resolution int   `json:"resolution"`
	In         int   `json:"in_channels"`
	Out        int   `json:"out_ch"`
	Ch         int   `json:"ch"`
	Mult       []int `json:"ch_mult"`
	Blocks     int   `json:"num_res_blocks"`
	Attention  []int `json:"attn_resolutions"`
}

func (k compvis) unet() nn.LatentUNetConfig {
	p := k.Params.UNetConfig.Params
	kind := nn.AttendSelf
	if p.Transformer {
		kind = nn.AttendTransformer
	}
	var levels []int
	for l := range p.Mult {
		if slices.Contains(p.Attention, 1<<l) {
			levels = append(levels, l)
		}
	}
	c := upstreamUNet(p.Model, p.Mult, levels, kind)
	c.InChannels, c.OutChannels, c.NumResBlocks = p.In, p.Out, p.Blocks
	if p.Transformer {
		c.ContextDim, c.TransformerNormEps = p.Context, 1e-6
		for range p.Mult {
			c.TransformerDepth = append(c.TransformerDepth, p.Depth)
		}
	}
	return c
}

func (k compvis) stage() nn.AutoencoderConfig {
	d := k.Params.DDConfig
	c := upstreamAutoencoder(d.Z)
	c.InChannels, c.OutChannels, c.ModelChannels, c.NumResBlocks = d.In, d.Out, d.Ch, d.Blocks
	c.EmbedDim, c.NumEmbeddings, c.DoubleZ = k.Params.EmbedDim, k.Params.NEmbed, d.DoubleZ
	for l, m := range d.Mult {
		a := slices.Contains(d.Attention, d.Resolution>>l)
		c.Channels, c.DownAttention, c.UpAttention = append(c.Channels, m*d.Ch), append(c.DownAttention, a), append(c.UpAttention, a)
	}
	return c
}

// TestLatent: each CompVis case; the configuration is the one that made it, and every tensor is used or left out.
func TestLatent(t *testing.T) {
	for _, c := range []struct {
		name, file  string
		unet, stage bool
	}{
		{"ldm_ffhq_style", "model.ckpt", true, true},
		{"ldm_class_crossattn", "model.safetensors", true, false},
		{"ldm_autoencoder_kl", "model.safetensors", false, true},
		{"ldm_vq_attention", "model.safetensors", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := fixture(t, c.name, c.file)
			var want compvis
			caseConfig(t, c.name, &want)
			m := open(t, path, Options{})
			used := len(m.LeftOut)
			for _, k := range m.Components {
				require.NoError(t, k.Info.Check())
				used += len(k.Tensors)
			}
			u, has := m.Component(RoleUNet)
			require.Equal(t, c.unet, has)
			if has {
				used++ // betas
				require.Equal(t, FamilyLatent, u.Info.Family)
				got, err := ParseUNetConfig(u.Info.Model)
				require.NoError(t, err)
				expected := want.unet()
				expected.Heads = got.Heads
				require.Equal(t, string(marshal(expected)), string(marshal(got)))
				require.Equal(t, weights.Schedule{Kind: "scaled-linear", T: want.Params.Timesteps, BetaFirst: want.Params.First, BetaLast: want.Params.Last}, u.Info.Schedule)
			}
			s, has := m.Component(RoleFirstStage)
			require.Equal(t, c.stage, has)
			if has {
				k := want
				if want.Params.FirstStage != nil {
					k = *want.Params.FirstStage
				}
				got, err := ParseAutoencoderConfig(s.Info.Model)
				require.NoError(t, err)
				expected := k.stage()
				expected.ScaleFactor = got.ScaleFactor
				require.Equal(t, string(marshal(expected)), string(marshal(got)))
				require.Equal(t, map[bool]string{true: FamilyVQ, false: FamilyKL}[k.Params.NEmbed > 0], s.Info.Family)
			}
			all := &Model{}
			f, err := all.read(path)
			require.NoError(t, err)
			require.Equal(t, len(f.tensors), used, m.Notes)
			// The tensors are those of the file, byte for byte.
			theirs := map[string]weights.Tensor{}
			for _, x := range f.tensors {
				theirs[x.Name] = x
			}
			prefix := ""
			if c.name == "ldm_ffhq_style" {
				prefix = "state_dict.first_stage_model."
			} else if c.unet {
				s, prefix = u, "model.diffusion_model."
			}
			for _, x := range s.Tensors {
				require.Equal(t, theirs[prefix+x.Name].Data, x.Data, x.Name)
				require.Equal(t, theirs[prefix+x.Name].Shape, x.Shape, x.Name)
			}
			require.NoError(t, all.Close())
		})
	}
}

// TestAverage: the moving average by default, the raw weights on demand, and nothing lost either way.
func TestAverage(t *testing.T) {
	list := latentCheckpoint(t)
	for _, prefix := range []string{"", "state_dict."} {
		nested := slices.Clone(list)
		for i := range nested {
			nested[i].Name = prefix + nested[i].Name
		}
		path := save(t, nested)
		for _, raw := range []bool{false, true} {
			m := open(t, path, Options{RawWeights: raw})
			u, _ := m.Component(RoleUNet)
			seed := 1e6
			if raw {
				seed = 0
			}
			requireSame(t, made(unetLayout(smallUNet(nn.AttendSelf)), "", seed), u.Tensors)
			s, _ := m.Component(RoleFirstStage)
			requireSame(t, made(autoencoderLayout(smallStage(false)), "", 2e6), s.Tensors)
			c, err := ParseAutoencoderConfig(s.Info.Model)
			require.NoError(t, err)
			require.Equal(t, 0.5, c.ScaleFactor)
			require.NotContains(t, strings.Join(s.Info.Guesses, " "), "scale_factor")
			require.Equal(t, ldmLinear, u.Info.Schedule)
			require.Equal(t, ldmLinear, s.Info.Schedule)
			require.Len(t, list, len(u.Tensors)+len(s.Tensors)+len(m.LeftOut)+2) // betas, scale_factor
			for _, name := range m.LeftOut {
				require.True(t, slices.ContainsFunc(nested, func(x weights.Tensor) bool { return x.Name == name }), name)
			}
		}
	}
	// The average of another network, or a part of one, is none.
	broken := slices.DeleteFunc(slices.Clone(list), func(x weights.Tensor) bool { return x.Name == "model_ema.diffusion_modelout2weight" })
	_, err := Open(save(t, broken), Options{})
	require.ErrorIs(t, err, ErrMissing)
	require.ErrorContains(t, err, "diffusion_modelout2weight")
	_, err = Open(save(t, append(list, scalars("model_ema.more", 1))), Options{})
	require.ErrorIs(t, err, ErrUnused)
	_, err = Open(save(t, append(list, scalars("mystery", 1))), Options{})
	require.ErrorIs(t, err, ErrUnused)
}

func TestNested(t *testing.T) {
	u := smallUNet(nn.AttendSelf)
	raw, ema := made(unetLayout(u), "model.", 0), made(unetLayout(u), "ema.", 5)
	path := save(t, append(raw, ema...))
	m := open(t, path, Options{})
	requireSame(t, made(unetLayout(u), "", 5), m.Components[0].Tensors)
	require.Len(t, m.LeftOut, len(raw))
	m = open(t, path, Options{RawWeights: true})
	requireSame(t, made(unetLayout(u), "", 0), m.Components[0].Tensors)
	m = open(t, save(t, made(unetLayout(u), "state_dict.module.", 7)), Options{})
	requireSame(t, made(unetLayout(u), "", 7), m.Components[0].Tensors)
	require.Equal(t, FamilyGuided, m.Components[0].Info.Family)
	m = open(t, save(t, made(unetLayout(u), "", 7)), Options{Source: SourceLatent, HeadChannels: 16})
	require.Equal(t, FamilyLatent, m.Components[0].Info.Family)
	c, err := ParseUNetConfig(m.Components[0].Info.Model)
	require.NoError(t, err)
	require.Equal(t, []int{1, 4}, c.Heads)
}

func TestSchedules(t *testing.T) {
	for _, s := range []weights.Schedule{linear, ldmLinear, sdLinear, {Kind: "linear", T: 250, BetaFirst: 0.0004, BetaLast: 0.08}} {
		x := scalars("betas", betas(t, s)...)
		got, err := scheduleOf(x)
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
	got, err := scheduleOf(scalars("betas", betas(t, cosine(100))...))
	require.NoError(t, err)
	require.Equal(t, "explicit", got.Kind)
	require.Len(t, got.Betas, 100)
	half, err := scalars("betas", betas(t, sdLinear)...).To(weights.F16)
	require.NoError(t, err)
	got, err = scheduleOf(half)
	require.NoError(t, err)
	require.Equal(t, sdLinear, got)
	product, products := 1.0, []float32{}
	for _, b := range betas(t, sdLinear) {
		product *= 1 - float64(b)
		products = append(products, float32(product))
	}
	got, err = scheduleOfProducts(scalars("alphas_cumprod", products...))
	require.NoError(t, err)
	require.Equal(t, sdLinear, got)
	for _, bad := range []weights.Tensor{scalars("betas", 0), scalars("betas", 1), scalars("betas"), weights.FromFloats("betas", []float32{0.1}, 1, 1)} {
		_, err := scheduleOf(bad)
		require.ErrorIs(t, err, ErrConfig)
	}
}

// TestPresets: each is complete, and its own tensors are recognised as its own.
func TestPresets(t *testing.T) {
	for _, name := range []string{"photo", "ffhq_10m", "ffhq-10m", "imagenet256", "imagenet256_cond", "imagenet256-cond", "imagenet512", "imagenet512_cond",
		"imagenet64", "lsun", "ldm-ffhq-vq4", "ldm-celeba-vq4", "ldm-imagenet-vq4", "sd-1.5", "sd-vae"} {
		p, ok := FindPreset(name)
		require.True(t, ok, name)
		require.NotEmpty(t, p.Infos())
		for _, i := range p.Infos() {
			require.NoError(t, i.Check(), name)
			require.Equal(t, p.Name, i.Name)
			switch i.Family {
			case FamilyGuided:
				c, err := nn.ParseUNetConfig(i.Model)
				require.NoError(t, err, name)
				require.Equal(t, i.LearnedRange, c.OutChannels == 6)
			case FamilyLatent:
				c, err := ParseUNetConfig(i.Model)
				require.NoError(t, err, name)
				found, err := inferUNet(shapeList(unetLayout(c)))
				require.NoError(t, err)
				require.NoError(t, sameLatent(i, found))
				require.NoError(t, must(diffusersOfUNet(c)))
			default:
				c, err := ParseAutoencoderConfig(i.Model)
				require.NoError(t, err, name)
				found, err := inferAutoencoder(shapeList(autoencoderLayout(c)))
				require.NoError(t, err)
				require.NoError(t, sameFirstStage(i, found))
				require.NoError(t, must(diffusersOfAutoencoder(c)))
			}
		}
	}
	require.Len(t, cosine(1000).Betas, 1000)
	require.InDelta(t, 4.1278e-5, cosine(1000).Betas[0], 1e-8)
	require.Equal(t, 0.999, cosine(1000).Betas[999])
	sd, _ := FindPreset("sd-1.5")
	c, _ := ParseUNetConfig(sd.UNet.Model)
	a, _ := ParseAutoencoderConfig(sd.FirstStage.Model)
	require.Equal(t, 859_520_964, count(unetLayout(c))) // published sizes
	require.Equal(t, 83_653_863, count(autoencoderLayout(a)))
	require.Len(t, unetLayout(c), 686)
	require.Len(t, autoencoderLayout(a), 248)
}

func must(_ map[string]any, err error) error { return err }

func shapeList(list []param) shapes {
	s := shapes{}
	for _, p := range list {
		s[p.name] = p.shape
	}
	return s
}

func count(list []param) (n int) {
	for _, p := range list {
		k := 1
		for _, d := range p.shape {
			k *= d
		}
		n += k
	}
	return n
}

// TestDiffusers: each case; the configuration is that of config.json, shapes are those of upstream, and the way back
// gives the same bytes.
func TestDiffusers(t *testing.T) {
	for _, c := range []struct{ name, folder, family string }{
		{"diffusers_autoencoder_kl", "f16", FamilyKL}, {"diffusers_autoencoder_kl", "legacy_names", FamilyKL},
		{"diffusers_vq_model", "f16", FamilyVQ}, {"diffusers_tiny_autoencoder", "f32", FamilyTiny},
		{"diffusers_ddpm_unet", "f16", FamilyLatent}, {"diffusers_class_unet", "sharded", FamilyLatent}, {"diffusers_sd_unet", "f16", FamilyLatent},
	} {
		t.Run(c.name+"/"+c.folder, func(t *testing.T) {
			dir := fixture(t, c.name, c.folder)
			m := open(t, dir, Options{})
			require.Len(t, m.Components, 1)
			k := m.Components[0]
			require.Equal(t, c.family, k.Info.Family)
			require.NoError(t, k.Info.Check())
			require.Empty(t, m.LeftOut)

			config, plan, err := k.Diffusers("")
			require.NoError(t, err)
			var list []weights.Tensor
			for _, p := range plan {
				b, err := p.Produce()
				require.NoError(t, err)
				list = append(list, weights.Tensor{Name: p.Name, DType: p.DType, Shape: p.Shape, Data: b})
			}
			theirs := &Model{}
			file, err := weightsOf(dir, "")
			require.NoError(t, err)
			f, err := theirs.readAll(file)
			require.NoError(t, err)
			requireSame(t, modernised(f.tensors), list)
			require.NoError(t, theirs.Close())

			back := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(back, configFile), config, 0o666))
			require.NoError(t, weights.Write(filepath.Join(back, "diffusion_pytorch_model.safetensors"), list, nil))
			again := open(t, back, Options{})
			require.Equal(t, string(k.Info.Model), string(again.Components[0].Info.Model))
			requireSame(t, k.Tensors, again.Components[0].Tensors)

			// The file alone, with the configuration beside it; and without, as far as the tensors tell.
			alone := open(t, filepath.Join(back, "diffusion_pytorch_model.safetensors"), Options{})
			require.Equal(t, string(k.Info.Model), string(alone.Components[0].Info.Model))
			guessed, err := Open(save(t, list), Options{})
			if c.family == FamilyTiny {
				require.ErrorIs(t, err, ErrMissing)
				return
			}
			require.NoError(t, err)
			requireSame(t, k.Tensors, guessed.Components[0].Tensors)
			require.NotEmpty(t, guessed.Components[0].Info.Guesses)
			require.NoError(t, guessed.Close())
		})
	}
}

// TestSameKeys: a converted network of diffusers has the names of the CompVis network with the same architecture.
func TestSameKeys(t *testing.T) {
	theirs := open(t, fixture(t, "diffusers_sd_unet", "f16"), Options{}).Components[0].Tensors
	ours := open(t, fixture(t, "ldm_class_crossattn", "model.safetensors"), Options{}).Components[0].Tensors
	require.Len(t, theirs, len(ours))
	for i := range ours {
		require.Equal(t, ours[i].Name, theirs[i].Name)
		require.Len(t, theirs[i].Shape, len(ours[i].Shape))
	}
}

// TestFields: what config.json says and tensors cannot.
func TestFields(t *testing.T) {
	c := func(name, folder string) (u nn.LatentUNetConfig) {
		u, err := ParseUNetConfig(open(t, fixture(t, name, folder), Options{}).Components[0].Info.Model)
		require.NoError(t, err)
		return u
	}
	u := c("diffusers_ddpm_unet", "f16")
	require.False(t, u.TimeCosFirst)
	require.Equal(t, 1.0, u.TimeFreqShift)
	require.Equal(t, nn.PadRightBottom, u.DownsamplePadding)
	require.Equal(t, 1e-6, u.NormEps)
	require.Equal(t, 8, u.NormGroups)
	require.Equal(t, 8, u.MiddleNormGroups)
	require.Equal(t, []int{1, 1, 1}, u.Heads)
	u = c("diffusers_class_unet", "sharded")
	require.True(t, u.UseScaleShiftNorm && u.TimeCosFirst && u.UseNewAttentionOrder)
	require.Zero(t, u.MiddleNormGroups)
	require.Equal(t, 5, u.NumClasses)
	require.Equal(t, []int{1, 4}, u.Heads)
	require.Equal(t, []string{nn.SampleResBlock}, u.DownSample)
	require.Equal(t, []string{nn.SampleConv}, u.UpSample)
	u = c("diffusers_sd_unet", "f16")
	require.Equal(t, []int{4, 4}, u.Heads)
	require.Equal(t, 24, u.ContextDim)
	require.Equal(t, []string{nn.AttendTransformer, nn.AttendNone}, u.DownAttention)
}

// TestLegacyOrder: heads that upstream interleaves come apart as diffusers wants them.
func TestLegacyOrder(t *testing.T) {
	u := smallUNet(nn.AttendSelf)
	u.Heads = []int{1, 4}
	info := newInfo(FamilyLatent, "", 16, linear, u)
	k := Component{Role: RoleUNet, Info: info, Tensors: made(unetLayout(u), "", 0)}
	config, plan, err := k.Diffusers("")
	require.NoError(t, err)
	require.Contains(t, string(config), `"attention_head_dim": 16`)
	var qkv []float32
	for _, x := range k.Tensors {
		if x.Name == "middle_block.1.qkv.bias" {
			qkv, _ = x.Floats()
		}
	}
	for _, p := range plan {
		for i, part := range []string{"to_q", "to_k", "to_v"} {
			if p.Name == "mid_block.attentions.0."+part+".bias" {
				b, err := p.Produce()
				require.NoError(t, err)
				got, err := weights.Tensor{Name: p.Name, DType: p.DType, Shape: p.Shape, Data: b}.Floats()
				require.NoError(t, err)
				for h := range 4 {
					require.Equal(t, qkv[(3*h+i)*16:(3*h+i+1)*16], got[h*16:(h+1)*16])
				}
			}
		}
	}
}

// TestPipeline: a folder with a scheduler and parts that are not converted.
func TestPipeline(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	copyOf := func(from, to string) {
		m := open(t, from, Options{})
		config, plan, err := m.Components[0].Diffusers("")
		require.NoError(t, err)
		put(to+"/config.json", string(config))
		f, err := os.Create(filepath.Join(dir, to, "diffusion_pytorch_model.fp16.safetensors"))
		require.NoError(t, err)
		require.NoError(t, weights.WriteStream(f, plan, nil))
		require.NoError(t, f.Close())
	}
	put("model_index.json", `{"_class_name":"X","unet":["diffusers","UNet2DConditionModel"],"vae":["diffusers","AutoencoderKL"],
		"scheduler":["diffusers","PNDMScheduler"],"text_encoder":["transformers","CLIPTextModel"],"safety_checker":[null,null],"requires_safety_checker":false}`)
	put("scheduler/scheduler_config.json", `{"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear","prediction_type":"v_prediction","skip_prk_steps":true}`)
	copyOf(fixture(t, "diffusers_sd_unet", "f16"), "unet")
	copyOf(fixture(t, "diffusers_autoencoder_kl", "f16"), "vae")
	m := open(t, dir, Options{})
	require.Len(t, m.Components, 2)
	require.Equal(t, RoleUNet, m.Components[0].Role)
	require.Equal(t, "v", m.Components[0].Info.Prediction)
	require.Equal(t, sdLinear, m.Components[0].Info.Schedule)
	require.Empty(t, m.Components[0].Info.Guesses)
	require.Equal(t, []string{"left out text_encoder (CLIPTextModel): not converted"}, m.Notes)

	_, err := Open(dir, Options{Variant: "none"})
	require.ErrorIs(t, err, ErrMissing)
	put("scheduler/scheduler_config.json", `{"beta_schedule":"exotic"}`)
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "exotic")
	put("model_index.json", `{"../x":["diffusers","AutoencoderKL"]}`)
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrConfig)
}

// TestVariantIndex: shards whose index is not of the common name.
func TestVariantIndex(t *testing.T) {
	k := open(t, fixture(t, "diffusers_vq_model", "f16"), Options{}).Components[0]
	config, plan, err := k.Diffusers("")
	require.NoError(t, err)
	dir := t.TempDir()
	where := map[string]string{}
	for i, half := range [][]weights.Planned{plan[:40], plan[40:]} {
		name := fmt.Sprintf("diffusion_pytorch_model.fp16-%05d-of-00002.safetensors", i+1)
		f, err := os.Create(filepath.Join(dir, name))
		require.NoError(t, err)
		require.NoError(t, weights.WriteStream(f, half, nil))
		require.NoError(t, f.Close())
		for _, p := range half {
			where[p.Name] = name
		}
	}
	index := func() {
		b, err := json.Marshal(map[string]any{"weight_map": where})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "diffusion_pytorch_model.safetensors.index.fp16.json"), b, 0o666))
	}
	index()
	require.NoError(t, os.WriteFile(filepath.Join(dir, configFile), config, 0o666))
	requireSame(t, k.Tensors, open(t, dir, Options{}).Components[0].Tensors)
	for _, bad := range []string{"../x.safetensors", "/etc/passwd", "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"} {
		where["more"] = bad
		index()
		_, err := Open(dir, Options{})
		require.ErrorIs(t, err, ErrConfig, bad)
		require.Equal(t, 0, strings.Count(err.Error(), "\n"))
	}
}
