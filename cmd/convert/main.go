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
	cmd := command(ctx, stdout)
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

func command(ctx context.Context, stdout io.Writer) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "convert -i INPUT -o OUTPUT (--preset NAME | --config FILE) [flags]",
		Short: "Convert the weights of a diffusion network into one self-contained file",
		Long: `Convert the weights of a diffusion network into one self-contained file: safetensors that carry the
configuration, the noise schedule and the value range in their metadata.

INPUT is a .safetensors file (or .safetensors.zst), a *.safetensors.index.json with its shards, or a folder with one of
these. A PyTorch checkpoint (.pt, .ckpt) comes as safetensors for now:

  python -c 'import torch, safetensors.torch as s; s.save_file(torch.load("m.pt", weights_only=True), "m.safetensors")'

Presets: ` + strings.Join(presetNames(), ", ") + `.`,
		Example: `  What is in the file, and does the preset fit it?
    convert -i ffhq_10m.safetensors --preset ffhq_10m --dry-run

  Half the size, for the GPU or the network:
    convert -i ffhq_10m.safetensors -o ffhq.safetensors --preset ffhq_10m --dtype f16

  Compressed:
    convert -i ffhq_10m.safetensors -o ffhq.safetensors.zst --preset ffhq_10m --dtype f16

  A network of your own: begin with the configuration of the nearest preset, edit it, use it.
    convert --preset imagenet256 --print-config > my.json
    convert -i my.safetensors -o my-net.safetensors --config my.json

  Change the type of a file that was converted before:
    convert -i ffhq.safetensors -o ffhq-bf16.safetensors --dtype bf16`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unexpected argument %q: the input is given with -i, the output with -o", args[0])
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error { return convert(ctx, o, stdout) },
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.input, "input", "i", "", "weights to read")
	f.StringVarP(&o.output, "output", "o", "", "file to write; compressed if it ends in .zst")
	f.StringVar(&o.preset, "preset", "", "known network: "+strings.Join(presetNames(), ", "))
	f.StringVar(&o.config, "config", "", "JSON file with the configuration, as --print-config writes it")
	f.StringVar(&o.family, "family", "", "where the weights come from: "+strings.Join(sourceNames(), ", ")+" (default: as the preset or the configuration says)")
	f.StringVar(&o.dtype, "dtype", "", "store the weights as f32, f16 or bf16 (default: as they are)")
	f.BoolVar(&o.zstd, "zstd", false, "compress, whatever the output is called")
	f.BoolVar(&o.dryRun, "dry-run", false, "check and report, write nothing")
	f.BoolVar(&o.printConfig, "print-config", false, "print the configuration of the preset and stop")
	f.BoolVar(&o.force, "force", false, "replace an existing output")
	f.BoolVar(&o.json, "json", false, "report as one JSON object")
	return cmd
}
