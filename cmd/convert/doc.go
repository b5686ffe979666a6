// Command convert turns the weights of other projects into files that need nothing beside them: safetensors with the
// network's configuration, noise schedule and value range in the metadata.
//
//	convert -i ffhq_10m.pt -o ffhq.safetensors --dtype f16
//	convert -i stable-diffusion-v1-5 -o sd/
//
// What the input is, its contents say: package internal/checkpoint knows guided-diffusion, CompVis latent-diffusion,
// diffusers, and what this program wrote. What a file does not tell (numbers of heads, schedule) comes from a preset, a
// configuration file or a flag, or is guessed, and then every guess is printed. --to goes the way back.
//
// Tensors are converted one after another while they are written, so that the memory needed is that of the largest one.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. The output is written whole or not at all, and an
// existing file is replaced only with --force.
package main
