"""Makes solver/testdata/samplers: trajectories of the samplers of diffusers, with the exact denoiser of a Gaussian prior.

    pip install torch diffusers safetensors numpy
    python tools/samplers.py solver/testdata/samplers

Every run of case.json has its settings and timesteps; io.safetensors its start, its noise in the order of drawing where it
draws any, and x after every step, all [N,C,H,W]. The denoiser of all runs is

    D(x,t) = mu + S sqrt(abar)/(abar S + 1-abar) (x - sqrt(abar) mu)

which the scheduler sees as the noise that goes with it, and clips or thresholds itself where the run says so.
"""
import json
import os
import sys

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from diffusers.schedulers import scheduling_ddpm
from safetensors.numpy import save_file

SHAPE = (2, 3, 3, 4)
BETAS = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
rng = np.random.default_rng(5)
mu = rng.uniform(-0.8, 0.8, (1,) + SHAPE[1:]).astype(np.float32)
variance = rng.uniform(0.01, 0.6, (1,) + SHAPE[1:]).astype(np.float32)
abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def noise_of(x, t):
    a, m, s = abar[t], torch.tensor(mu, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)
    x0 = m + s * a.sqrt() / (a * s + 1 - a) * (x - a.sqrt() * m)
    return (x - a.sqrt() * x0) / (1 - a).sqrt()


def draw():
    return rng.standard_normal(SHAPE).astype(np.float32)


arrays, runs = {"mu": mu, "S": variance}, []


def run(name, scheduler, settings, steps=10, timesteps=None, noisy=False):
    if timesteps is None:
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(timesteps=timesteps)
    ts = [int(t) for t in scheduler.timesteps]
    if isinstance(scheduler, PNDMScheduler):
        ts = ts[:1] + ts[2:]  # the second call of improved Euler is left out below
    start, drawn, states = draw(), [], []
    x = torch.tensor(start, dtype=torch.float64)
    for i, t in enumerate(ts):
        kwargs = {}
        if noisy and i < len(ts) - 1:
            drawn.append(draw())
            fresh = torch.tensor(drawn[-1], dtype=torch.float64)
            if isinstance(scheduler, DDIMScheduler):
                kwargs["variance_noise"] = fresh
            scheduling_ddpm.randn_tensor = lambda *args, **kw: fresh
        if isinstance(scheduler, DDIMScheduler):
            kwargs["eta"], kwargs["use_clipped_model_output"] = settings.get("eta", 0.0), True
            if "variance_noise" not in kwargs and kwargs["eta"] > 0:
                kwargs["variance_noise"] = torch.zeros(SHAPE, dtype=torch.float64)
        x = scheduler.step(noise_of(x, t), t, x, **kwargs).prev_sample
        if isinstance(scheduler, PNDMScheduler) and i == 0:
            scheduler.counter = 2  # Euler's step is kept, and the formula of two values follows
        states.append(x.numpy().astype(np.float32))
    arrays[name + ".start"] = start
    arrays[name + ".x"] = np.stack(states)
    if drawn:
        arrays[name + ".noise"] = np.stack(drawn)
    runs.append(dict(name=name, timesteps=ts, **settings))


run("ddim", DDIMScheduler(**BETAS, clip_sample=False), dict(sampler="ddim"))
run("ddim_eta", DDIMScheduler(**BETAS, clip_sample=False), dict(sampler="ddim", eta=0.6), noisy=True)
run("ddim_clip", DDIMScheduler(**BETAS, clip_sample=True), dict(sampler="ddim", eta=1.0, clip=True), noisy=True)
run("ddim_threshold", DDIMScheduler(**BETAS, clip_sample=False, thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=100.0),
    dict(sampler="ddim", threshold=0.8))
run("ddpm", DDPMScheduler(**BETAS, variance_type="fixed_small", clip_sample=False), dict(sampler="ddpm"), noisy=True)
run("ddpm_large", DDPMScheduler(**BETAS, variance_type="fixed_large", clip_sample=True), dict(sampler="ddpm-large", clip=True), noisy=True)
run("pndm", PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=True), dict(sampler="pndm"))
for order, sampler in (2, "dpmpp"), (3, "dpmpp3"):
    common = dict(algorithm_type="dpmsolver++", solver_order=order, solver_type="midpoint", lower_order_final=True, final_sigmas_type="zero")
    run(sampler, DPMSolverMultistepScheduler(**BETAS, **common), dict(sampler=sampler))
    run(sampler + "_uneven", DPMSolverMultistepScheduler(**BETAS, **common), dict(sampler=sampler), timesteps=[999, 800, 640, 420, 300, 180, 90, 30, 8])
    run(sampler + "_threshold", DPMSolverMultistepScheduler(**BETAS, **common, thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=100.0),
        dict(sampler=sampler, threshold=0.8))

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
save_file(arrays, os.path.join(out, "io.safetensors"))
with open(os.path.join(out, "case.json"), "w") as f:
    versions = dict(torch=torch.__version__, numpy=np.__version__)
    json.dump(dict(name="samplers", producer=versions, runs=runs), f, indent=1)
    f.write("\n")
