"""Compiles the CUDA kernels into the image that builds with the tag `cuda` embed (make -f kernels.mk image).

    python tools/cuda_image.py write     kernels/cuda/image.tar.zst and image.sum
    python tools/cuda_image.py check     registers, stack, spills and static shared memory; fails on spills and
                                         where wgmma wait for each other; and of the kernels that use tensor cores a table of what bounds them
    python tools/cuda_image.py verify    compiles and compares: the committed image is what these sources give

It needs two packages and neither a CUDA installation nor a GPU:

    pip install nvidia-cuda-nvrtc-cu12==12.4.127 zstandard

The compiler is that of CUDA 12.4 on purpose: its machine code runs on every driver of CUDA 12 and later, that of 13 does
not. The image holds machine code for each architecture below and, for later ones, PTX, which the driver translates. sm_90a is
for devices of capability 9.0 alone, beside sm_90: it holds the kernels whose instructions no other device has.
"""

import concurrent.futures
import ctypes
import glob
import hashlib
import io
import os
import re
import sys
import tarfile

FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kernels", "cuda")
COMPILER = (12, 4)
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "compute_80"]
FLAGS = ["--std=c++17", "--ptxas-options=-v"]


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
    """The archive of all images."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for arch, (image, _) in zip(ARCHITECTURES, compile_all(ARCHITECTURES)):
            info = tarfile.TarInfo(arch)
            info.size = len(image)
            t.addfile(info, io.BytesIO(image))
    return tar.getvalue()


def write():
    import zstandard

    tar = build()
    packed = zstandard.ZstdCompressor(level=19).compress(tar)
    with open(os.path.join(FOLDER, "image.tar.zst"), "wb") as f:
        f.write(packed)
    with open(os.path.join(FOLDER, "image.sum"), "w") as f:
        f.write(f"{fingerprint()}  sources\n{hashlib.sha256(packed).hexdigest()}  image.tar.zst\n")
    print(f"image.tar.zst: {len(packed) >> 10} KB, {len(tar) >> 10} KB unpacked")


def verify():
    import zstandard

    with open(os.path.join(FOLDER, "image.tar.zst"), "rb") as f:
        same = zstandard.ZstdDecompressor().decompress(f.read()) == build()
    sys.exit(None if same else "image.tar.zst is not what the sources give: make -f kernels.mk image")


def check():
    architectures, bad, registers = [a for a in ARCHITECTURES if a.startswith("sm_")], False, {}
    for arch, (_, log) in zip(architectures, compile_all(architectures)):
        for name, spills, use in re.findall(r"Function properties for (\w+)\s+(.*?)\n.*?Used (.*?)\n", log, re.S):
            spilled = int(re.search(r"(\d+) bytes spill stores", spills)[1])
            stack = re.search(r"(\d+) bytes stack frame", spills)
            print(f"{arch} {name:22} {use}" + (f"; STACK {stack[1]}" if stack and stack[1] != "0" else "") + (f"; SPILLS {spilled} bytes" if spilled else ""))
            bad |= spilled > 0
            registers[arch, name] = int(use.split()[0])
        if "Used " not in log:
            sys.exit(f"{arch}: the compiler tells nothing:\n{log}")
        if "wgmma" in log.replace("conv_wgmma", ""):  # instructions that it puts in a row, with the reason
            print(log)
            bad = True
    for name, _, counts in tensor_instructions(compiled("compute_90a")[0].decode(), "wgmma.mma_async", "cp.async.bulk.tensor", "mbarrier.try_wait"):
        print(f"compute_90a {name:22} " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    table(compiled("compute_80")[0].decode(), registers)
    sys.exit(bad)


def tensor_instructions(ptx, *names):
    """Kernels of the PTX that have the first of these instructions, with their bodies and the numbers of all, each as often as it is unrolled."""
    for name, body in re.findall(r"\.entry (\w+)\((.*?)(?=\.entry |\Z)", ptx, re.S):
        counts = {what: len(re.findall(r"\b" + re.escape(what) + r"\.", body)) for what in names}
        if counts[names[0]]:
            yield name, body, counts


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
    return {"flash": 64, "wide": 32}.get(name.split("_")[1], 0)  # the queries of a block, for which a key and a value are copied once


def table(ptx, registers):
    """Prints, as a table in Markdown, the kernels that use tensor cores: threads, shared memory as the sources' comments have it (a test
    compares them with what is launched), registers, blocks and warps of a multiprocessor, operations for each byte that is copied,
    and instructions in the PTX, each as often as it is unrolled."""
    shared = {}
    for name in sources()[0]:
        with open(os.path.join(FOLDER, name)) as f:
            shared.update(re.findall(r"^\w+\((\w+), .*\)\s+// .*?([\d.]+) KB", f.read(), re.M))
    print("| kernel | threads | shared KB | registers 8.0, 9.0 | blocks of a multiprocessor 8.0, 9.0 | of its warps | FLOP/byte | `mma.sync`, `cp.async`, `ldmatrix` | `mma.sync` of all instructions |")
    print("|" + "---|" * 9)
    for name, body, counts in tensor_instructions(ptx, "mma.sync", "cp.async.cg", "ldmatrix.sync"):
        threads, kb, all = int(re.search(r"\.maxntid (\d+)", body)[1]), float(shared[name]), len(re.findall(r"^\s+(?:@!?%p\d+ )?[a-z][\w.]*\s.*;", body, re.M))
        used = [registers[arch, name] for arch in SHARED_KB]
        held = [blocks(arch, r, threads, kb) for arch, r in zip(SHARED_KB, used)]
        print(f"| `{name}` | {threads} | {kb:g} | {used[0]}, {used[1]} | {held[0]}, {held[1]} | {held[0] * threads / 2048:.0%}, {held[1] * threads / 2048:.0%} "
              f"| {intensity(name):.0f} | {', '.join(map(str, counts.values()))} | {counts['mma.sync'] / all:.1%} |")


if __name__ == "__main__":
    {"write": write, "check": check, "verify": verify}[sys.argv[1]]()
