"""Trains the built-in latent prior, photo-latent: an AutoencoderTiny as diffusers has it, and an unconditional UNet of
CompVis/latent-diffusion on its latents. On a processor, in less than an hour:

    pip install torch numpy pillow safetensors scikit-image scikit-learn
    nice python tools/train_latent.py --out run --heldout astronaut_256.png cat_256.png

Pictures are drawn here (dead leaves), or crops of sample photos that scikit-image and scikit-learn carry: not of the
astronaut, which the demonstration repairs, nor of the cat. What is held out is only used to report.

run/first_stage is a folder of diffusers, run/unet.safetensors a plain state dict: float32 moving averages of the weights,
written every minute, so that the training may be cut. Package weights/latent says how they become the prior.
"""
import argparse
import copy
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that wait leave the core to others

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors.torch import load_file, save_file
from torch import nn

LATENT = 8  # channels. With 4 the first stage alone costs 3 dB more than with 8
FACTOR = 4

# ---- pictures -----------------------------------------------------------------------------------------------------------

# Of scikit-image (public domain or CC0) and scikit-learn (CC BY 2.0, danielbuechele and vultilion), with the share of
# crops that each gets; the grey ones are textures.
PHOTOS = {
    "skimage/data/coffee.png": 4, "skimage/data/rocket.jpg": 2,
    "skimage/data/retina.jpg": 0.5, "skimage/data/hubble_deep_field.jpg": 0.7, "skimage/data/brick.png": 0.7,
    "skimage/data/grass.png": 0.7, "skimage/data/gravel.png": 0.7, "skimage/data/camera.png": 1.5,
    "skimage/data/coins.png": 0.7, "sklearn/datasets/images/china.jpg": 4, "sklearn/datasets/images/flower.jpg": 4,
}


def read_photos():
    # Found, not imported: the files are all that is needed.
    roots = {m: pathlib.Path(importlib.util.find_spec(m).origin).parent.parent for m in ("skimage", "sklearn")}
    pictures, shares = [], []
    for name, share in PHOTOS.items():
        pic = Image.open(roots[name.split("/")[0]] / name).convert("RGB")
        for scale in (1, 0.8, 0.62, 0.5):  # reduced photos are sharper, and nearer to what small pictures look like
            size = tuple(round(n * scale) for n in pic.size)
            if min(size) >= 160:
                pictures.append(np.asarray(pic.resize(size, Image.Resampling.LANCZOS)))
                shares.append(share * scale)
    return pictures, np.array(shares)


def cloud(rng, size, power):
    """Noise with a spectrum of 1/f^power, of mean 0 and deviation 1."""
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    f[0, 0] = 1
    spectrum = (rng.normal(size=f.shape) + 1j * rng.normal(size=f.shape)) / f**power
    spectrum[0, 0] = 0
    n = np.fft.irfft2(spectrum, (size, size))
    return (n / n.std()).astype(np.float32)


def fill(rng, h, w, clouds, palette):
    """What a leaf is made of: a colour, which changes slowly over it, with a texture of one of several kinds."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    out = np.broadcast_to(palette[rng.integers(len(palette))], (h, w, 3)) + rng.normal(0, 8, 3)
    if rng.random() < 0.5:  # light
        a = rng.uniform(0, 2 * math.pi)
        ramp = (x * math.cos(a) + y * math.sin(a)) / max(h, w)
        out = out + (ramp * rng.normal(0, 60))[..., None]
    kind = rng.random()
    if kind < 0.5:
        c = clouds[rng.integers(len(clouds))]
        i, j = rng.integers(0, c.shape[0] - h + 1), rng.integers(0, c.shape[1] - w + 1)
        t, size = c[i : i + h, j : j + w], rng.gamma(1.2, 12)
        out = out + t[..., None] * size * (rng.dirichlet(np.ones(3)) * 0.6 + 0.8)
    elif kind < 0.62:  # stripes
        a, period = rng.uniform(0, math.pi), rng.uniform(5, 40)
        wave = np.sin((x * math.cos(a) + y * math.sin(a)) * 2 * math.pi / period)
        out = out + (np.tanh(wave * rng.uniform(0.5, 6)) * rng.gamma(1.5, 15))[..., None]
    return np.clip(out, 0, 255).astype(np.uint8)


def leaf(rng, r):
    """The outline of a leaf, white on black."""
    w, h = (max(4, int(2 * r * s)) for s in np.exp(rng.normal(0, 0.4, 2)))
    w, h = min(w, 512), min(h, 512)
    mask = Image.new("L", (w, h))
    draw = ImageDraw.Draw(mask)
    kind = rng.random()
    if kind < 0.3:
        draw.ellipse((0, 0, w - 1, h - 1), fill=255)
    elif kind < 0.7:  # a polygon, from a triangle to almost round
        n = rng.integers(3, 9)
        a = np.sort(rng.uniform(0, 2 * math.pi, n))
        d = rng.uniform(0.6, 1, n)
        draw.polygon([(w / 2 * (1 + e * math.cos(b)), h / 2 * (1 + e * math.sin(b))) for b, e in zip(a, d)], fill=255)
    elif kind < 0.9:  # strokes
        for _ in range(rng.integers(1, 6)):
            x0, y0, x1, y1 = rng.uniform(0, 1, 4) * (w, h, w, h)
            if rng.random() < 0.5:
                draw.line((x0, y0, x1, y1), fill=255, width=int(rng.uniform(2, 3 + r / 8)))
            else:
                box = (min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)
                draw.arc(box, *sorted(rng.uniform(0, 360, 2)), fill=255, width=int(rng.uniform(2, 3 + r / 8)))
    else:
        word = "".join(chr(c) for c in rng.integers(33, 126, rng.integers(1, 8)))
        draw.text((2, 2), word, fill=255, font=ImageFont.load_default(int(np.clip(r, 12, 90))))
    if rng.random() < 0.2:  # out of focus, or a shadow
        mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(1, max(2, r / 4))))
    return mask


def dead_leaves(job):
    """A picture of leaves over leaves, their sizes by a power law, as Lee, Mumford and Huang (2001) model the world."""
    seed, colours = job
    rng = np.random.default_rng(seed)
    side = 512  # and the picture half of that, so that outlines are smooth
    palette = colours[rng.integers(len(colours), size=rng.integers(3, 14))].astype(np.float32)
    clouds = [cloud(rng, side, p) for p in rng.uniform(0.3, 2, 3)]
    canvas = Image.fromarray(fill(rng, side, side, clouds, palette))
    small = rng.uniform(4, 30)
    for _ in range(rng.integers(5, 260)):
        r = min(small / math.sqrt(1 - rng.random() * 0.995), 220)  # density r^-3
        mask = leaf(rng, r)
        w, h = mask.size
        at = (int(rng.integers(-w // 2, side - w // 2)), int(rng.integers(-h // 2, side - h // 2)))
        if rng.random() < 0.15:  # a shadow below
            soft = mask.filter(ImageFilter.GaussianBlur(4)).point(lambda v: v // 2)
            canvas.paste((0, 0, 0), (at[0] + 6, at[1] + 6), soft)
        canvas.paste(Image.fromarray(fill(rng, h, w, clouds, palette)), at, mask)
    if rng.random() < 0.5:  # light over everything
        light = 1 + 0.25 * cloud(rng, side, 2.2)[..., None]
        canvas = Image.fromarray(np.clip(np.asarray(canvas) * light, 0, 255).astype(np.uint8))
    return np.asarray(canvas.resize((side // 2, side // 2), Image.Resampling.LANCZOS))


def pixels(a):
    """[H, W, 3] of 8 bits as [3, H, W] in [-1, 1]."""
    return torch.from_numpy(a / np.float32(127.5) - 1).permute(2, 0, 1)


class Pictures:
    """Random crops, half of photos, half of drawn pictures."""

    def __init__(self, drawn, store, seed=1):
        self.photos, shares = read_photos()
        self.shares = shares / shares.sum()
        self.rng = rng = np.random.default_rng(seed)
        colours = [rng.choice(p.reshape(-1, 3), int(1000 * s)) for p, s in zip(self.photos, shares)]
        colours = np.concatenate(colours)
        if not store.exists():
            with multiprocessing.Pool() as pool:
                np.save(store, pool.map(dead_leaves, [((seed, i), colours) for i in range(drawn)], chunksize=8))
        self.drawn = np.load(store)

    def crop(self, size):
        rng = self.rng
        if rng.random() < 0.5:
            pic = self.photos[rng.choice(len(self.photos), p=self.shares)]
        else:
            pic = self.drawn[rng.integers(len(self.drawn))]
        i, j = (rng.integers(0, n - size + 1) for n in pic.shape[:2])
        a = np.rot90(pic[i : i + size, j : j + size], rng.integers(4))
        if rng.random() < 0.5:
            a = a[:, ::-1]
        a = pixels(a)
        if rng.random() < 0.3:
            a = a[torch.from_numpy(rng.permutation(3))]
        if rng.random() < 0.7:  # exposure, saturation, tint
            grey = a.mean(0, keepdim=True)
            a = grey + (a - grey) * rng.uniform(0, 1.5)
            gain = torch.from_numpy(np.exp(rng.normal(0, 0.1, (3, 1, 1)) + rng.normal(0, 0.15)).astype(np.float32))
            a = ((a + 1) * gain - 1 + rng.normal(0, 0.1)).clamp(-1, 1)
        return a

    def batch(self, n, size):
        return torch.stack([self.crop(size) for _ in range(n)]).contiguous(memory_format=torch.channels_last)


# ---- networks -----------------------------------------------------------------------------------------------------------


def conv(cin, cout):
    return nn.Conv2d(cin, cout, 3, padding=1)


class TinyBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Sequential(
            conv(channels, channels), nn.ReLU(), conv(channels, channels), nn.ReLU(), conv(channels, channels)
        )
        nn.init.zeros_(self.conv[4].weight)  # begins as the identity of what is positive
        nn.init.zeros_(self.conv[4].bias)

    def forward(self, x):
        return F.relu(self.conv(x) + x)


class Layers(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)


class Autoencoder(nn.Module):
    """diffusers' AutoencoderTiny, for any size that FACTOR divides. Networks with norms learn too slowly for this hour."""

    width = 3 * FACTOR**2

    def __init__(self, encoder=(0, 1, 3), decoder=(3, 2, 1)):
        super().__init__()
        self.config = {
            "_class_name": "AutoencoderTiny", "in_channels": 3, "out_channels": 3, "act_fn": "relu",
            "latent_channels": LATENT, "scaling_factor": 1.0, "upsampling_scaling_factor": 2,
            "encoder_block_out_channels": [self.width] * 3, "decoder_block_out_channels": [self.width] * 3,
            "num_encoder_blocks": encoder, "num_decoder_blocks": decoder,
        }
        layers = []
        for level, blocks in enumerate(encoder):
            layers.append(nn.Conv2d(self.width, self.width, 3, 2, 1, bias=False) if level else conv(3, self.width))
            layers += [TinyBlock(self.width) for _ in range(blocks)]
        self.encoder = Layers(*layers, conv(self.width, LATENT))
        layers = [conv(LATENT, self.width), nn.ReLU()]
        for level, blocks in enumerate(decoder):
            layers += [TinyBlock(self.width) for _ in range(blocks)]
            if level < len(decoder) - 1:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(self.width, self.width, 3, padding=1, bias=False)]
        self.decoder = Layers(*layers, conv(self.width, 3))

    def encode(self, x):
        return self.encoder.layers((x + 1) / 2).float()

    def decode(self, z):
        return self.decoder.layers(3 * torch.tanh(z / 3)).float() * 2 - 1

    @torch.no_grad()
    def begin(self, x):
        """Lets the encoder begin as the principal components of the pictures' FACTOR x FACTOR pixels: its convolutions collect
        these pixels in channels, the last one projects them. From random weights it would take hours to get there."""
        collect = [m for m in self.encoder.layers if isinstance(m, nn.Conv2d)]
        for m in collect:
            nn.init.zeros_(m.weight)
        nn.init.zeros_(collect[0].bias)
        for c in range(3):
            collect[0].weight[c, c, 1, 1] = 1
        order = [(c, 0, 0) for c in range(3)]  # colour and place of the pixel in each channel
        for level, m in enumerate(collect[1:-1]):
            new = []
            for k, (c, i, j) in enumerate(order):
                for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    m.weight[len(new), k, 1 + di, 1 + dj] = 1
                    new.append((c, i + di * 2**level, j + dj * 2**level))
            order = new
        x = (x + 1) / 2
        cells = torch.stack([x[:, c, i::FACTOR, j::FACTOR] for c, i, j in order], -1).reshape(-1, len(order))
        values, vectors = torch.linalg.eigh(torch.cov(cells.T))
        values, vectors = values.flip(0)[:LATENT], vectors.flip(1)[:, :LATENT]
        # Between components as they are, of which noise would leave the first two only, and components of equal size.
        rows = (vectors / values**0.25 * 0.85).T
        collect[-1].weight[:, :, 1, 1] = rows
        collect[-1].bias.copy_(-rows @ cells.mean(0))
        back = torch.linalg.pinv(rows)
        nn.init.zeros_(self.decoder.layers[0].weight)
        self.decoder.layers[0].weight[:, :, 1, 1] = back
        self.decoder.layers[0].bias.copy_(cells.mean(0))


def norm(channels):
    return nn.GroupNorm(8, channels)


class ResBlock(nn.Module):
    def __init__(self, cin, cout, emb):
        super().__init__()
        self.in_layers = nn.Sequential(norm(cin), nn.SiLU(), conv(cin, cout))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout))
        self.out_layers = nn.Sequential(norm(cout), nn.SiLU(), nn.Identity(), conv(cout, cout))  # 2 is upstream's dropout
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)
        nn.init.zeros_(self.out_layers[3].weight)

    def forward(self, x, emb):
        h = self.in_layers(x)
        scale, shift = self.emb_layers(emb)[..., None, None].chunk(2, 1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[3](F.silu(h))


class Attention(nn.Module):
    def __init__(self, channels, head_channels=32):
        super().__init__()
        self.norm = norm(channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)
        self.heads = channels // head_channels
        nn.init.zeros_(self.proj_out.weight)

    def forward(self, x):
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        qkv = self.qkv(self.norm(flat)).reshape(b, self.heads, 3 * c // self.heads, h * w)
        q, k, v = (p.contiguous() for p in qkv.transpose(2, 3).chunk(3, 3))
        a = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return (flat + self.proj_out(a.reshape(b, c, h * w))).reshape(b, c, h, w)


class Down(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """CompVis' openaimodel.UNetModel: one residual block a level, scale-shift norms, attention on the last level."""

    def __init__(self, width=48, mult=(1, 2, 2)):
        super().__init__()
        emb, last = 4 * width, len(mult) - 1
        widths = [m * width for m in mult]
        self.width = width
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([Block(conv(LATENT, width))])
        ch, skips = width, [width]
        for level, c in enumerate(widths):
            self.input_blocks.append(Block(ResBlock(ch, c, emb), *([Attention(c)] if level == last else [])))
            ch = c
            skips.append(ch)
            if level < last:
                self.input_blocks.append(Block(Down(ch)))
                skips.append(ch)
        self.middle_block = Block(ResBlock(ch, ch, emb), Attention(ch), ResBlock(ch, ch, emb))
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(last + 1)):
            for i in range(2):
                layers = [ResBlock(ch + skips.pop(), widths[level], emb)]
                ch = widths[level]
                if level == last:
                    layers.append(Attention(ch))
                if level and i == 1:
                    layers.append(Up(ch))
                self.output_blocks.append(Block(*layers))
        self.out = nn.Sequential(norm(ch), nn.SiLU(), conv(ch, LATENT))

    def forward(self, x, t):
        half = self.width // 2
        args = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([args.cos(), args.sin()], -1))
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return self.out(h).float()


# ---- training -----------------------------------------------------------------------------------------------------------


def psnr(a, b):
    return 10 * math.log10(4 / F.mse_loss(a.clamp(-1, 1), b).item())


def first_stage_loss(net, x):
    """Error of the pictures, at three sizes and of their differences, from latents with a little noise, which lets the decoder
    bear errors; and the error of a second round through both networks, of which a solver that decodes, corrects and
    encodes again makes many."""
    z = net.encode(x)
    y = net.decode(z + 0.02 * torch.randn_like(z))
    e = y - x
    loss = e.abs().mean() + 4 * e.square().mean()
    loss = loss + 0.5 * (e.diff(dim=2).abs().mean() + e.diff(dim=3).abs().mean())
    for size in (2, 4):
        loss = loss + 0.5 * F.avg_pool2d(e, size).abs().mean()
    if torch.rand(()) < 0.25:
        loss = loss + 0.4 * (net.encode(y) - z.detach()).square().mean()
    return loss, F.mse_loss(y, x)


class Threads:
    """Steps with 1, 2, ... threads are tried every now and then, and the others take as many as were fastest: where other
    programs use the cores too, more threads may only wait longer for each other."""

    def __init__(self, most):
        self.took, self.best, self.most = [], most, most

    def before(self, step):
        k = step % 60
        if k == 0:
            self.took = [[] for _ in range(self.most)]
        self.trial = k // 3 if k < 3 * self.most else None
        torch.set_num_threads(self.best if self.trial is None else self.trial + 1)
        self.start = time.time()

    def after(self):
        if self.trial is not None:
            self.took[self.trial].append(time.time() - self.start)
            self.best = 1 + int(np.argmin([np.median(t) if t else math.inf for t in self.took]))


def train(save, net, minutes, threads, rate, decay, loss_of, report):
    """Adam with a learning rate that falls with the time that has passed; decay is of the weights' moving average."""
    net = net.to(memory_format=torch.channels_last)
    average = copy.deepcopy(net).eval().requires_grad_(False)
    opt = torch.optim.AdamW(net.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-3)
    start = reported = time.time()
    step, done, errors = 0, 0.0, []
    while done < 1:
        done = min((time.time() - start) / (60 * minutes), 1)
        for g in opt.param_groups:
            g["lr"] = rate * min((step + 1) / 200, 1) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * done)))
        threads.before(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss, shown = loss_of(net)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        threads.after()
        step += 1
        errors.append(shown.item())
        with torch.no_grad():
            d = min(decay, (1 + step) / (10 + step))
            for a, p in zip(average.parameters(), net.parameters()):
                a.lerp_(p, 1 - d)
        if time.time() - reported > 60 or done == 1:
            reported = time.time()
            save(average)
            with torch.no_grad():
                head = f"{(reported - start) / 60:5.1f} min, step {step}, {threads.best} threads"
                print(f"{head}, error {np.mean(errors):.5f}; {report(average)}", flush=True)
            errors = []
    return average


def write(path, state):
    """Writes a state dict, at once or not at all."""
    new = path.with_suffix(".new")
    save_file({k: v.contiguous() for k, v in state.items()}, new)
    new.rename(path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--heldout", nargs="*", default=[], help="pictures to report on; never trained on")
    p.add_argument("--unet-only", action="store_true", help="with the first stage that is there already")
    p.add_argument("--minutes", type=float, nargs=2, default=(15, 30), help="for the first stage and for the UNet")
    p.add_argument("--drawn", type=int, default=400, help="pictures to draw, unless OUT/drawn.npy has them")
    p.add_argument("--threads", type=int, default=2)
    o = p.parse_args()
    o.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    data = Pictures(o.drawn, o.out / "drawn.npy")
    threads = Threads(o.threads)
    torch.manual_seed(1)
    print(f"{len(data.photos)} photos with their reductions, {len(data.drawn)} drawn in {time.time() - start:.0f} s", flush=True)
    heldout = [pixels(np.asarray(Image.open(f).convert("RGB")))[None] for f in o.heldout]

    stage = Autoencoder()
    if o.unet_only:
        stage.load_state_dict(load_file(o.out / "first_stage" / "diffusion_pytorch_model.safetensors"))
    else:
        def report(net):
            return "PSNR " + ", ".join(f"{psnr(net.decode(net.encode(x)), x):.2f}" for x in heldout)

        def save_stage(net):
            folder = o.out / "first_stage"
            folder.mkdir(exist_ok=True)
            write(folder / "diffusion_pytorch_model.safetensors", net.state_dict())
            (folder / "config.json").write_text(json.dumps(stage.config, indent=1))

        stage.begin(data.batch(400, 48))
        loss = lambda net: first_stage_loss(net, data.batch(6, 64))
        stage = train(save_stage, stage, o.minutes[0], threads, 1e-3, 0.999, loss, report)
    stage.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def encode(n):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return stage.encode(data.batch(n, 128))

    # A store of latents, of which every step takes some and renews one: encoding all that it takes would cost as much again.
    store = torch.cat([encode(16) for _ in range(96)])
    scale = round(1 / store.std().item(), 6)
    store *= scale
    stage.config["scaling_factor"] = scale
    (o.out / "first_stage" / "config.json").write_text(json.dumps(stage.config, indent=1))
    print(f"scale factor {scale}; deviations of the channels {[round(v, 2) for v in store.std((0, 2, 3)).tolist()]}", flush=True)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    a = torch.cumprod(1 - betas, 0).float()

    def loss_of(net):
        n = 8
        store[torch.randint(len(store), (1,))] = encode(1) * scale
        z = store[torch.randint(len(store), (n,))].contiguous(memory_format=torch.channels_last)
        t = (1000 * torch.rand(n) ** 1.3).long()
        eps = torch.randn_like(z)
        w = a[t][:, None, None, None]
        e = net(w.sqrt() * z + (1 - w).sqrt() * eps, t) - eps
        loss = e.square().mean()
        return loss, loss.detach()

    def report(net):
        """Of the pictures behind held-out latents with noise, how they come back: noisy -> denoised."""
        g = torch.Generator().manual_seed(0)
        words = []
        for t in (20, 100, 250, 500):
            before = after = 0
            for x in heldout:
                z = stage.encode(x) * scale
                w = a[t]
                eps = torch.randn(z.shape, generator=g)
                zt = w.sqrt() * z + (1 - w).sqrt() * eps
                z0 = (zt - (1 - w).sqrt() * net(zt, torch.tensor([t]))) / w.sqrt()
                before += psnr(stage.decode(zt / w.sqrt() / scale), x) / len(heldout)
                after += psnr(stage.decode(z0 / scale), x) / len(heldout)
            words.append(f"{t}: {before:.2f} -> {after:.2f}")
        return ", ".join(words)

    net = UNet()
    print(f"{sum(p.numel() for p in stage.parameters())} and {sum(p.numel() for p in net.parameters())} parameters", flush=True)
    save = lambda net: write(o.out / "unet.safetensors", net.state_dict())
    train(save, net, o.minutes[1], threads, 1e-3, 0.9995, loss_of, report)


if __name__ == "__main__":
    main()
