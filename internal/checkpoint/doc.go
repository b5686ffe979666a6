// Package checkpoint reads the networks of other projects, whatever file they come in, and gives them our shape: the
// upstream names of guided-diffusion and CompVis, right-shaped tensors, and a configuration that says everything the
// names and shapes do not.
//
//	m, err := checkpoint.Open("model.ckpt", checkpoint.Options{})
//	if err != nil {
//		return err
//	}
//	defer m.Close()
//	for _, c := range m.Components {
//		fmt.Println(c.Role, c.Info.Family, len(c.Tensors), c.Info.Guesses)
//	}
//
// # Sources
//
// What a file is, its contents say, never its name:
//
//   - files that the converter wrote: safetensors with an Info in their metadata
//   - guided-diffusion: the state dict of a UNetModel, bare or under state_dict, model or ema
//   - CompVis latent-diffusion: model.diffusion_model, model_ema, first_stage_model; a bare UNet or first stage too
//   - diffusers: a pipeline folder, the folder of one component, or a component's weights alone
//
// # How it works
//
// Every architecture is one function in layout.go: from a configuration to the names and shapes of all tensors. Every
// source is one table of names in names.go, and a way to a configuration: from config.json (diffusers.go) or from names
// and shapes (infer.go). Then assemble puts each tensor of the file into its place. A tensor without a place and a place
// without a tensor are errors; what is left out on purpose (text encoders, optimizer states) stands in Model.Notes.
//
// What a file does not tell, such as the number of heads, comes from the options, from a preset, or is guessed; a guess
// is listed in Info.Guesses.
package checkpoint
