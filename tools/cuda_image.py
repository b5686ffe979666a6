"""Compiles the CUDA kernels into the image that builds with the tag `cuda` embed (make -f kernels.mk image).

    python tools/cuda_image.py write     kernels/cuda/image.tar.zst and image.sum, and the tables of kernels in docs/cuda.md
    python tools/cuda_image.py check     registers, stack, spills and static shared memory, and those tables; fails on spills,
                                         where wgmma wait for each other, and where what is committed is not what these sources give

It needs three packages and neither a CUDA installation nor a GPU:

    pip install nvidia-cuda-nvrtc-cu12==12.4.127 nvidia-cuda-nvdisasm==13.5.37 zstandard

The compiler is that of CUDA 12.4 on purpose: its machine code runs on every driver of CUDA 12 and later, that of 13 does
not. The image holds machine code for each architecture below and, for later ones, PTX, which the driver translates. sm_90a is
for devices of capability 9.0 alone, beside sm_90: it holds the kernels whose instructions no other device has.
"""

import collections
import concurrent.futures
import ctypes
import glob
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDER, DOCUMENT = os.path.join(ROOT, "kernels", "cuda"), os.path.join(ROOT, "docs", "cuda.md")
COMPILER = (12, 4)
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "compute_80"]
# Products are added in one rounding where the source says fmaf and nowhere else, so that a function gives the same result in every kernel.
FLAGS = ["--std=c++17", "--ptxas-options=-v", "--fmad=false"]


def sources():
    """The names of what the image is made from, in the order of compilation."""
    return sorted(glob.glob("*.cu", root_dir=FOLDER)), glob.glob("*.cuh", root_dir=FOLDER) + glob.glob("*.h", root_dir=FOLDER)


def kernels_of(arch):
    """The files that are compiled for an architecture."""
    return [name for name in sources()[0] if name.endswith("_wgmma.cu") == arch.endswith("90a")]


def fingerprint():
    """Changes with the sources, the flags and the compiler. The test of package cuda computes the same."""
    kernels, headers = sources()
    h = hashlib.sha256()
    for name in sorted(kernels + headers) + ["../../tools/cuda_image.py"]:
        with open(os.path.join(FOLDER, name), "rb") as f:
            h.update(f.read())
    return h.hexdigest()


class Compiler:
    def __init__(self):
        paths = [p for d in sys.path for p in glob.glob(os.path.join(d, "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so.12"))]
        if not paths:
            sys.exit("NVRTC is missing: pip install nvidia-cuda-nvrtc-cu12==12.4.127")
        self.lib = ctypes.CDLL(paths[0])
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        if (major.value, minor.value) != COMPILER:
            sys.exit(f"NVRTC is {major.value}.{minor.value}, expected %d.%d" % COMPILER)

    def call(self, name, *args):
        r = getattr(self.lib, name)(*args)
        if r:
            self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {self.lib.nvrtcGetErrorString(r).decode()}")

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, data)
        return data.raw

    def compile(self, arch):
        """Returns the image for one architecture and the compiler's remarks."""
        program = ctypes.c_void_p()
        text = "".join(f'#include "{name}"\n' for name in kernels_of(arch))
        self.call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
        options = [f.encode() for f in FLAGS + [f"--gpu-architecture={arch}", f"--include-path={FOLDER}"]]
        try:
            self.call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
        except RuntimeError as e:
            sys.exit(f"{e}\n{self.text(program, 'ProgramLog').rstrip(bytes(1)).decode()}")
        log = self.text(program, "ProgramLog").rstrip(bytes(1)).decode()
        return self.text(program, "CUBIN" if arch.startswith("sm_") else "PTX"), log


def compiled(arch):
    return Compiler().compile(arch)


def compile_all(architectures):
    """Image and remarks for each architecture, in their order, each made by a process of its own."""
    Compiler()  # says what is missing, once
    with concurrent.futures.ProcessPoolExecutor(len(architectures)) as pool:
        return list(pool.map(compiled, architectures))


def build():
    """All images by architecture, the archive of them, and the compiler's remarks by architecture."""
    images, logs = {}, {}
    for arch, (image, log) in zip(ARCHITECTURES, compile_all(ARCHITECTURES)):
        images[arch], logs[arch] = image, log
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for arch, image in images.items():
            info = tarfile.TarInfo(arch)
            info.size = len(image)
            t.addfile(info, io.BytesIO(image))
    return images, tar.getvalue(), logs


def write():
    import zstandard

    images, tar, logs = build()
    packed = zstandard.ZstdCompressor(level=19).compress(tar)
    with open(os.path.join(FOLDER, "image.tar.zst"), "wb") as f:
        f.write(packed)
    with open(os.path.join(FOLDER, "image.sum"), "w") as f:
        f.write(f"{fingerprint()}  sources\n{hashlib.sha256(packed).hexdigest()}  image.tar.zst\n")
    print(f"image.tar.zst: {len(packed) >> 10} KB, {len(tar) >> 10} KB unpacked")
    text = documented(tables(images, logs))
    with open(DOCUMENT, "w") as f:
        f.write(text)


def check():
    import zstandard

    images, tar, logs = build()
    bad = []
    for arch, log in logs.items():
        if arch.startswith("compute_"):
            continue
        for name, spills, use in remarks(log):
            spilled = int(re.search(r"(\d+) bytes spill stores", spills)[1])
            stack = re.search(r"(\d+) bytes stack frame", spills)
            print(f"{arch} {name:22} {use}" + (f"; STACK {stack[1]}" if stack and stack[1] != "0" else "") + (f"; SPILLS {spilled} bytes" if spilled else ""))
            if spilled:
                bad.append(f"{arch} {name} spills")
        if "Used " not in log:
            sys.exit(f"{arch}: the compiler tells nothing:\n{log}")
        if "wgmma" in log.replace("conv_wgmma", ""):  # instructions that it puts in a row, with the reason
            print(log)
            bad.append(f"{arch}: wgmma in a row")
    for name, code in disassembled(images["sm_90a"]).items():
        first, last = around(code, "HGMMA")
        loop = code[first:last + 1]
        print(f"sm_90a {name:22} " + ", ".join(f"{count(code, op)} {op}" for op in ("HGMMA", "UTMALDG", "SYNCS")) + f"; {count(loop, 'HGMMA')} HGMMA in a loop of {len(loop)}")
    made = tables(images, logs)
    print("\n" + "\n".join(made))
    with open(os.path.join(FOLDER, "image.tar.zst"), "rb") as f:
        if zstandard.ZstdDecompressor().decompress(f.read()) != tar:
            bad.append("image.tar.zst is not what the sources give: make -f kernels.mk image")
    with open(DOCUMENT) as f:
        if f.read() != documented(made):
            bad.append("the tables of docs/cuda.md are not those of the image: make -f kernels.mk image")
    sys.exit("\n".join(bad) or None)


def remarks(log):
    """Name, spills and use of each kernel that the compiler made."""
    return re.findall(r"Function properties for (\w+)\s+(.*?)\n.*?Used (.*?)\n", log, re.S)


# The name without what follows a dot, the number of the instruction that it jumps to, if it does, and whether it may be the next one.
Instruction = collections.namedtuple("Instruction", "op to falls")


def disassembled(image):
    """The instructions of each kernel of an image."""
    tools = [p for d in sys.path for p in glob.glob(os.path.join(d, "nvidia", "*", "bin", "nvdisasm"))]
    if not tools:
        sys.exit("nvdisasm is missing: pip install nvidia-cuda-nvdisasm==13.5.37")
    with tempfile.NamedTemporaryFile() as f:
        f.write(image)
        f.flush()
        text = subprocess.run([tools[0], "-c", f.name], capture_output=True, check=True, text=True).stdout
    kernels = {}
    for name, body in re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\t\.section|\Z)", text, re.S | re.M):
        found, labels, code = [], {}, kernels.setdefault(name, [])
        for label, guard, op, rest in re.findall(r"^\.(\w+):$|^\s+/\*[0-9a-f]+\*/\s+(@!?U?P\w+ )?([A-Z]\w*)(.*?);", body, re.M):
            if label:
                labels[label] = len(found)
            elif op != "NOP":  # which fills up
                found.append((op, guard or re.match(r"(\.DIV|\.CONV)|(\.\w+)* !?U?P\d", rest), re.search(r"`\(\.(\w+)\)", rest) if op == "BRA" else None))
        for op, guarded, to in found:
            code.append(Instruction(op, labels[to[1]] if to else None, bool(guarded) or op not in ("BRA", "EXIT", "RET")))
    return kernels


def count(code, *ops):
    return sum(i.op in ops for i in code)


def loops(code):
    """First and last instruction of each loop."""
    return [(i.to, at) for at, i in enumerate(code) if i.to is not None and i.to <= at]


def around(code, op):
    """First and last instruction of the loop that most of these are in, the shortest of those."""
    return max(loops(code), key=lambda l: (count(code[l[0]:l[1] + 1], op), l[0] - l[1]), default=(0, len(code) - 1))


def way(code, start, stop):
    """The numbers of the instructions after start on the shortest way to stop that leads forward, or None."""
    before, edge = {start: None}, [start]
    while edge and stop not in before:
        after = []
        for at in edge:
            for to in [code[at].to] * (code[at].to is not None) + [at + 1] * code[at].falls:
                if at < to <= stop and to not in before:
                    before[to] = at
                    after.append(to)
        edge = after
    if stop not in before:
        return None
    numbers = []
    while stop != start:
        numbers.append(stop)
        stop = before[stop]
    return numbers[::-1]


def turn(code, op):
    """The instructions of the shortest turn of that loop on which all of these are met, and all copies to shared memory that are in no
    loop within it. What such loops do, and what is done in some turns only, is left out. None where no turn meets them all, or some are in
    such a loop."""
    first, last = around(code, op)
    within = [l for l in loops(code) if first <= l[0] and l[1] < last]
    numbers = [first]
    for at in range(first, last + 1):
        looped = any(a <= at <= b for a, b in within)
        if code[at].op == op or code[at].op == "LDGSTS" and not looped or at == last:
            further = way(code, numbers[-1], at)
            if further is None or looped:
                return None
            numbers += further
    return [code[at] for at in numbers]


# Of a multiprocessor: shared memory, which 1 KB of each block is taken from unasked. All have 64 K registers, which warps
# take in units of 8 for a thread, four warps at a time, 64 warps and 32 blocks.
SHARED_KB = {"sm_80": 164, "sm_90": 228}


def blocks(arch, registers, threads, shared_kb):
    """How many blocks a multiprocessor holds at a time."""
    warps = threads // 32
    by_registers = 65536 // ((registers + 7) // 8 * 8 * 32) // 4 * 4 // warps
    return min(by_registers, int(SHARED_KB[arch] / (shared_kb + 1)), 64 // warps, 32)


def intensity(name):
    """Operations for each byte that a block of a full tile copies to shared memory, over a step of its loop."""
    if m := re.match(r"conv_gemm_f16_(\d+)x(\d+)$", name):
        rows, columns = map(int, m.groups())
        return rows * columns / (rows + columns)
    if m := re.match(r"conv_halo_f16_(\d+)x(\d+)x(\d+)$", name):
        h, w, columns = map(int, m.groups())
        return 9 * h * w * columns / ((h + 2) * (w + 2) + 9 * columns)
    return {"flash": 64, "wide": 32}.get(name.split("_")[1])  # the queries of a block, for which a key and a value are copied once


def conv_f32(pixels, channels, bound):
    return 4 * (16 * (pixels + channels) + 2 * pixels), pixels * channels / (pixels + channels) / 2, bound


GATHERING = 776  # GATHER_ROOM of args.h

# Of the other kernels: bytes of shared memory of a block, operations for each byte that its loop reads or writes outside of the
# multiprocessor, and what bounds it. Where these depend on the shape it is that of a picture of 256x256 pixels in three colours, heads of
# 64 channels (60 in F16, which tensor cores do not take, 712 for one query at a time), 512 inputs, a blur of 61x61 on a circle of 320x320; and
# sums are gathered. TestTable launches them.
OTHERS = {
    "conv_f32_64x64": conv_f32(64, 64, "F32 arithmetic; what is gathered is activated for every tap"),
    "conv_f32_256x4": conv_f32(256, 4, "L2, and the addresses of what is gathered"),
    "conv_f32_16x64": conv_f32(16, 64, "L2: weights are read for every 16 pixels"),
    "linear_f32": (4 * (256 + 512), 0.5, "memory: the weights"),
    "conv_input_f16": (0, 1.75, "memory"),
    "moments_part": (4096, 1, "memory; F64 arithmetic on 7.5, 8.6, 8.9"),
    "moments_part_f16": (4096, 2, "memory; F64 arithmetic on 7.5, 8.6, 8.9"),
    "moments_join": (0, 0.25, "the launch"),
    "moments_join_f16": (0, 0.25, "the launch"),
    "norm_f32": (0, None, "the launch: a block for an image"),
    "layernorm_f32": (0, 1, "memory"),
    "layernorm_f16": (0, 2, "memory"),
    "attention_f32_8": (4 * 8 * (2 * 64 + 131), 4, "F32 arithmetic and shared memory"),
    "attention_f32_1": (4 * (2 * 712 + 131), 0.5, "L2: keys and values are read for every query"),
    "attention_f16_8": (4 * 8 * (2 * 60 + 131), 8, "F32 arithmetic and shared memory"),
    "attention_f16_1": (4 * (2 * 712 + 131), 1, "L2: keys and values are read for every query"),
    "geglu_f32": (0, 4, "memory"),
    "geglu_f16": (0, 8, "memory"),
    "resample_f32": (0, 0.2, "memory"),
    "resample_f16": (0, 0.4, "memory"),
    "resample_f16_f32": (0, 0, "memory"),
    "resample_f32_f16": (0, 0, "memory"),
    "mix_f32": (0, 0.75, "memory"),
    "nearest_f32": (0, 0.75, "L2: every pixel reads all vectors"),
    "blend_f32": (GATHERING, 0.25, "memory"),
    "dot_f32": (GATHERING, 0.25, "memory"),
    "conjugate_f32": (8, 0.2, "memory"),
    "accelerate_f32": (GATHERING, 0.5, "memory"),
    "adam_f32": (GATHERING, 0.6, "memory"),
    "separable_f32": (GATHERING + 4 * 256 * 3, 1, "L2: a column is read for each of its taps"),
    "band_rows": (0, 0.5, "L2: a column is read for each of its taps"),
    "band_cols": (GATHERING, 0.5, "L1: a row is read for each of its taps"),
    "filter_f32": (GATHERING, 0.5, "integers: the mirrored address of each tap"),
    "filter_adjoint_f32": (GATHERING, 0.5, "integers: the mirrored addresses of each tap"),
    "fft_f32": (16 * 1024, 2.5, "shared memory, and barriers between the factors"),
    "dft_f32": (0, 0.9, "memory"),
    "circle_in_f32": (16 * 960, 2.6, "shared memory, and barriers between the factors"),
    "circle_columns_f32": (16 * 2560, 3.5, "shared memory, and barriers between the factors"),
    "circle_out_f32": (16 * 960, 2.6, "shared memory, and barriers between the factors"),
    "pointwise_f32": (0, 0.1, "memory"),
    "sparse_f32": (GATHERING, 0.3, "memory: weights and columns"),
    "together_f32": (GATHERING, None, "its phases, and the meetings between them"),
}
THREADS = {"fft_f32": 128, "circle_in_f32": 128}  # where they are fewer than the most

TENSOR = ["kernel", "threads", "shared KB", "registers 8.0, 9.0", "blocks of a multiprocessor 8.0, 9.0", "of its warps", "FLOP/byte", "`HMMA`, `LDGSTS`, `LDSM`",
          "`HMMA` of all instructions", "of those of a turn of the loop 8.0, 9.0"]
PLAIN = ["kernel", "threads", "shared bytes", "registers 8.0, 9.0", "blocks of a multiprocessor 8.0, 9.0", "of its warps", "FLOP/byte", "instructions: arithmetic, memory, all", "bound by"]
ARITHMETIC = "FADD FMUL FFMA MUFU HADD2 HMUL2 HFMA2 DADD DMUL DFMA".split()
MEMORY = "LDG STG LDS STS LDGSTS LDSM ATOMG".split()


def tables(images, logs):
    """The kernels as tables in Markdown, those that multiply on tensor cores and the others: threads, shared memory as the sources'
    comments have it or OTHERS (tests compare both with what is launched), registers, blocks and warps of a multiprocessor, operations for
    each byte that is copied, and instructions of the machine code. What neither knows is a dash."""
    registers = {(arch, name): int(use.split()[0]) for arch in SHARED_KB for name, _, use in remarks(logs[arch])}
    code = {arch: disassembled(images[arch]) for arch in SHARED_KB}
    ptx = images["compute_80"].decode(errors="replace")
    shared = {}
    for name in sources()[0]:
        with open(os.path.join(FOLDER, name)) as f:
            shared.update(re.findall(r"^\w+\((\w+), .*\)\s+// .*?([\d.]+) KB", f.read(), re.M))
    tensor, plain = [], []
    for name in sorted(code["sm_80"]):
        all, turns = code["sm_80"][name], [turn(code[arch][name], "HMMA") for arch in SHARED_KB]
        threads = THREADS.get(name) or int(re.search(rf"\.entry {name}\(.*?\.maxntid (\d+)", ptx, re.S)[1])
        room, flop, bound = OTHERS.get(name, (None, intensity(name), "-"))
        hmma = count(all, "HMMA")
        kb = float(shared[name]) if name in shared else (room or 0) / 1024
        size = shared.get(name, room)
        used = [registers[arch, name] for arch in SHARED_KB]
        held = [blocks(arch, r, threads, kb) for arch, r in zip(SHARED_KB, used)]
        row = [f"`{name}`", f"{threads}", "-" if size is None else f"{size}", f"{used[0]}, {used[1]}", f"{held[0]}, {held[1]}",
               ", ".join(f"{h * threads / 2048:.0%}" for h in held), "-" if flop is None else f"{flop:.3g}"]
        if hmma:
            row += [", ".join(str(count(all, op)) for op in ("HMMA", "LDGSTS", "LDSM")), f"{hmma / len(all):.1%}",
                    ", ".join(f"{count(t, 'HMMA')} of {len(t)}" if t else "-" for t in turns)]
            tensor.append(row)
        else:
            plain.append(row + [f"{count(all, *ARITHMETIC)}, {count(all, *MEMORY)}, {len(all)}", bound])
    return [markdown(TENSOR, tensor), markdown(PLAIN, plain)]


def markdown(head, rows):
    lines = ["| " + " | ".join(row) + " |\n" for row in [head] + rows]
    return lines[0] + "|" + "---|" * len(head) + "\n" + "".join(lines[1:])


def documented(made):
    """docs/cuda.md with these tables in place of those with the same heads."""
    with open(DOCUMENT) as f:
        text = f.read()
    for table in made:
        head = table[:table.index("\n") + 1]
        if text.count(head) != 1:
            sys.exit(f"docs/cuda.md: expected one table with the head\n{head}")
        start = text.index(head)
        rest = re.match(r"(?:\|.*\n)*", text[start:]).end()
        text = text[:start] + table + text[start + rest:]
    return text


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]]()
