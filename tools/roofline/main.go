// Command roofline estimates, from shapes alone, what one call of a denoiser takes on a GPU at least: every operation takes the
// longer of its arithmetic at the tensor cores' rate and of its memory traffic at the memory's, and a launch, unless that of the
// operation before it is its own, too: normalisations, and layers of the embedding.
//
//	go run ./tools/roofline [-size 256] [-launch 1.5] [ffhq_10m imagenet256 ...]
//
// These are estimates, not measurements: nothing is run, on no device. Traffic counts inputs, weights and results once each, as
// F16, so what the second level cache keeps makes a device faster, and a tile that reads a neighbour's pixels slower. The rates are those of the
// data sheets, with the share that mma.sync reaches on 9.0 (about six tenths of what wgmma does); the last column counts the clocks of
// the kernel for large convolutions there. The network is rehearsed on the
// planning backend, whose operations package profile counts as bench --layers does.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"text/tabwriter"

	"github.com/spin-native/spin/internal/checkpoint"
	"github.com/spin-native/spin/internal/profile"
	"github.com/spin-native/spin/kernels/cpu"
	"github.com/spin-native/spin/nn"
	"github.com/spin-native/spin/tensor"
	"github.com/spin-native/spin/weights"
)

// machine is a device by its data sheet.
type machine struct {
	name   string
	tflops float64 // of tensor cores, F16 with sums in F32, as far as mma.sync gets
	gbps   float64
	wgmma  bool // it has the kernel for large 3x3 convolutions that is not bound by mma.sync
}

var machines = []machine{
	{"sm_80 (A100, 40 GB)", 312, 1555, false},
	{"sm_90, mma.sync (H100 SXM)", 0.6 * 989, 3350, false},
	{"sm_90, wgmma (H100 SXM)", 0.6 * 989, 3350, true},
}

// compute is the time that the arithmetic of an operation takes, in us.
func (m machine) compute(r profile.Row) float64 {
	if us, ok := wgmma(r); ok && m.wgmma {
		return us
	}
	return r.GFLOP / m.tflops * 1e3
}

var shapes = regexp.MustCompile(`^(\d+)(?:\+(\d+))?->(\d+) .*@(\d+)x(\d+)`)

// wgmma is the time of conv_wgmma on an H100 SXM, for convolutions that it takes: multiprocessors take one tile of 256 pixels
// and 128 channels after the other, nine tenths of the time of their products at full rate and an end of each that products
// of the next one do not hide; the first pixels are waited for. Clocks are counted in the machine code, not measured.
func wgmma(r profile.Row) (us float64, ok bool) {
	const multiprocessors, flopPerClock, clocksPerUs = 132, 4096, 1830
	const begin, end, share = 2500, 4000, 0.9
	f := shapes.FindStringSubmatch(r.Shape)
	if r.Op != "conv3x3" || f == nil {
		return 0, false
	}
	n := make([]int, len(f))
	for i := range f[1:] {
		n[i], _ = strconv.Atoi(f[i+1]) // what is absent is 0
	}
	in, out, tiles := n[0]+n[1], n[2], (n[3]+15)/16*((n[4]+15)/16)*n[2]/128
	if in%64 != 0 || out%128 != 0 || tiles < 128 {
		return 0, false
	}
	clocks := r.GFLOP*1e9/float64(tiles)/flopPerClock/share + end
	return (begin + math.Ceil(float64(tiles)/multiprocessors)*clocks) / clocksPerUs, true
}

func main() {
	size := flag.Int("size", 256, "edge of the picture in pixels")
	launch := flag.Float64("launch", 1.5, "microseconds from one operation of a graph to the next")
	flag.Parse()
	models := flag.Args()
	if len(models) == 0 {
		models = []string{"ffhq_10m", "imagenet256"}
	}
	for _, m := range models {
		rows, err := layers(m, *size)
		if err != nil {
			fmt.Fprintf(os.Stderr, "roofline: %s: %v\n", m, err)
			os.Exit(1)
		}
		print(m, *size, *launch, rows)
	}
}

// layers are the operations of one call on one picture.
func layers(model string, size int) (rows []profile.Row, err error) {
	defer tensor.Catch(&err)
	preset, ok := checkpoint.FindPreset(model)
	if !ok || preset.UNet == nil || preset.UNet.Family != checkpoint.FamilyGuided {
		return nil, fmt.Errorf("not a guided-diffusion network that is known by name")
	}
	c, err := nn.ParseUNetConfig(preset.UNet.Model)
	if err != nil {
		return nil, err
	}
	plan, err := cpu.Open(cpu.Options{Plan: true})
	if err != nil {
		return nil, err
	}
	p := profile.New(plan)
	d := tensor.NewDevice(p)
	defer d.Close()
	net, err := nn.LoadUNet(d, weights.Synthetic(model, 1).ShapesOnly().Scope(), c, nn.LoadOptions{MeanOnly: true, ImageSize: size})
	if err != nil {
		return nil, err
	}
	net.Trace = p.Trace
	p.Next()
	if _, err := net.Predict(d.New(1, size, size, c.InChannels), []float64{0}, make([]int, min(c.NumClasses, 1))); err != nil {
		return nil, err
	}
	r, err := p.Report(0, 0)
	if err != nil {
		return nil, err
	}
	return r.Layers, nil
}

// kind is a sort of operation.
type kind struct {
	name      string
	count     int
	gflop, mb float64
	us        [3]float64 // by machine
	byCompute [3]int     // operations that arithmetic bounds
}

func print(model string, size int, launch float64, rows []profile.Row) {
	var kinds []*kind
	all := &kind{name: "all"}
	for i, r := range rows {
		wait := launch
		if r.Op == "norm" || r.Op == "linear" && i > 0 && rows[i-1].Op == "linear" { // parts of the launch before them
			wait = 0
		}
		var k *kind
		for _, o := range kinds {
			if o.name == r.Op {
				k = o
			}
		}
		if k == nil {
			k = &kind{name: r.Op}
			kinds = append(kinds, k)
		}
		for _, k := range []*kind{k, all} {
			k.count++
			k.gflop += r.GFLOP
			k.mb += r.Bytes / 2 / 1e6
			for i, m := range machines {
				compute, traffic := m.compute(r), r.Bytes/2/m.gbps/1e3
				k.us[i] += max(compute, traffic) + wait
				if compute > traffic {
					k.byCompute[i]++
				}
			}
		}
	}
	fmt.Printf("%s at %d x %d, batch 1, F16: estimates, %.1f us a launch\n", model, size, size, launch)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "operation\tcount\tGFLOP\tMB\tFLOP/byte\t")
	for _, m := range machines {
		fmt.Fprintf(w, "%s us\tbound by arithmetic\t", m.name)
	}
	fmt.Fprintln(w)
	for _, k := range append(kinds, all) {
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.0f\t", k.name, k.count, k.gflop, k.mb, k.gflop*1e3/k.mb)
		for i := range machines {
			fmt.Fprintf(w, "%.0f\t%d\t", k.us[i], k.byCompute[i])
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Println()
}
