// Command quality makes the table of docs/quality.md: every task on every photo of a folder, damaged and repaired by the
// spin-native program, with PSNR and SSIM of the measurement, of the operator's first guess and of Spin.
//
//	go run ./tools/quality -photos FOLDER -sheets SHEETS > table.md
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

type task struct {
	name string
	args []string
}

func main() {
	photos := flag.String("photos", "", "folder of *_256.png")
	sheets := flag.String("sheets", "", "folder for the side-by-side pictures")
	preset := flag.String("preset", "default", "fast, default or best")
	prior := flag.String("prior", "photo", "as of spin-native reconstruct")
	only := flag.String("task", "", "only tasks whose name contains this")
	flag.Parse()
	if err := run(*photos, *sheets, *preset, *prior, *only); err != nil {
		fmt.Fprintln(os.Stderr, "quality:", err)
		os.Exit(1)
	}
}

type score struct{ PSNR, SSIM float64 }

func (s *score) String() string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.2f / %.3f", s.PSNR, s.SSIM)
}

func run(photos, sheets, preset, prior, only string) error {
	list, err := filepath.Glob(filepath.Join(photos, "*_256.png"))
	if err != nil || len(list) == 0 {
		return fmt.Errorf("no *_256.png in %q", photos)
	}
	tmp, err := os.MkdirTemp("", "quality")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if sheets == "" {
		sheets = tmp
	}
	if err := os.MkdirAll(sheets, 0o755); err != nil {
		return err
	}
	program := filepath.Join(tmp, "spin-native")
	if out, err := exec.Command("go", "build", "-o", program, "./cmd/spin-native").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	tasks := []task{
		{"denoising, sigma 0.2", []string{"--task", "denoise", "--sigma", "0.2"}},
		{"random inpainting 70 %, sigma 0.05", []string{"--task", "inpaint", "--mask", "random:0.7:1", "--sigma", "0.05"}},
		{"scratches, sigma 0", []string{"--task", "inpaint", "--mask", "scratches:14:3"}},
		{"centre box 32, sigma 0", []string{"--task", "inpaint", "--mask", "center:32"}},
		{"box 128, sigma 0.05", []string{"--task", "inpaint", "--mask", "box:128:1", "--sigma", "0.05"}},
		{"right half, sigma 0.05", []string{"--task", "inpaint", "--mask", "half:right", "--sigma", "0.05"}},
		{"super-resolution x4, sigma 0.05", []string{"--task", "sr", "--scale", "4", "--sigma", "0.05"}},
		{"super-resolution x16, sigma 0.05", []string{"--task", "sr", "--scale", "16", "--sigma", "0.05"}},
		{"Gaussian blur 61/3, sigma 0.05", []string{"--task", "deblur", "--kernel", "gaussian:61:3", "--sigma", "0.05"}},
		{"motion blur 61/0.5, sigma 0.05", []string{"--task", "deblur", "--kernel", "motion:61:0.5:3", "--sigma", "0.05"}},
	}
	fmt.Println("| task | photo | measured | first guess | Spin | gain dB | calls |")
	fmt.Println("|---|---|---|---|---|---|---|")
	for _, t := range tasks {
		if !strings.Contains(t.name, only) {
			continue
		}
		var first, last score
		for _, photo := range list {
			y, out := filepath.Join(tmp, "y.safetensors"), filepath.Join(tmp, "out.png")
			name := strings.TrimSuffix(filepath.Base(photo), "_256.png")
			args := append([]string{"degrade", "--force", "--seed", "1", "--save-measurement", y, photo}, t.args...)
			if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			sheet := filepath.Join(sheets, strings.NewReplacer(" ", "-", ",", "", "/", "-", "%", "").Replace(t.name)+"-"+name+".png")
			cmd := exec.Command(program, "reconstruct", "--force", "--json", "--preset", preset, "--prior", prior, "--truth", photo, "--compare", sheet, "-o", out, y)
			cmd.Stderr = os.Stderr
			text, err := cmd.Output()
			if err != nil {
				return err
			}
			var r struct {
				Measured   *score
				FirstGuess *score `json:"first_guess"`
				Result     []score
				Calls      int
			}
			if err := json.Unmarshal(text, &r); err != nil {
				return err
			}
			fmt.Printf("| %s | %s | %s | %s | %s | %+.2f | %d |\n", t.name, name, r.Measured, r.FirstGuess, &r.Result[0],
				r.Result[0].PSNR-r.FirstGuess.PSNR, r.Calls)
			n := float64(len(list))
			first.PSNR, first.SSIM = first.PSNR+r.FirstGuess.PSNR/n, first.SSIM+r.FirstGuess.SSIM/n
			last.PSNR, last.SSIM = last.PSNR+r.Result[0].PSNR/n, last.SSIM+r.Result[0].SSIM/n
		}
		fmt.Printf("| **%s** | **mean** | | **%s** | **%s** | **%+.2f** | |\n", t.name, &first, &last, last.PSNR-first.PSNR)
	}
	return nil
}
