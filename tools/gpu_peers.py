#!/usr/bin/env python3
"""Times one call of a denoiser on an NVIDIA device, in spin-native and in PyTorch, in one run, as a table in Markdown.

    python tools/gpu_peers.py --spin BIN [--model photo|ffhq_10m] [--size 256] [--runs 50] [--turns 3]

spin-native runs as `bench --device cuda`, in F32 and F16, told every operation and replaying a recorded call. PyTorch runs
guided_unet.py with random weights of the same shapes: eagerly, with channels_last, captured as a CUDA graph, and compiled
(max-autotune, which captures graphs itself), in F32 without TF32 and in F16. Its outputs in F16 are compared with those in
F32. All go one after the other, and that --turns times; the table has the least time of each. PyTorch's times are those of the
device's events around --runs calls, divided by their number; spin-native's are of the host, with a wait after every call.

Where PyTorch is missing or sees no device, the table says so and has spin-native alone.
"""
import argparse
import json
import subprocess
import sys


def spin(a, *more):
    """Milliseconds of a call, or what went wrong; and the number of kernels, where the program tells it."""
    p = subprocess.run([a.spin, "bench", "--device", "cuda", "--model", a.model, "--size", str(a.size), "--runs", str(a.runs), "--json", *more],
                       capture_output=True, text=True)
    if p.returncode:
        return (p.stderr.strip().splitlines() or ["failed"])[-1], None
    r = json.loads(p.stdout)
    return r["ms_min"], r.get("launches")


def variants(a):
    """Forms of PyTorch by name, each a function that makes a call; or the reason why there are none."""
    try:
        import torch
    except ImportError:
        return {}, "PyTorch is not installed"
    if not torch.cuda.is_available():
        return {}, f"PyTorch {torch.__version__} sees no device"
    import guided_unet
    from bench_peers import NETWORKS

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    config = NETWORKS[a.model]
    weights = guided_unet.random_weights(guided_unet.shapes(config))
    x = torch.randn(1, config["in_channels"], a.size, a.size, generator=torch.Generator().manual_seed(0)).cuda()
    emb = guided_unet.embedding(torch.tensor([200.0]), config["model_channels"]).cuda()
    want = []

    def make(dtype, layout, how):
        net = guided_unet.load(config, weights, True, mean_only=True).cuda().to(dtype=dtype, memory_format=layout)
        xs, es = x.to(dtype=dtype, memory_format=layout), emb.to(dtype)
        call = lambda: net(xs, es)
        if how == "compiled":
            compiled = torch.compile(net, mode="max-autotune")
            call = lambda: compiled(xs, es)
        with torch.inference_mode():
            for _ in range(5):
                y = call()
            torch.cuda.synchronize()
            y = y.float()
            if not want:
                want.append(y)
            error = ((y - want[0]).norm() / want[0].norm()).item()
            if how == "graph":
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    net(xs, es)
                call = graph.replay
        return call, error

    forms = {}
    for dtype in (torch.float32, torch.float16):
        kind = "F32" if dtype == torch.float32 else "F16"
        for layout, name in ((torch.contiguous_format, ""), (torch.channels_last, ", channels_last")):
            for how in ("eager", "graph", "compiled"):
                if how != "compiled" or name:
                    forms[f"PyTorch {how}{name}, {kind}"] = (dtype, layout, how)
    return {name: (lambda f=f: make(*f)) for name, f in forms.items()}, f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"


def timed(call, runs):
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.inference_mode():
        call()
        start.record()
        for _ in range(runs):
            call()
        end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / runs


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--spin", required=True, metavar="BIN")
    p.add_argument("--model", choices=["photo", "ffhq_10m"], default="photo")
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--runs", type=int, default=50)
    p.add_argument("--turns", type=int, default=3)
    a = p.parse_args()

    ours = {f"spin-native {how}, {dtype.upper()}": ("--dtype", dtype, *flag)
            for dtype in ("f32", "f16") for how, flag in (("replayed", ()), ("told", ("--eager",)))}
    makers, about = variants(a)
    calls, rows = {}, {}
    for name, maker in makers.items():
        try:
            call, error = maker()
            calls[name] = call
            rows[name] = [None, f"relative L2 {error:.1e}"]
        except Exception as e:  # one form may not fit, or not compile, where the others do
            rows[name] = [str(e).strip().splitlines()[0][:100], ""]
    bad = False
    for _ in range(a.turns):
        for name, flags in ours.items():
            got, launches = spin(a, *flags)
            row = rows.setdefault(name, [None, f"{launches} kernels" if launches else ""])
            if isinstance(got, str):
                row[0], bad = got, True
            elif row[0] is None or not isinstance(row[0], str):
                row[0] = got if row[0] is None else min(row[0], got)
        for name, call in calls.items():
            ms = timed(call, a.runs)
            rows[name][0] = ms if rows[name][0] is None else min(rows[name][0], ms)

    print(f"{a.model} at {a.size} x {a.size}, batch 1, random weights for all but photo; {about}. Least of {a.turns} turns.\n")
    print("| | ms | |\n|---|---|---|")
    for name in sorted(rows, key=lambda n: (isinstance(rows[n][0], str), rows[n][0] if not isinstance(rows[n][0], str) else 0)):
        ms, note = rows[name]
        print(f"| {name} | {ms if isinstance(ms, str) else f'{ms:.3f}'} | {note} |")
    return bad


if __name__ == "__main__":
    sys.exit(main())
