"""Times reconstructions on a CUDA device for tools/gpu_check.sh: a row of a table for each task."""

import argparse
import json
import math
import os
import struct
import subprocess
import sys

TASKS = {
    "inpaint, half of the pixels": ["--task", "inpaint", "--mask", "random:0.5"],
    "super-resolution x4": ["--task", "sr", "--scale", "4"],
    "Gaussian blur 61x61": ["--task", "deblur", "--kernel", "gaussian:61:3"],
    "JPEG, quality 10": ["--task", "jpeg", "--quality", "10"],
}


def picture(path, size):
    """Writes a picture of waves as a BMP file, whose rows are multiples of 4 bytes as size is one."""
    rows = (bytes(int(128 + 100 * math.sin((x * (c + 1) + y * y / size) / 9)) for x in range(size) for c in range(3)) for y in range(size))
    with open(path, "wb") as f:
        f.write(b"BM" + struct.pack("<IIIIiiHHIIiiII", 54 + 3 * size * size, 0, 54, 40, size, size, 1, 24, 0, 3 * size * size, 2835, 2835, 0, 0))
        f.writelines(rows)


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--spin", required=True)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--work", default=".")
    a = p.parse_args()
    truth, measured, out = (os.path.join(a.work, name) for name in ("truth.bmp", "measured.safetensors", "out.png"))
    picture(truth, a.size)
    for name, task in TASKS.items():
        run([a.spin, "degrade", *task, "--force", "--save-measurement", measured, "-o", out, truth])
        for _ in range(2):
            r = json.loads(run([a.spin, "reconstruct", "--device", "cuda", "--dtype", "f16", "--json", "--force", "-o", out, measured]))
        ms = (1000 * r[key] for key in ("seconds", "denoise_seconds", "correct_seconds"))
        print(f"| {name} | {r['calls']} | " + " | ".join(f"{v:.1f}" for v in ms) + " |")


if __name__ == "__main__":
    main()
