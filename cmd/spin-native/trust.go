package main

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/spin-native/spin/internal/imagefile"
	"github.com/spin-native/spin/internal/metrics"
	"github.com/spin-native/spin/internal/sheet"
	"github.com/spin-native/spin/solver"
)

// sigmaValue is the flag --sigma: a number, or auto.
type sigmaValue struct{ *taskFlags }

func (v *sigmaValue) String() string {
	if v.taskFlags == nil { // as the flag package asks for the zero value
		return "0"
	}
	if v.auto {
		return "auto"
	}
	return strconv.FormatFloat(v.sigma, 'g', -1, 64)
}

func (v *sigmaValue) Set(s string) (err error) {
	if v.auto = s == "auto"; v.auto {
		return nil
	}
	if v.sigma, err = strconv.ParseFloat(s, 64); err != nil {
		return fmt.Errorf("expected a number such as 0.05, or auto")
	}
	return nil
}

func (*sigmaValue) Type() string { return "S" }

// estimateNoise sets the noise level of a measurement from itself. Where there may be none at all, the task's usual level is
// taken if it is less.
func (f *reconstructFlags) estimateNoise(m *solver.Measurement) error {
	e, err := solver.EstimateNoise(m)
	if err != nil {
		return fmt.Errorf("--sigma auto: %w", err)
	}
	f.estimate, m.Sigma = &e, e.Sigma
	if e.Low == 0 && m.Operator.Kind != "denoise" && len(f.chain) > 0 {
		m.Sigma = min(m.Sigma, f.usualSigma())
	}
	return nil
}

// trustFlags say what to tell about a result besides itself.
type trustFlags struct {
	independent      bool
	invented, report string
}

func (f *trustFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.independent, "independent", false, "with --samples: begin every sample from noise of its own; without it they share phase 1, which is faster, and differ less")
	c.Flags().StringVar(&f.invented, "invented-map", "", "write a picture of what was measured (black) and what was made up (white) to `FILE`")
	c.Flags().StringVar(&f.report, "report", "", "write a page about the result with all pictures and figures to `FILE.html`")
}

// wantsMap is whether the map of what was invented is needed for n results.
func (f trustFlags) wantsMap(n int) bool { return f.invented != "" || f.report != "" || n > 1 }

// inventedReport is what --json says of the map of what was invented.
type inventedReport struct {
	File string  `json:"file,omitempty"`
	Mean float64 `json:"mean"` // share of the picture's contrast that the measurement does not determine
}

func (r *inventedReport) String() string {
	return fmt.Sprintf("%.1f %% of the picture's contrast is not determined by the measurement", 100*r.Mean)
}

// spreadReport is what --json says of several samples.
type spreadReport struct {
	MeanFile string  `json:"mean_file"`
	StdFile  string  `json:"std_file"`
	White    float64 `json:"std_white"` // standard deviation that is white in the picture
	// Std is the root mean square over pixels and channels of the samples' standard deviation, on the scale -1..1; and the
	// same with the pixels weighted by what was measured of them, and by what was invented.
	Std         float64        `json:"std"`
	StdMeasured float64        `json:"std_measured"`
	StdInvented float64        `json:"std_invented"`
	Independent bool           `json:"independent"`
	Mean        *metrics.Score `json:"mean,omitempty"` // the mean against the truth
}

func (r *spreadReport) String() string {
	text := fmt.Sprintf("differ by %.1f grey levels, %.1f where measured and %.1f where invented", 127.5*r.Std, 127.5*r.StdMeasured, 127.5*r.StdInvented)
	if r.Mean != nil {
		text += "; their mean " + r.Mean.String()
	}
	return text
}

// stdWhite is the standard deviation that is white in a picture of it: 32 grey levels.
const stdWhite = 0.25

// trustPicture is a picture about the result, and the file that it goes to, if any.
type trustPicture struct {
	sheet.Panel
	file string
}

// spreadFiles are where the mean of several samples and their deviation go.
func (f *reconstructFlags) spreadFiles() (mean, std string) {
	if f.samples == 1 {
		return "", ""
	}
	ext := filepath.Ext(f.output)
	base := strings.TrimSuffix(f.output, ext)
	return base + ".mean" + ext, base + ".std" + ext
}

// trustPictures makes the pictures about a solution and enters their figures in the report.
func (f *reconstructFlags) trustPictures(s *solution, report *reconstructReport, scoreOf func(*imagefile.Image) (metrics.Score, error)) (list []trustPicture, err error) {
	first := s.images[0]
	if n := len(s.images); n > 1 {
		mean, std := *first, imagefile.New(first.W, first.H)
		mean.Pix = make([]float32, len(first.Pix))
		mean.Gray = first.Gray
		r := &spreadReport{White: stdWhite, Independent: f.trust.independent}
		r.MeanFile, r.StdFile = f.spreadFiles()
		var all, measured, invented, known, unknown float64
		for i := range mean.Pix {
			var sum, squares float64
			for _, img := range s.images {
				sum += float64(img.Pix[i])
			}
			sum /= float64(n)
			for _, img := range s.images {
				squares += (float64(img.Pix[i]) - sum) * (float64(img.Pix[i]) - sum) / float64(n-1)
			}
			mean.Pix[i], std.Pix[i] = float32(sum), float32(min(math.Sqrt(squares)/stdWhite*2-1, 1))
			share := (float64(s.invented.Pix[i]) + 1) / 2
			all += squares / float64(len(mean.Pix))
			measured, known = measured+squares*(1-share), known+1-share
			invented, unknown = invented+squares*share, unknown+share
		}
		r.Std, r.StdMeasured, r.StdInvented = math.Sqrt(all), math.Sqrt(measured/max(known, 1e-9)), math.Sqrt(invented/max(unknown, 1e-9))
		if scoreOf != nil {
			v, err := scoreOf(&mean)
			if err != nil {
				return nil, err
			}
			r.Mean = &v
		}
		report.Spread = r
		caption := "of the samples"
		if r.Mean != nil {
			caption = r.Mean.String()
		}
		list = append(list, trustPicture{sheet.Panel{Title: "Mean", Caption: caption, Img: &mean}, r.MeanFile},
			trustPicture{sheet.Panel{Title: "Deviation", Caption: fmt.Sprintf("white: %.0f grey levels", 127.5*stdWhite), Img: std}, r.StdFile})
	}
	if f.trust.invented != "" || f.trust.report != "" {
		report.Invented = &inventedReport{f.trust.invented, s.share}
		list = append(list, trustPicture{sheet.Panel{Title: "Invented", Caption: "black: measured", Img: s.invented}, f.trust.invented})
	}
	return list, nil
}
