#!/usr/bin/env python3
"""Compares which mutated safetensors files this project's reader and the safetensors package from PyPI accept.

    pip install safetensors numpy
    python tools/differential.py [--count 20000] [--seed 1]

Run it in the module's folder. It prints the differences by reason, and fails where this reader accepts what the reference
refuses, or is stricter for a reason that is not in the list of intended differences (docs/security.md).
"""
import argparse, collections, json, os, random, re, struct, subprocess, sys, tempfile

import safetensors

INTENDED = {  # what our message says -> why it is meant
    "leading space": r"must start with|begin with|'\{'|found ' '|expected '\{'",
    "duplicate keys": r"twice|duplicate",
    "two entries of one name share their bytes": r"overlap another tensor",  # accepted only where the file has duplicates
    "element types of less than a byte": r'unknown dtype \\?"F[46]',
    "dimension of 2^63 and more": r"does not fit in 63 bits",
}


def seed_header(rng):
    offset, h = 0, {}
    for i in range(rng.randint(0, 4)):
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
        dtype, size = rng.choice([("F32", 4), ("F16", 2), ("BF16", 2), ("U8", 1), ("I64", 8), ("BOOL", 1), ("F64", 8)])
        n = size
        for s in shape:
            n *= s
        h[f"t{i}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + n]}
        offset += n
    if rng.random() < 0.5:
        h["__metadata__"] = {"format": "pt", "k": "v"}
    return h, offset


def mutate(rng):
    h, size = seed_header(rng)
    text = json.dumps(h, separators=(",", ":")) if rng.random() < 0.7 else json.dumps(h)
    kind = rng.randrange(12)
    if kind < 3 and text:  # bytes changed, removed or put in
        for _ in range(rng.randint(1, 2)):
            i = rng.randrange(len(text))
            c = rng.choice('{}[]",:0123456789-+.eE \n\ttrufalsn\\uDFI_x')
            text = text[:i] + rng.choice(["", c, text[i] + c]) + text[i + 1:]
    elif kind == 3:
        text = rng.choice([" ", "\n", "\t", "  "]) + text
    elif kind == 4:
        text += rng.choice([" ", "\n", "   ", "\0", "x", "}"])
    elif kind == 5 and h:  # a name or a field given twice
        name = rng.choice(list(h))
        text = text[:-1] + "," + json.dumps(name) + ":" + json.dumps(h[name]) + "}"
    elif kind == 6:  # a number changed
        numbers = list(re.finditer(r"\d+", text))
        if numbers:
            m = rng.choice(numbers)
            text = text[:m.start()] + str(rng.choice([0, 1, 2, 4, 8, 2**31, 2**32, 2**63, 2**64, -1, 1e3])) + text[m.end():]
    elif kind == 7:
        size += rng.choice([-1, 1, 4, 100])
    elif kind == 8:
        text = text.replace('"F32"', rng.choice(['"F33"', '"f32"', "32", "null", '"F8_E4M3"']))
    elif kind == 9:
        text = text.replace("data_offsets", rng.choice(["data_offset", "data_offsets ", "shape"]), 1)
    elif kind == 10:
        text = text.replace('"pt"', rng.choice(["1", "null", "[]", '{"a":1}', '"\\ud800"', '"\\u0000"']))
    elif kind == 11 and h:
        text = text.replace('"dtype"', '"extra":' + rng.choice(["1", "null", "[[]]", '{"a":{}}']) + ',"dtype"', 1)
    raw = text.encode("utf-8", "surrogatepass")
    n = len(raw)
    if rng.random() < 0.05:
        n = rng.choice([0, 1, n - 1, n + 1, 2**31, 2**63, 100_000_001])
    return struct.pack("<Q", n & (2**64 - 1)) + raw + bytes(max(size, 0))


def has_duplicates(data):
    found = []
    def pairs(p):
        found.append(len(p) != len({k for k, _ in p}))
        return dict(p)
    json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]], object_pairs_hook=pairs)
    return any(found)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=20000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    rng = random.Random(a.seed)
    theirs = {}
    with tempfile.TemporaryDirectory() as d:
        for i in range(a.count):
            data = mutate(rng)
            name = f"{i:06d}"
            with open(os.path.join(d, name), "wb") as f:
                f.write(data)
            try:
                safetensors.deserialize(data)
                theirs[name] = ""
            except Exception as e:
                theirs[name] = str(e) or type(e).__name__
        out = subprocess.run(["go", "run", "./tools/differential", d], check=True, capture_output=True, text=True).stdout
        both, bad, stricter, examples = collections.Counter(), [], collections.Counter(), {}
        for line in out.splitlines():
            name, verdict, err = line.split("\t")
            ours, ref = verdict == "accepted", theirs[name] == ""
            both[(ours, ref)] += 1
            if ours and not ref:
                bad.append((name, theirs[name], open(os.path.join(d, name), "rb").read()[:200]))
            if ref and not ours:
                reason = next((k for k, v in INTENDED.items() if re.search(v, err)), None) or "NOT INTENDED: " + err
                if "share" in reason and not has_duplicates(open(os.path.join(d, name), "rb").read()):
                    reason = "NOT INTENDED: " + err
                stricter[reason] += 1
    print(f"{a.count} files: both accept {both[(True, True)]}, both refuse {both[(False, False)]}, "
          f"only the reference accepts {both[(False, True)]}, only this reader accepts {both[(True, False)]}")
    for reason, n in stricter.most_common():
        print(f"  stricter: {n:6d} {reason}")
    for name, why, data in bad[:10]:
        print(f"  accepted against the reference: {name}: {why}: {data!r}")
    if bad or any(r.startswith("NOT") for r in stricter):
        sys.exit(1)


if __name__ == "__main__":
    main()
