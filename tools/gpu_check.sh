#!/usr/bin/env bash
# gpu_check.sh builds the program for NVIDIA devices, runs all tests of the CUDA backend with the driver that is there, times a
# denoiser's call beside PyTorch in one run and whole reconstructions with the built-in prior, and writes what came out as Markdown:
#
#   tools/gpu_check.sh [-o FILE] [-s SIZE] [-r RUNS] [-m MODELS] [-q]
#
#   -o FILE     default: docs/bench/cuda-NAME.md, after the device
#   -s SIZE     edge of the picture (256)      -r RUNS   timed calls (50)
#   -m MODELS   default: "photo ffhq_10m"      -q        skips the tests
#
# Needs Go, a C compiler and python3; PyTorch where it is to be compared (python3 of PYTHON=...). With SPIN_LIBCUDA set to the emulated
# device's library it runs there, to be tested itself: the report says then that its times mean nothing.
set -uo pipefail
cd "$(dirname "$0")/.."
out='' size=256 runs=50 models='photo ffhq_10m' quick=''
while getopts o:s:r:m:q option; do
	case $option in
	o) out=$OPTARG ;; s) size=$OPTARG ;; r) runs=$OPTARG ;; m) models=$OPTARG ;; q) quick=1 ;;
	*) sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,14p' >&2; exit 2 ;;
	esac
done
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! command -v go >/dev/null || ! command -v "${CC:-cc}" >/dev/null; then
	echo "gpu_check: Go and a C compiler are needed" >&2
	exit 1
fi
make -s -f kernels.mk headers PYTHON="$python" || { echo "gpu_check: cuda.h cannot be had: see docs/cuda.md" >&2; exit 1; }
export CGO_CFLAGS="${CGO_CFLAGS:--g -O2} -I$PWD/bin/cuda/include"
go build -tags cuda -o "$work/spin-native" ./cmd/spin-native || exit 1
device=$("$work/spin-native" devices | sed -n 's/^cuda:0 *//p')
if [ -z "$device" ]; then
	echo "gpu_check: no device to check:" >&2
	"$work/spin-native" devices >&2
	exit 1
fi
if [ -z "$out" ]; then
	mkdir -p docs/bench
	out=docs/bench/cuda-$(echo "${device%%,*}" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-').md
fi

failed=0
{
	echo "# $device"
	echo
	echo "Written by \`tools/gpu_check.sh\` on $(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
	case $device in *emulation*) printf '\nThis is the emulated device: **the times below mean nothing.**\n' ;; esac
	command -v nvidia-smi >/dev/null && printf '\nDriver %s.\n' "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)"
	printf '\n## Tests\n\n'
	if [ -n "$quick" ]; then
		echo "Skipped (-q)."
	elif go test -tags cuda -count=1 -timeout 6m ./kernels/cuda >"$work/kernels.log" 2>&1 &&
		go test -tags cuda -count=1 -timeout 3m -run 'TestCUDA' ./cmd/spin-native >"$work/program.log" 2>&1; then
		echo 'All pass: `go test -tags cuda ./kernels/cuda`, and `-run TestCUDA ./cmd/spin-native`.'
	else
		failed=1
		printf '**They fail:**\n\n```\n'
		cat "$work"/*.log | grep -v '^=== \|^ok ' | tail -60
		printf '```\n'
	fi
	printf '\n## A denoiser'"'"'s call\n\n'
	for model in $models; do
		"$python" tools/gpu_peers.py --spin "$work/spin-native" --model "$model" --size "$size" --runs "$runs" || failed=1
		echo
	done
	printf '## Reconstructions\n\n'
	echo "The built-in prior, F16, $size x $size, in milliseconds: all of the run, the denoiser's calls, the corrections. The second run of two."
	printf '\n| task | calls | all | calls of the denoiser | corrections |\n|---|---|---|---|---|\n'
	"$python" tools/gpu_runs.py --spin "$work/spin-native" --size "$size" --work "$work" || failed=1
} >"$work/report.md"
cp "$work/report.md" "$out"
echo "gpu_check: $out"
exit $failed
