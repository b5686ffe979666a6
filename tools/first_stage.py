"""latent-diffusion's first stages for inference in PyTorch, under their upstream names (Rombach et al. 2022): AutoencoderKL
and VQModelInterface, as far as tools/bench_peers.py needs them. Attention is in the middle only.
"""
import torch
import torch.nn.functional as F
from torch import nn


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


def conv(cin, cout):
    return nn.Conv2d(cin, cout, 3, padding=1)


class ResnetBlock(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.norm1, self.conv1 = norm(cin), conv(cin, cout)
        self.norm2, self.conv2 = norm(cout), conv(cout, cout)
        if cin != cout:
            self.nin_shortcut = nn.Conv2d(cin, cout, 1)

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels, sdpa):
        super().__init__()
        self.norm, self.sdpa = norm(channels), sdpa
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        b, c, hh, ww = x.shape
        h = self.norm(x)
        q, k, v = (f(h).reshape(b, 1, c, hh * ww) for f in (self.q, self.k, self.v))
        if self.sdpa:
            # contiguous: with strided q, k and v PyTorch falls back to a path that writes the T x T matrix
            a = F.scaled_dot_product_attention(*(p.transpose(2, 3).contiguous() for p in (q, k, v))).transpose(2, 3)
        else:
            a = v @ torch.softmax((q * c**-0.5).transpose(2, 3) @ k, -1).transpose(2, 3)
        return x + self.proj_out(a.reshape(b, c, hh, ww))


class Middle(nn.Module):
    def __init__(self, channels, sdpa):
        super().__init__()
        self.block_1, self.block_2 = ResnetBlock(channels, channels), ResnetBlock(channels, channels)
        self.attn_1 = AttnBlock(channels, sdpa)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class Resample(nn.Module):
    def __init__(self, channels, up):
        super().__init__()
        self.conv, self.up = nn.Conv2d(channels, channels, 3, 1 if up else 2, 1 if up else 0), up

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, cin, cout, blocks, resample):
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(cin if i == 0 else cout, cout) for i in range(blocks))
        if resample:
            setattr(self, resample, Resample(cout, resample == "upsample"))
        self.resample = resample

    def forward(self, x):
        for block in self.block:
            x = block(x)
        return getattr(self, self.resample)(x) if self.resample else x


class Encoder(nn.Module):
    def __init__(self, config, sdpa):
        super().__init__()
        widths, z = [config["ch"] * m for m in config["ch_mult"]], config["z_channels"]
        self.conv_in, ch, self.down = conv(3, widths[0]), widths[0], nn.ModuleList()
        for i, w in enumerate(widths):
            self.down.append(Level(ch, w, config["num_res_blocks"], "downsample" if i < len(widths) - 1 else None))
            ch = w
        self.mid, self.norm_out, self.conv_out = Middle(ch, sdpa), norm(ch), conv(ch, 2 * z if config["double_z"] else z)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, config, sdpa):
        super().__init__()
        widths = [config["ch"] * m for m in config["ch_mult"]]
        ch, levels = widths[-1], []
        self.conv_in, self.mid = conv(config["z_channels"], ch), Middle(ch, sdpa)
        for i, w in reversed(list(enumerate(widths))):
            levels.insert(0, Level(ch, w, config["num_res_blocks"] + 1, "upsample" if i else None))
            ch = w
        self.up = nn.ModuleList(levels)  # level 0 is that of the full size, which comes last
        self.norm_out, self.conv_out = norm(ch), conv(ch, 3)

    def forward(self, z):
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decode(nn.Module):
    """From latents to pictures. Latents are not looked up in the code book, if there is one."""

    def __init__(self, config, sdpa=False):
        super().__init__()
        self.post_quant_conv = nn.Conv2d(config["embed_dim"], config["z_channels"], 1)
        self.decoder = Decoder(config, sdpa)

    def forward(self, z):
        return self.decoder(self.post_quant_conv(z))


class FirstStage(Decode):
    """With the encoder, which only lends its names and shapes to files: without it a file is no first stage's."""

    def __init__(self, config):
        super().__init__(config)
        halves = 2 if config["double_z"] else 1
        self.encoder = Encoder(config, False)
        self.quant_conv = nn.Conv2d(halves * config["z_channels"], halves * config["embed_dim"], 1)
        if "n_embed" in config:
            self.quantize = nn.ModuleDict(dict(embedding=nn.Embedding(config["n_embed"], config["embed_dim"])))


def load(config, weights, sdpa=False):
    """The decoder with weights by upstream name."""
    with torch.device("meta"):
        net = Decode(config, sdpa)
    net.load_state_dict({name: w.float() for name, w in weights.items() if name.startswith(("decoder.", "post_"))}, assign=True)
    return net.eval().requires_grad_(False)


def shapes(config):
    """The shape of every tensor of a file, by upstream name."""
    with torch.device("meta"):
        return {name: p.shape for name, p in FirstStage(config).state_dict().items()}
