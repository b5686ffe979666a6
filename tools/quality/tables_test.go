package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	a, b := tasks[0], tasks[1]
	add := func(t task, photo, method string, psnr float64) entry {
		return entry{Task: t.key(), Photo: photo, Method: method, PSNR: psnr, SSIM: 0.5, Calls: 40, Seconds: 2}
	}
	all := []entry{
		add(a, "cat", measured, 20), add(a, "cat", guess, 21), add(a, "cat", "DDNM+", 25), add(a, "cat", ours, 26),
		add(a, "dog", measured, 22), add(a, "dog", guess, 23), add(a, "dog", "DDNM+", 27), add(a, "dog", ours, 30),
		add(b, "cat", "DDNM+", 25), add(b, "cat", "DiffPIR", 28), add(b, "cat", ours, 26),
		add(a, "cat", "DDNM+", 24), // made anew
		{Task: b.key(), Photo: "cat", Method: "DDRM", Note: "not for this operator"},
	}
	text := report(all, tasks, selected(methods, func(m method) string { return m.name }, "ddnm,diffpir,ddrm,spin default"))
	row := func(first string) string {
		for line := range strings.SplitSeq(text, "\n") {
			if strings.HasPrefix(line, "| "+first+" |") {
				return line
			}
		}
		return ""
	}
	require.Equal(t, "| "+a.name+" | 21.00 / 0.500 | 22.00 / 0.500 | 25.50 / 0.500 | - | - | **28.00 / 0.500** | +2.50 (DDNM+) |", row(a.name))
	require.Equal(t, "| "+b.name+" | - | - | 25.00 / 0.500 | **28.00 / 0.500** | - | 26.00 / 0.500 | -2.00 (DiffPIR) |", row(b.name))
	require.Equal(t, "| "+a.name+", cat | 20.00 / 0.500 | 21.00 / 0.500 | 24.00 / 0.500 | - | - | 26.00 / 0.500 |", row(a.name+", cat"), "the newest counts")
	require.Contains(t, text, "ahead of all rivals in the mean PSNR of 1 of 2 tasks and in the mean SSIM of 0, and in the PSNR of 2 of 3 single pictures: DDNM+ in 3 of 3, DiffPIR in 0 of 1.\n")
	require.NotContains(t, text, tasks[2].name, "tasks without results are left out")
}

func TestNames(t *testing.T) {
	require.Equal(t, "random-inpainting-70", slug("random inpainting 70 %"))
	require.Equal(t, `--task "deblur | sr" --scale 2`, task{args: []string{"--task", "deblur | sr", "--scale", "2"}}.command())
	seen := map[string]bool{}
	for _, k := range tasks {
		require.False(t, seen[slug(k.name)], "two tasks would write the same files: %s", k.name)
		seen[slug(k.name)] = true
	}
	require.Len(t, selected(methods, func(m method) string { return m.name }, "SPIN, ddnm"), 4)
}
