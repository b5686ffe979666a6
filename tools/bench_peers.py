#!/usr/bin/env python3
"""Times the photo prior's forward pass in PyTorch (eager) and in spin-native, turn by turn in one run.

    pip install torch numpy safetensors
    go build -o /tmp/spin-native ./cmd/spin-native
    python tools/bench_peers.py --spin /tmp/spin-native --weights photo-v1.safetensors [--size 256] [--threads 2] [--turns 5]

--weights is the prior as safetensors under its upstream names, for PyTorch. The two outputs are compared as well, through
a case that `spin-native check` runs. The machine should be idle; every turn is printed, the ratio is that of the minima.
"""
import argparse, json, math, os, subprocess, tempfile, time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

CONFIG = dict(in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, attention_resolutions=[8], channel_mult=[1, 2, 3, 4],
              num_heads=4, num_head_channels=32, use_scale_shift_norm=True, resblock_updown=True)


class UNet:
    """The network straight from its weights: guided-diffusion's UNetModel with scale-shift norms and ResBlock resampling."""

    def __init__(self, w, sdpa):
        self.w, self.sdpa = w, sdpa

    def norm(self, name, h):
        return F.group_norm(h, 32, self.w[name + ".weight"], self.w[name + ".bias"], 1e-5)

    def conv(self, name, h, pad=1):
        return F.conv2d(h, self.w[name + ".weight"], self.w[name + ".bias"], padding=pad)

    def linear(self, name, h):
        return F.linear(h, self.w[name + ".weight"], self.w[name + ".bias"])

    def res(self, name, x, emb, resize=None):
        h = F.silu(self.norm(name + ".in_layers.0", x))
        if resize:
            h, x = resize(h), resize(x)
        h = self.conv(name + ".in_layers.2", h)
        scale, shift = self.linear(name + ".emb_layers.1", F.silu(emb))[..., None, None].chunk(2, 1)
        h = self.norm(name + ".out_layers.0", h) * (1 + scale) + shift
        h = self.conv(name + ".out_layers.3", F.silu(h))
        if name + ".skip_connection.weight" in self.w:
            x = self.conv(name + ".skip_connection", x, 0)
        return x + h

    def attention(self, name, x):
        b, c, hh, ww = x.shape
        d = CONFIG["num_head_channels"]
        qkv = F.conv1d(self.norm(name + ".norm", x.reshape(b, c, -1)), self.w[name + ".qkv.weight"], self.w[name + ".qkv.bias"])
        q, k, v = qkv.reshape(b * (c // d), 3 * d, -1).split(d, 1)
        if self.sdpa:
            q, k, v = (t.transpose(1, 2).contiguous() for t in (q, k, v))
            a = F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(1, 2)
        else:
            s = d ** -0.25
            a = v @ torch.softmax((q * s).transpose(1, 2) @ (k * s), -1).transpose(1, 2)
        return (x.reshape(b, c, -1) + F.conv1d(a.reshape(b, c, -1), self.w[name + ".proj_out.weight"], self.w[name + ".proj_out.bias"])).reshape(x.shape)

    def __call__(self, x, t):
        half = CONFIG["model_channels"] // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        args = t[:, None].float() * freqs
        emb = torch.cat([args.cos(), args.sin()], -1)
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", emb)))
        down = lambda h: F.avg_pool2d(h, 2)
        up = lambda h: F.interpolate(h, scale_factor=2, mode="nearest")
        h, i, skips = self.conv("input_blocks.0.0", x), 1, []
        skips.append(h)
        levels = len(CONFIG["channel_mult"])
        for level in range(levels):
            h = self.res(f"input_blocks.{i}.0", h, emb)
            if f"input_blocks.{i}.1.qkv.weight" in self.w:
                h = self.attention(f"input_blocks.{i}.1", h)
            skips.append(h)
            i += 1
            if level < levels - 1:
                h = self.res(f"input_blocks.{i}.0", h, emb, down)
                skips.append(h)
                i += 1
        h = self.res("middle_block.0", h, emb)
        h = self.res("middle_block.2", self.attention("middle_block.1", h), emb)
        for i in range(2 * levels):
            h = self.res(f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1), emb)
            j = 1
            if f"output_blocks.{i}.1.qkv.weight" in self.w:
                h = self.attention(f"output_blocks.{i}.1", h)
                j = 2
            if f"output_blocks.{i}.{j}.in_layers.0.weight" in self.w:
                h = self.res(f"output_blocks.{i}.{j}", h, emb, up)
        return self.conv("out.2", F.silu(self.norm("out.0", h)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--spin", required=True)
    p.add_argument("--weights", required=True)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--runs", type=int, default=3)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    w = {k: v.float() for k, v in load_file(a.weights).items()}
    last = {k: v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in w.items()}
    x, t = torch.randn(1, 3, a.size, a.size), torch.tensor([200])
    cl = x.contiguous(memory_format=torch.channels_last)
    peers = {
        "PyTorch eager NCHW": lambda: UNet(w, False)(x, t),
        "PyTorch eager channels_last": lambda: UNet(last, False)(cl, t),
        "PyTorch eager channels_last, SDPA": lambda: UNet(last, True)(cl, t),
    }
    with torch.inference_mode():
        out = peers["PyTorch eager NCHW"]()
        with tempfile.TemporaryDirectory() as d:  # the outputs agree?
            save_file({"x": x, "t": t.float(), "out": out}, d + "/io.safetensors")
            case = dict(name="photo", kind="guided_diffusion_unet", config={"UNetModel": CONFIG}, weights=[{"file": os.path.abspath(a.weights)}],
                        runs=[dict(inputs=dict(x="x", t="t"), outputs=dict(out="out"))], tolerance=dict(out=dict(max_abs=1e-3, rel_l2=1e-4)))
            json.dump(case, open(d + "/case.json", "w"))
            r = subprocess.run([a.spin, "check", "--json", "--weights", os.path.abspath(a.weights), d], capture_output=True, text=True)
            if r.returncode:
                raise SystemExit(f"the outputs differ: {r.stdout}{r.stderr}")
            res = json.loads(r.stdout)[0]["results"][0]
            print(f"outputs agree: relative L2 {res['rel_l2']:.1e}, max abs {res['max_abs']:.1e}")
        best = {}
        for turn in range(a.turns):
            line = []
            for name, f in peers.items():
                f()
                ms = []
                for _ in range(a.runs):
                    s = time.perf_counter()
                    f()
                    ms.append(1e3 * (time.perf_counter() - s))
                best[name] = min(best.get(name, 1e9), *ms)
                line.append(f"{name} {min(ms):.0f}")
            r = subprocess.run([a.spin, "bench", "--json", "--size", str(a.size), "--threads", str(a.threads), "--runs", str(a.runs)],
                               check=True, capture_output=True, text=True)
            ms = json.loads(r.stdout)
            best["spin-native"] = min(best.get("spin-native", 1e9), ms["ms_min"])
            line.append(f"spin-native ({ms['level']}) {ms['ms_min']:.0f}")
            print(f"turn {turn + 1}, ms: " + ", ".join(line), flush=True)
    ours = best["spin-native"]
    for name, ms in best.items():
        print(f"{name:36s} {ms:8.1f} ms   {ms / ours:5.2f} x spin-native")


if __name__ == "__main__":
    main()
