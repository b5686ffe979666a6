#!/usr/bin/env python3
"""Makes internal/lpips/testdata/lpips.json: distances by the lpips package from PyPI, with weights that a formula gives.

    pip install torch torchvision lpips numpy
    python tools/lpips_cases.py > internal/lpips/testdata/lpips.json

The test makes the same weights and pictures. With --heads the heads that the package ships are taken in place of the
formula's, and with --save FOLDER the backbones are written there as torch.save does, for a look at the whole way by hand.
"""
import argparse, json, os, warnings

import lpips
import numpy as np
import torch

warnings.filterwarnings("ignore")


def scatter(n, seed):
    """n numbers in [-1, 1), 24 bits each, from a hash of their place and the seed."""
    with np.errstate(over="ignore"):
        h = np.arange(n, dtype=np.uint32) + np.uint32(seed * 1000003 & 0xFFFFFFFF)
        h *= np.uint32(0x9E3779B1)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x85EBCA77)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE3D)
        h ^= h >> np.uint32(16)
    return ((h >> np.uint32(8)).astype(np.float64) / 2**23 - 1).astype(np.float32)


def pictures(h, w):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    a = (0.7 * np.sin(x / 5) * np.cos(y / 7 + c)).astype(np.float32)
    b = np.clip(a + np.float32(0.4) * scatter(a.size, 99).reshape(a.shape), -1, 1)
    return [torch.from_numpy(v.transpose(2, 0, 1)[None].copy()) for v in (a, b)]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--heads", action="store_true")
    p.add_argument("--save")
    args = p.parse_args()
    out = {"versions": f"lpips {lpips.__version__ if hasattr(lpips, '__version__') else '0.1.4'}, torch {torch.__version__}", "cases": []}
    for net in ("alex", "vgg"):
        model = lpips.LPIPS(net=net, pretrained=args.heads, pnet_rand=True, verbose=False).eval()
        seed, backbone = 1, {}
        for name, t in model.net.state_dict().items():  # sliceN.INDEX.weight
            index, kind = name.split(".")[1:]
            v = scatter(t.numel(), seed).reshape(t.shape)
            v *= np.float32(np.sqrt(6 / np.prod(t.shape[1:]))) if kind == "weight" else np.float32(0.1)
            t.copy_(torch.from_numpy(v))
            backbone[f"features.{index}.{kind}"] = t.clone()
            seed += 1
        if not args.heads:
            for k in range(5):
                w = getattr(model, f"lin{k}").model[1].weight.data
                w.copy_(torch.from_numpy(np.abs(scatter(w.numel(), seed))).reshape(w.shape))
                seed += 1
        if args.save:
            torch.save(backbone, os.path.join(args.save, net + ".pth"))
        for h, w in ((56, 72), (65, 33)):
            a, b = pictures(h, w)
            with torch.no_grad():
                d, layers = model(a, b, retPerLayer=True)
            out["cases"].append({"net": net, "height": h, "width": w, "distance": float(d), "layers": [float(v) for v in layers]})
    print(json.dumps(out, indent=1))


main()
