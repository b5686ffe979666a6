"""guided-diffusion's UNetModel for inference in PyTorch, under its upstream names (Dhariwal and Nichol 2021).

It covers what the priors of tools/bench_peers.py need: scale-shift norms, residual blocks that resample, no classes. The
sinusoidal embedding of the time step is an input (see embedding), because not every exporter can make it.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn


def embedding(t, channels):
    """The sinusoidal embedding of time steps t: [N] -> [N, channels]."""
    half = channels // 2
    args = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([args.cos(), args.sin()], -1)


def norm(channels):
    return nn.GroupNorm(32, channels)


def conv(cin, cout):
    return nn.Conv2d(cin, cout, 3, padding=1)


class ResBlock(nn.Module):
    def __init__(self, cin, cout, emb, resize=nn.Identity()):
        super().__init__()
        self.in_layers = nn.Sequential(norm(cin), nn.SiLU(), conv(cin, cout))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout))
        self.out_layers = nn.Sequential(norm(cout), nn.SiLU(), nn.Identity(), conv(cout, cout))  # 2 is upstream's dropout
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)
        self.resize = resize

    def forward(self, x, emb):
        h = F.silu(self.in_layers[0](x))
        h, x = self.resize(h), self.resize(x)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(emb)[..., None, None].chunk(2, 1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[3](F.silu(h))


class Attention(nn.Module):
    def __init__(self, channels, head_channels, sdpa):
        super().__init__()
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        self.heads, self.sdpa = channels // head_channels, sdpa

    def forward(self, x):
        b, c, hh, ww = x.shape
        d = c // self.heads
        flat = x.reshape(b, c, hh * ww)
        qkv = self.qkv(self.norm(flat)).reshape(b, self.heads, 3 * d, hh * ww)
        if self.sdpa:
            # contiguous: with strided q, k and v PyTorch falls back to a path that writes the T x T matrix
            q, k, v = (p.contiguous() for p in qkv.transpose(2, 3).split(d, 3))
            a = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        else:
            q, k, v = qkv.split(d, 2)
            s = d**-0.25
            a = v @ torch.softmax((q * s).transpose(2, 3) @ (k * s), -1).transpose(2, 3)
        return (flat + self.proj_out(a.reshape(b, c, hh * ww))).reshape(b, c, hh, ww)


class Block(nn.Sequential):
    """Layers one after the other, of which residual blocks take the embedding too."""

    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """config holds the arguments of upstream's constructor; sdpa writes attention as scaled_dot_product_attention."""

    def __init__(self, config, sdpa=False):
        super().__init__()
        width, mult, blocks = config["model_channels"], config["channel_mult"], config["num_res_blocks"]
        emb = 4 * width
        attention = lambda c: Attention(c, config["num_head_channels"], sdpa)
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))

        ch, factor, skips = width * mult[0], 1, [width * mult[0]]  # factor: of downsampling
        self.input_blocks = nn.ModuleList([Block(conv(config["in_channels"], ch))])
        for level, m in enumerate(mult):
            for _ in range(blocks):
                block, ch = Block(ResBlock(ch, m * width, emb)), m * width
                if factor in config["attention_resolutions"]:
                    block.append(attention(ch))
                self.input_blocks.append(block)
                skips.append(ch)
            if level < len(mult) - 1:
                self.input_blocks.append(Block(ResBlock(ch, ch, emb, nn.AvgPool2d(2))))
                skips.append(ch)
                factor *= 2

        self.middle_block = Block(ResBlock(ch, ch, emb), attention(ch), ResBlock(ch, ch, emb))

        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                block, ch = Block(ResBlock(ch + skips.pop(), m * width, emb)), m * width
                if factor in config["attention_resolutions"]:
                    block.append(attention(ch))
                if level and i == blocks:
                    block.append(ResBlock(ch, ch, emb, nn.Upsample(scale_factor=2, mode="nearest")))
                    factor //= 2
                self.output_blocks.append(block)

        self.out = nn.Sequential(norm(ch), nn.SiLU(), conv(ch, config["out_channels"]))

    def forward(self, x, sinusoids):
        emb = self.time_embed(sinusoids)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return self.out(h)


def load(config, weights, sdpa=False, mean_only=False):
    """The network with weights by upstream name; mean_only cuts the output channels of a learned variance."""
    with torch.device("meta"):
        net = UNet(config, sdpa)
    net.load_state_dict({name: w.float() for name, w in weights.items()}, assign=True)
    if mean_only:
        last = net.out[2]
        last.out_channels = config["in_channels"]
        last.weight, last.bias = (nn.Parameter(p[: last.out_channels].clone()) for p in (last.weight, last.bias))
    return net.eval().requires_grad_(False)


def shapes(config):
    """The shape of every weight, by upstream name."""
    with torch.device("meta"):
        return {name: p.shape for name, p in UNet(config).state_dict().items()}


def random_weights(shapes, seed=0):
    """Weights of which activations stay of order one: zeros, as upstream initialises, would let an optimiser fold branches."""
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        w = torch.randn(shape, generator=g)
        if len(shape) > 1:
            w /= shape[1:].numel() ** 0.5
        else:
            w = 0.1 * w + (1 if name.endswith("weight") else 0)  # of a norm, or a bias
        weights[name] = w
    return weights
