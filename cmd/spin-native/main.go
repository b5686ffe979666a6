// Command spin-native repairs damaged pictures with a diffusion prior: inpainting, super-resolution, deblurring,
// denoising. See `spin-native --help`.
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

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program, for main and for the tests.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "spin-native: interrupted; what was not finished was not written")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "spin-native: "+oneLine(err))
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return exitFailed
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "spin-native",
		Short: "Repair damaged pictures with a diffusion prior",
		Long: `spin-native repairs damaged pictures: it fills in what is missing, sharpens what is blurred, enlarges what is small and
removes noise. It needs nothing besides this one file: a prior for photographs is built in.`,
		Example: `  spin-native demo -o demo                                        see what it does
  spin-native demo --latent                                       and how, with a prior that works on latents
  spin-native reconstruct --task inpaint --mask scratches.png -o whole.png scratched.png
  spin-native reconstruct --task sr --scale 4 -o big.png small.png
  spin-native reconstruct --task deblur --kernel k.png -o sharp.png shaken.png
  spin-native reconstruct --task denoise --sigma 0.2 -o clean.png noisy.png`,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q; see spin-native --help", args[0])
			}
			return nil
		},
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
		Version: version(),
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%v; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(newReconstruct(), newDegrade(), newDemo(), newSample(), newCompare(), newCheck(), newInfo(), newBench(), newDevices(), newEvaluate())
	return root
}

// exactArgs is cobra.ExactArgs with a message that says what is missing.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %s, got %d arguments; see %s --help", c.Name(), what, len(args), c.CommandPath())
		}
		return nil
	}
}
