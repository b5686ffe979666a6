package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/checkpoint"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// run is the program, for tests too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(ctx, stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "convert:", strings.ReplaceAll(err.Error(), "\n", " "))
	switch {
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.As(err, new(usageError)):
		return exitUsage
	}
	return exitFailed
}

func command(ctx context.Context, stdout, stderr io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "convert -i INPUT -o OUTPUT [--preset NAME | --config FILE] [flags]",
		Short: "Convert the weights of a diffusion network into one self-contained file",
		Long: `Convert the weights of a diffusion network into one self-contained file: safetensors that carry the
configuration, the noise schedule and the value range in their metadata.

INPUT is a PyTorch checkpoint (.pt, .pth, .ckpt, .bin), a safetensors file (plain, .zst, or an index of shards), or a
folder of diffusers (a pipeline, or one component). Nothing in it is executed. What it is, its contents say:
guided-diffusion, CompVis latent-diffusion, diffusers, or a file that was converted before.

What the input does not tell comes from --preset, --config or the flags for it; what nobody tells is guessed, and every
guess is printed. An input of several networks (UNet and first stage) goes into a folder: unet.safetensors,
first_stage.safetensors.

Presets: ` + strings.Join(checkpoint.PresetNames(), ", ") + `.`,
		Example: `  What is in the file, what does it take, and what had to be guessed?
    convert -i ffhq_10m.pt --dry-run

  Half the size, for the GPU or the network:
    convert -i ffhq_10m.pt -o ffhq.safetensors --preset ffhq_10m --dtype f16

  The UNet and the first stage of a latent diffusion, or one of them; the raw weights, not their moving average:
    convert -i model.ckpt -o ldm/ --preset ldm-ffhq-vq4
    convert -i model.ckpt -o vq.safetensors --component first_stage
    convert -i model.ckpt -o raw/ --ema=false

  A diffusers folder, and the way back:
    convert -i ddpm-celebahq-256 -o celeba.safetensors
    convert -i celeba.safetensors -o ddpm --to diffusers

  In pieces of at most 2 GB:
    convert -i sd -o sd/ --max-shard-size 2GB

  Weights for spin-native evaluate --lpips, of torchvision and of the lpips package:
    convert --family lpips -i alexnet-owt-7be5be79.pth --lpips-heads lpips/weights/v0.1/alex.pth -o lpips.safetensors

  A network of your own: begin with the configuration of the nearest preset, edit it, use it.
    convert --preset imagenet256 --print-config > my.json
    convert -i my.pt -o my-net.safetensors --config my.json`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unexpected argument %q: the input is given with -i, the output with -o", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return convert(ctx, o, stdout, stderr) },
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.input, "input", "i", "", "weights to read: a file or a folder")
	f.StringVarP(&o.output, "output", "o", "", "file to write, compressed if it ends in .zst; a folder if it ends in / or several networks go there")
	f.StringVar(&o.preset, "preset", "", "known network: "+strings.Join(checkpoint.PresetNames(), ", "))
	f.StringVar(&o.config, "config", "", "JSON file with the configuration, as --print-config writes it")
	f.StringVar(&o.family, "family", "", "where the weights must come from: "+strings.Join(checkpoint.Sources(), ", ")+", or "+familyLPIPS+" (default: whatever they are)")
	f.StringVar(&o.lpipsHeads, "lpips-heads", "", "with --family lpips: the linear heads, where -i is torchvision's alexnet or vgg16 alone")
	f.StringVar(&o.component, "component", "", "only this network: unet or first_stage")
	f.StringVar(&o.dtype, "dtype", "", "store the weights as f32, f16 or bf16 (default: as they are)")
	f.StringVar(&o.to, "to", "", "write for another project: guided (upstream names, no metadata) or diffusers (a folder)")
	f.BoolVar(&o.ema, "ema", true, "take the moving average of the weights where there is one")
	f.StringVar(&o.variant, "variant", "", "which files of a diffusers folder: fp16, non_ema, ... (default: full precision)")
	f.StringVar(&o.shard, "max-shard-size", "", "split larger outputs, e.g. 2GB")
	f.BoolVar(&o.zstd, "zstd", false, "compress, whatever the output is called")
	f.IntVar(&o.heads, "heads", 0, "number of attention heads, where the input does not tell")
	f.IntVar(&o.headChannels, "head-channels", 0, "channels of an attention head, instead of --heads")
	f.BoolVar(&o.newOrder, "new-attention-order", false, "the rows of qkv are ordered q, k, v before heads")
	f.IntVar(&o.imageSize, "image-size", 0, "edge of the pictures or latents that the network was trained for")
	f.StringVar(&o.prediction, "prediction", "", "what the network predicts: eps, v or x0")
	f.StringVar(&o.schedule, "schedule", "", "noise schedule: linear, cosine, ldm or sd")
	f.Float64Var(&o.scaleFactor, "scale-factor", 0, "factor of a first stage's latents")
	f.BoolVar(&o.dryRun, "dry-run", false, "check and report, write nothing")
	f.BoolVar(&o.printConfig, "print-config", false, "print the configuration of the preset and stop")
	f.BoolVar(&o.force, "force", false, "replace an existing output")
	f.BoolVar(&o.json, "json", false, "report as one JSON object")
	return cmd
}
