#!/usr/bin/env python3
"""Times a prior's forward pass, or a first stage's decoder, in ncnn, ONNX Runtime, OpenVINO, PyTorch and spin-native: same
weights, same run.

    pip install torch numpy safetensors onnx onnxscript onnxruntime openvino ncnn pnnx
    go build -o /tmp/spin-native ./cmd/spin-native
    python tools/bench_peers.py --spin /tmp/spin-native --weights photo-v1.safetensors [--size 512] [--threads 1] [--markdown]
    python tools/bench_peers.py --spin /tmp/spin-native --network ffhq_10m [--peers ncnn,torch] [--json FILE]
    python tools/bench_peers.py --spin /tmp/spin-native --network sdvae --size 512

--weights are safetensors under upstream's names; without them, all but photo get random ones, which are written to --work once.
sdvae is Stable Diffusion's decoder (its latents are an eighth of --size), vqf4 that of latent-diffusion's VQ-f4 (a quarter).
Nobody looks latents up in the code book.
The exports stay in --work too and are made anew when the weights change.

What is compared: batch 1, F32, one picture and one time step for all; only what `spin-native bench` times is a picture of its
own, on whose values its time does not depend. Networks with a learned variance lose its output channels everywhere, because
that is what spin-native computes. The sinusoidal embedding of the time step is an input of the peers. PyTorch runs eagerly, in
three forms; ONNX Runtime and OpenVINO read one ONNX file, ncnn what pnnx makes. Both exports
write attention as scaled_dot_product_attention: ncnn's Einsum layer is a naive loop, the others do not care.

How: every peer has a process of its own that loads, compiles and then waits; in each turn they go one after the other, each
with a call to warm up and --runs timed calls, and the next turn starts with the next peer. spin-native is a fresh
`spin-native bench` each time. Ratios are those of the minima over all turns. Peak memory is of the whole process with its
loading, Python included. The outputs are compared with PyTorch's, spin-native's through the case that `spin-native check`
runs; a relative L2 above 1e-4 ends the run. Needs Linux (/proc).

The machine should be idle: OpenMP and its like wait for one another in busy loops and lose far more to another program than
its share. Every turn shows how many cores others had meanwhile, --json tells it for each peer; a peer that works while
it should wait is reported.
"""
import argparse, json, multiprocessing, os, platform, subprocess, sys, tempfile, time, traceback
from importlib import metadata

# Libraries are imported where they are needed, so that each process carries only its own.

NETWORKS = {
    "photo": dict(in_channels=3, out_channels=3, model_channels=32, num_res_blocks=1, attention_resolutions=[8],
                  channel_mult=[1, 2, 3, 4], num_heads=4, num_head_channels=32, use_scale_shift_norm=True, resblock_updown=True),
    "ffhq_10m": dict(in_channels=3, out_channels=6, model_channels=128, num_res_blocks=1, attention_resolutions=[16],
                     channel_mult=[1, 1, 2, 2, 4, 4], num_heads=4, num_head_channels=64, use_scale_shift_norm=True,
                     resblock_updown=True),
}
STAGES = {  # the arguments of CompVis' constructors; n_embed is that of a code book
    "sdvae": dict(ch=128, ch_mult=[1, 2, 4, 4], num_res_blocks=2, z_channels=4, embed_dim=4, double_z=True),
    "vqf4": dict(ch=128, ch_mult=[1, 2, 4], num_res_blocks=2, z_channels=3, embed_dim=3, double_z=False, n_embed=8192),
}
PEERS = {  # --peers: what it runs
    "ncnn": ["ncnn"],
    "onnxruntime": ["ONNX Runtime"],
    "openvino": ["OpenVINO"],
    "torch": ["PyTorch NCHW", "PyTorch channels_last", "PyTorch channels_last, SDPA"],
}
SPIN = "spin-native"
LIMIT = 1e-4  # relative L2 between outputs
STEP = 200


# Preparation: the reference and the exports, each in a process of its own.


def write_random(network, path):
    from safetensors.torch import save_file
    import first_stage, guided_unet

    shapes = first_stage.shapes(STAGES[network]) if network in STAGES else guided_unet.shapes(NETWORKS[network])
    save_file(guided_unet.random_weights(shapes), path)


def load_network(network, weights, sdpa=False):
    """What the peers run: eps of x and sinusoids, or the picture of a latent."""
    from safetensors.torch import load_file
    import first_stage, guided_unet

    if network in STAGES:
        return first_stage.load(STAGES[network], load_file(weights), sdpa)
    return guided_unet.load(NETWORKS[network], load_file(weights), sdpa, mean_only=True)


def input_names(network):
    return ["x"] if network in STAGES else ["x", "sinusoids"]


def output_name(network):
    return "out" if network in STAGES else "eps"


def write_stage_case(network, size, weights, folder):
    """The same for a decoder."""
    import torch
    from safetensors.torch import save_file

    config = STAGES[network]
    edge = size >> (len(config["ch_mult"]) - 1)
    x = torch.randn(1, config["z_channels"], edge, edge, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        out = load_network(network, weights)(x)
    save_file(dict(x=x, out=out), f"{folder}/io.safetensors")
    run = dict(fn="vq_decode_no_quantize" if "n_embed" in config else "kl_decode", inputs=dict(z="x"), outputs=dict(img="out"))
    case = dict(name=network, kind="latent_diffusion", weights=[{"file": weights}], runs=[run], tolerance=dict(out=dict(rel_l2=LIMIT)))
    with open(f"{folder}/case.json", "w") as f:
        json.dump(case, f, indent=1)


def write_case(network, size, weights, folder):
    """A case of `spin-native check`, with what the peers need besides: sinusoids, and their part of the output, eps."""
    import torch
    from safetensors.torch import load_file, save_file
    from guided_unet import embedding, load

    config = NETWORKS[network]
    x = torch.randn(1, config["in_channels"], size, size, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([float(STEP)])
    sinusoids = embedding(t, config["model_channels"])
    with torch.inference_mode():
        out = load(config, load_file(weights))(x, sinusoids)
    eps = out[:, : config["in_channels"]].clone()
    save_file(dict(x=x, t=t, sinusoids=sinusoids, out=out, eps=eps), f"{folder}/io.safetensors")
    case = dict(name=network, kind="guided_diffusion_unet", config={"UNetModel": config}, weights=[{"file": weights}],
                runs=[dict(inputs=dict(x="x", t="t"), outputs=dict(out="out"))], tolerance=dict(out=dict(rel_l2=LIMIT)))
    with open(f"{folder}/case.json", "w") as f:
        json.dump(case, f, indent=1)


def export_inputs(network, folder):
    from safetensors.torch import load_file

    io = load_file(f"{folder}/io.safetensors")
    return tuple(io[name] for name in input_names(network))


def write_onnx(network, weights, folder):
    import torch

    net = load_network(network, weights, sdpa=True)
    torch.onnx.export(net, export_inputs(network, folder), f"{folder}/model.onnx", input_names=input_names(network), output_names=[output_name(network)],
                      dynamo=True, external_data=True, opset_version=18)


def write_ncnn(network, weights, folder):
    import pnnx

    net = load_network(network, weights, sdpa=True)
    pnnx.export(net, f"{folder}/model.pt", export_inputs(network, folder), fp16=False)  # writes model.ncnn.param and model.ncnn.bin
    for name in ("model.pt", "model.pnnx.bin", "model.pnnx.onnx"):  # copies of the weights that nobody reads
        if os.path.exists(f"{folder}/{name}"):
            os.remove(f"{folder}/{name}")


def prepare(a):
    """The folder of the case and the exports; makes what is missing or of other weights."""
    folder = f"{a.work}/{a.network}-{a.size}"
    os.makedirs(folder, exist_ok=True)
    if not a.weights:
        a.weights = f"{a.work}/{a.network}.safetensors"
        if not os.path.exists(a.weights):
            alone(f"random weights in {a.weights}", f"{a.work}/weights.log", write_random, a.network, a.weights)
    st = os.stat(a.weights)
    stamp = dict(weights=a.weights, bytes=st.st_size, mtime=st.st_mtime_ns)
    steps = {"reference": (write_stage_case if a.network in STAGES else write_case, (a.network, a.size, a.weights, folder))}
    if {"onnxruntime", "openvino"} & set(a.peers):
        steps["ONNX"] = write_onnx, (a.network, a.weights, folder)
    if "ncnn" in a.peers:
        steps["ncnn"] = write_ncnn, (a.network, a.weights, folder)
    for name, (step, args) in steps.items():
        done = f"{folder}/{name}.json"
        if not (os.path.exists(done) and json.load(open(done)) == stamp):
            alone(f"{name} in {folder}", f"{folder}/{name}.log", step, *args)
            with open(done, "w") as f:
                json.dump(stamp, f)
    return folder


def alone(what, log, step, *args):
    """Runs a step in a process of its own: its memory goes back, and a crash of a converter is an error message."""
    start = time.time()
    p = CONTEXT.Process(target=logged, args=(log, step, args))
    p.start()
    p.join()
    if p.exitcode:
        sys.exit(f"{what}: failed with code {p.exitcode}, see {log}")
    print(f"{what}: {time.time() - start:.0f} s", flush=True)


def logged(log, step, args):
    with open(log, "w") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    step(*args)


# The peers. Each of these returns a function that runs the network and one that makes an array of what it returned.


def torch_peer(a, folder, inputs, channels_last, sdpa):
    import torch

    torch.set_num_threads(a.threads)
    net = load_network(a.network, a.weights, sdpa)
    x, *rest = map(torch.from_numpy, inputs.values())
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            return net(x, *rest)

    return run, lambda y: y.numpy()


def onnxruntime_peer(a, folder, inputs):
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads = a.threads, 1
    session = ort.InferenceSession(f"{folder}/model.onnx", o, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0], lambda y: y


def openvino_peer(a, folder, inputs):
    import openvino

    hints = dict(INFERENCE_NUM_THREADS=a.threads, NUM_STREAMS=1, INFERENCE_PRECISION_HINT="f32", PERFORMANCE_HINT="LATENCY")
    request = openvino.Core().compile_model(f"{folder}/model.onnx", "CPU", hints).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)[0], lambda y: y


def ncnn_peer(a, folder, inputs):
    import ncnn
    import numpy as np

    net = ncnn.Net()
    o = net.opt
    o.num_threads = a.threads
    o.use_vulkan_compute = False
    o.use_fp16_packed = o.use_fp16_storage = o.use_fp16_arithmetic = o.use_bf16_storage = False  # F32 like the others
    if net.load_param(f"{folder}/model.ncnn.param") or net.load_model(f"{folder}/model.ncnn.bin"):
        raise RuntimeError("ncnn cannot load its export")
    mats = [ncnn.Mat(v[0]).clone() for v in inputs.values()]

    def run():
        extractor = net.create_extractor()
        for i, v in enumerate(mats):
            extractor.input(f"in{i}", v)
        code, out = extractor.extract("out0")
        if code:
            raise RuntimeError(f"ncnn: code {code}")
        return out

    return run, lambda y: np.array(y)[None]


def peer(name, a, folder, pipe):
    """The process of one peer: loads, answers with its memory and its error, then runs a turn for every message."""
    try:
        import numpy as np
        from safetensors.numpy import load_file

        io = load_file(f"{folder}/io.safetensors")
        start = time.perf_counter()
        kind, *form = {
            "ncnn": [ncnn_peer],
            "ONNX Runtime": [onnxruntime_peer],
            "OpenVINO": [openvino_peer],
            "PyTorch NCHW": [torch_peer, False, False],
            "PyTorch channels_last": [torch_peer, True, False],
            "PyTorch channels_last, SDPA": [torch_peer, True, True],
        }[name]
        run, array = kind(a, folder, {name: io[name] for name in input_names(a.network)}, *form)
        error = rel_l2(np.asarray(array(run())), io[output_name(a.network)])
        setup = time.perf_counter() - start
        used = settled()
        pipe.send(dict(rel_l2=error, setup_s=setup))
        while pipe.recv():
            idle, begun = time.process_time() - used, time.process_time()
            run()
            ms = []
            for _ in range(a.runs):
                start = time.perf_counter()
                run()
                ms.append(1e3 * (time.perf_counter() - start))
            used = settled()
            pipe.send(dict(ms=ms, cpu_s=used - begun, idle_cpu_s=idle, peak_rss_mb=peak_rss()))
    except (EOFError, KeyboardInterrupt):
        pass  # the driver has gone
    except Exception:
        pipe.send(dict(failed=traceback.format_exc()))


def settled():
    """The processor time of this process once its threads, which may spin for a while after their work, have gone to sleep."""
    time.sleep(0.3)
    return time.process_time()


def rel_l2(got, want):
    import numpy as np

    return float(np.linalg.norm((got - want).ravel().astype(np.float64)) / np.linalg.norm(want.ravel().astype(np.float64)))


def peak_rss():
    """Largest resident memory of this process in MB; getrusage's would begin with that of the parent."""
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10


# The driver.


class Peer:
    def __init__(self, name, a, folder):
        self.name = name
        self.pipe, other = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=peer, args=(name, a, folder, other), daemon=True)
        self.process.start()
        other.close()
        self.facts = self.receive()
        self.ms = []

    def receive(self):
        try:
            r = self.pipe.recv()
        except EOFError:
            self.process.join()
            sys.exit(f"{self.name}: its process ended with code {self.process.exitcode}")
        if "failed" in r:
            sys.exit(f"{self.name}: {r['failed']}")
        return r

    def turn(self):
        """Returns the processor time that it took."""
        self.pipe.send(True)
        r = self.receive()
        self.ms.append(r["ms"])
        self.facts["peak_rss_mb"] = r["peak_rss_mb"]
        self.facts["idle_cpu_s"] = max(self.facts.get("idle_cpu_s", 0), r["idle_cpu_s"])
        return r["cpu_s"]


class Spin:
    name = SPIN

    def __init__(self, a, folder):
        self.command = [a.spin, "bench", "--json", "--model", a.weights, "--size", str(a.size), "--threads", str(a.threads),
                        "--runs", str(a.runs)] + (["--max-memory", str(a.max_memory)] if a.max_memory else [])
        self.facts = dict(rel_l2=self.check(a, folder), peak_rss_mb=0)
        self.ms = []

    def check(self, a, folder):
        from safetensors.numpy import load_file

        command = [a.spin, "check", "--json", "--weights", a.weights, "--threads", str(a.threads), "--save", f"{folder}/computed", folder]
        r = subprocess.run(command, capture_output=True, text=True)
        if r.returncode:
            sys.exit(f"{SPIN}: {r.stdout}{r.stderr}")
        want = load_file(f"{folder}/io.safetensors")[output_name(a.network)]
        out = load_file(f"{folder}/computed/{os.path.basename(folder)}/0.safetensors")["out"]
        return rel_l2(out[:, : want.shape[1]], want)

    def turn(self):
        before = os.times()
        r = subprocess.run(self.command, check=True, stdout=subprocess.PIPE, text=True)
        after = os.times()
        r = json.loads(r.stdout)
        self.ms.append(r["ms"])
        memory = max(self.facts["peak_rss_mb"], r.get("peak_rss_mb", 0))
        self.facts.update(level=r["level"], gflop=r["gflop"], peak_rss_mb=memory)
        return sum(after[2:4]) - sum(before[2:4])  # of children


def turn(p):
    """One turn of one peer. Returns how many cores others had meanwhile, the hypervisor's other guests included."""
    start, before = time.perf_counter(), busy()
    own = p.turn()
    return max(0, busy() - before - own) / (time.perf_counter() - start)


def busy():
    """Seconds that all cores together have worked since the machine started."""
    with open("/proc/stat") as f:
        user, nice, system, _, _, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def machine():
    facts = dict(map(str.strip, line.split(":", 1)) for line in open("/proc/cpuinfo") if ":" in line)
    model = f"{facts.get('model name', platform.machine())}, family {facts.get('cpu family')} model {facts.get('model')}"
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def versions(peers):
    packages = {"ncnn": ["ncnn", "pnnx"], "onnxruntime": ["onnxruntime"], "openvino": ["openvino"], "torch": []}
    return {p: metadata.version(p) for p in ["torch"] + [p for name in peers for p in packages[name]]}


def table(report, markdown):
    rows, fastest = report["results"], report["fastest_peer"]
    title = f"{report['network']} {report['size']}x{report['size']}, {report['threads']} thread{'s' * (report['threads'] > 1)}"
    if markdown:
        print(f"\n| {title} | ms | ratio | peak MB | relative L2 |\n|---|---|---|---|---|")
        for name, r in rows.items():
            label = {SPIN: f"**{name} ({r.get('level')})**", fastest: f"**{name}** (fastest peer)"}.get(name, name)
            print(f"| {label} | {r['ms_min']:.1f} | {r['ratio']:.2f} | {r['peak_rss_mb']} | {r['rel_l2']:.1e} |")
        return
    print(f"\n{title + ', minima':30s} {'ms':>9s} {'ratio':>6s} {'peak MB':>8s} {'rel. L2':>8s}")
    for name, r in rows.items():
        mark = "  fastest peer" if name == fastest else ""
        print(f"{name:30s} {r['ms_min']:9.1f} {r['ratio']:6.2f} {r['peak_rss_mb']:8d} {r['rel_l2']:8.1e}{mark}")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--spin", required=True, metavar="BIN", help="the program spin-native")
    p.add_argument("--network", choices=[*NETWORKS, *STAGES], default="photo")
    p.add_argument("--size", type=int, default=256, help="edge of the picture in pixels")
    p.add_argument("--weights", metavar="FILE", help="safetensors under upstream's names; only photo needs them")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--runs", type=int, default=3, help="timed calls per turn")
    p.add_argument("--max-memory", type=int, default=0, metavar="MB", help="for spin-native's decoders, which then run in bands")
    p.add_argument("--peers", default=",".join(PEERS), help="default: all")
    p.add_argument("--work", metavar="DIR", default=os.path.join(tempfile.gettempdir(), "spin-peers"),
                   help="where weights and exports stay (default: %(default)s)")
    p.add_argument("--json", metavar="FILE", help="write everything here")
    p.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    a = p.parse_args()
    a.peers = [name for name in a.peers.split(",") if name]
    if unknown := set(a.peers) - set(PEERS):
        p.error(f"--peers {','.join(unknown)}: expected some of {','.join(PEERS)}")
    if min(a.threads, a.turns, a.runs) < 1:
        p.error("--threads, --turns and --runs must be 1 or more")
    if a.network == "photo" and not a.weights:
        p.error("--network photo needs --weights")
    a.work, a.weights = os.path.abspath(a.work), a.weights and os.path.abspath(a.weights)
    return a


def main():
    a = arguments()
    os.environ["OMP_NUM_THREADS"] = str(a.threads)  # before any library of a peer reads it
    folder = prepare(a)
    report = dict(machine=machine(), versions=versions(a.peers), network=a.network, size=a.size, threads=a.threads)
    print(f"{report['machine']}; " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()), flush=True)
    field = [Spin(a, folder)]
    for name in [n for p in a.peers for n in PEERS[p]]:
        field.append(Peer(name, a, folder))
        print(f"{name}: ready in {field[-1].facts['setup_s']:.1f} s, relative L2 {field[-1].facts['rel_l2']:.1e}", flush=True)
    if wrong := [p.name for p in field if not p.facts["rel_l2"] <= LIMIT]:
        sys.exit(f"not the output of PyTorch: {', '.join(wrong)}")
    others = {p.name: [] for p in field}
    for i in range(a.turns):
        first = i % len(field)
        for p in field[first:] + field[:first]:
            others[p.name].append(turn(p))
        times = ", ".join(f"{p.name} {min(p.ms[-1]):.0f}" for p in field)
        print(f"turn {i + 1}, ms: {times}; others had up to {max(o[-1] for o in others.values()):.2f} cores", flush=True)
    results = {p.name: dict(ms_min=min(map(min, p.ms)), ms=p.ms, others_cores=others[p.name], **p.facts) for p in field}
    ours = results[SPIN]["ms_min"]
    for name, r in results.items():
        r["ratio"] = r["ms_min"] / ours
        if r.get("idle_cpu_s", 0) > 0.05:
            print(f"{name} used the processor for up to {r['idle_cpu_s']:.2f} s while the others ran")
    ranks = sorted(results, key=lambda name: results[name]["ms_min"])
    report["fastest_peer"] = next((name for name in ranks if name != SPIN), None)
    report["results"] = {name: results[name] for name in ranks}
    table(report, a.markdown)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(report, f, indent=1)


CONTEXT = multiprocessing.get_context("spawn")

if __name__ == "__main__":
    main()
