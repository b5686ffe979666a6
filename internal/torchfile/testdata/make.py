"""Makes the files in good/: checkpoints as torch.save writes them, and what they hold as safetensors.

    python internal/torchfile/testdata/make.py        needs torch, numpy and safetensors

The classes of training frameworks are stand-ins with the same names: only their names are in a pickle.
"""
import argparse
import collections
import os
import pathlib
import sys
import types

import numpy
import torch
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "good")


def stand_in(module, name, base=object):
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        path = ".".join(parts[:i])
        sys.modules.setdefault(path, types.ModuleType(path))
        if i > 1:
            setattr(sys.modules[".".join(parts[: i - 1])], parts[i - 1], sys.modules[path])
    cls = type(name, (base,), {"__module__": module})
    setattr(sys.modules[module], name, cls)
    return cls


ModelCheckpoint = stand_in("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
AttributeDict = stand_in("pytorch_lightning.utilities.parsing", "AttributeDict", dict)
ListConfig = stand_in("omegaconf.listconfig", "ListConfig")
DictConfig = stand_in("omegaconf.dictconfig", "DictConfig")
AnyNode = stand_in("omegaconf.nodes", "AnyNode")
Metadata = stand_in("omegaconf.base", "ContainerMetadata")


def flatten(v, name, out):
    if isinstance(v, torch.Tensor):
        out[name] = v.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
    elif isinstance(v, dict):
        for k, w in v.items():
            if isinstance(k, (str, int)):
                flatten(w, (name + "." if name else "") + str(k), out)
    elif isinstance(v, (list, tuple)):
        for i, w in enumerate(v):
            flatten(w, (name + "." if name else "") + str(i), out)
    return out


def save(name, obj, **how):
    torch.save(obj, os.path.join(OUT, name), **how)


def expect(name, obj):
    save_file(flatten(obj, "", {}), os.path.join(OUT, name + ".safetensors"))


def views():
    g = torch.Generator().manual_seed(1)
    a = torch.randn(6, 8, generator=g)
    b = torch.randn(2, 3, 4, 5, 2, generator=g)
    h = torch.randn(7, 9, generator=g).half()
    c = torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5)
    d = torch.randn(5, 6, generator=g, dtype=torch.float64)
    return {
        "whole": a, "rows": a[2:5], "columns": a[:, 1:7:2], "transposed": a.t(), "column": a[:, 3], "element": a[4, 5],
        "empty": a[3:3], "empty_3d": torch.zeros(2, 0, 3), "scalar": torch.tensor(2.5), "no_storage": torch.empty(0),
        "permuted": b.permute(4, 2, 0, 3, 1), "outer": b[1], "inner": b[..., 1], "middle": b[:, 1:3, ::2],
        "expanded": a[1].expand(3, 8), "expanded_scalar": torch.tensor(1.5).expand(2, 3, 2), "expanded_column": a[:, :1].expand(6, 4),
        "overlapping": a.flatten().as_strided((5, 4), (2, 1), 3), "diagonal": a.diagonal(1), "ones": a[:1, None, :1, None],
        "channels_last": torch.randn(2, 3, 4, 4, generator=g).to(memory_format=torch.channels_last),
        "half_transposed": h.t(), "half_columns": h[:, ::3], "bytes": c.transpose(0, 2), "bytes_column": c[:, :, 1],
        "double_transposed": d.t(), "brain": torch.randn(4, 3, generator=g).bfloat16().t(), "unfold": torch.arange(10.0).unfold(0, 4, 3),
    }


def dtypes():
    out = {}
    for name in ("float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 uint16 uint32 uint64 "
                 "float8_e4m3fn float8_e5m2").split():
        t = torch.tensor([0, 1, 2, 3, 100, 1]).to(torch.float32)
        if name == "bool":
            t = t > 1
        out[name] = t.to(getattr(torch, name))
        out[name + "_view"] = out[name].reshape(2, 3).t() if "float8" not in name else out[name][2:]
    out["special"] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42, 3.4e38])
    return out


def network():
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Sequential(torch.nn.Linear(3, 2)))


def training():
    net = network()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for p in net.parameters():
        p.grad = torch.full_like(p, 0.5)
    opt.step()
    config = DictConfig()
    config.__dict__.update(_metadata=Metadata(), _content={"a": AnyNode(), "b": [1, 2]}, _parent=None)
    items = ListConfig()
    items.__dict__.update(_content=[AnyNode(), config])
    shared = {"x": torch.ones(2)}
    counted = collections.defaultdict(list)
    counted["losses"] = [0.5] * 70
    counted["tensor"] = torch.tensor([7, 8])
    return {
        "epoch": 3, "global_step": 123456789012, "pytorch-lightning_version": "1.4.2", "scale_factor": 0.18215, "flag": True,
        "none": None, "big": 2**70, "negative": -5, "negative_long": -(2**40), "min": -(2**63), "text": "caf\u00e9 \U0001f600",
        "state_dict": net.state_dict(), "ema": {k.replace(".", ""): v.detach().clone() for k, v in net.named_parameters()},
        "optimizer_states": [opt.state_dict()], "lr_schedulers": [],
        "callbacks": {ModelCheckpoint: {"best": torch.tensor(0.25), "path": pathlib.PurePosixPath("a/b"), "score": 0.25}},
        "hyper_parameters": AttributeDict(channel_mult=[1, 2, 4], config=config, items=items, lr=2e-6),
        "numpy": numpy.float64(0.5), "size": torch.Size([2, 3]), "device": torch.device("cpu"), "dtype": torch.float16,
        "set": {1, 2}, "frozen": frozenset([3]), "raw": b"\x00\xff", "array": bytearray(b"ab"), "complex": 1 + 2j,
        "namespace": argparse.Namespace(a=1), "counted": counted, "counter": collections.Counter("aab"),
        "parameters": [torch.nn.Parameter(torch.arange(3.0)), (torch.nn.Parameter(torch.arange(4.0).reshape(2, 2).t(), False),)],
        "aliased": [shared, shared], "integer_keys": {0: torch.zeros(1), 7: {"a": torch.ones(1)}}, ("a", 1): torch.zeros(9),
    }


def main():
    os.makedirs(OUT, exist_ok=True)
    for name, obj in (("views", views()), ("dtypes", dtypes()), ("training", training()), ("state_dict", network().state_dict())):
        expect(name, obj)
        save(name + ".pt", obj)
        if name != "dtypes":
            save(name + "_stream.pt", obj, _use_new_zipfile_serialization=False)
    save("dtypes_stream.pt", {k: v for k, v in dtypes().items() if "uint" not in k and "float8" not in k or "uint8" in k},
         _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        save("training_protocol%d.pt" % protocol, training(), pickle_protocol=protocol)
        save("training_stream_protocol%d.pt" % protocol, training(), pickle_protocol=protocol, _use_new_zipfile_serialization=False)


main()
