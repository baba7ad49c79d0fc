"""Checkpoints and lists of merges as nobody should make them: seeded, and read in processes of their own.

`python tests/fuzz_weights.py [inputs] [seed]` reads so many, and tells what came of them: each must load and answer, or
be refused in one sentence, in a second or so and in little memory.
"""

import gzip
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import save

from frames_matter.base.errors import UserError
from frames_matter.model.tokenizer import clip_tokenizer
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig
from frames_matter.model.weights import load_viclip

SMALL = ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 16, 300, 64, 1, 2)
SECONDS, MEGABYTES = 30, 700  # of one input; the memory beyond what is loaded before the first
ODD = (
    0,
    -1,
    1,
    2,
    3,
    7,
    10**6,
    10**9,
    2**31,
    2**63,
    10**40,
    1.5,
    "64",
    "",
    None,
    True,
    [],
    {},
    [1],
    "\ud800",
    "\x1b[2J",
)
MARKS = [f"resblocks.{n}." for n in ("999999999", "-1", "01", "9" * 5000, "²", "", "x", "1e9")]


def tensors_of_a_model() -> dict:
    torch.manual_seed(0)
    return {name: torch.randn_like(t) for name, t in ViCLIP(SMALL).state_dict().items()}


def pickled(content, zipped=True) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def odd_tensor(rng, t):
    "Something that is a tensor, and not as the others are."
    size = rng.choice([0, 1, 10**5])
    return rng.choice(
        [
            lambda: t.to_sparse(),
            lambda: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), [1.0], (10**9, 10**9)),
            lambda: torch.empty(10**6, 10**6, device="meta"),
            lambda: torch.empty_like(t, device="meta"),
            lambda: torch.zeros(1).expand(size, 10**6),
            lambda: torch.zeros(1).half().expand(10**5, 10**6),
            lambda: torch.zeros([1] * rng.choice([0, 7, 63])),
            lambda: torch.zeros((0, 10**12)),
            lambda: torch.zeros((size, 0)),
            lambda: t.long(),
            lambda: t > 0,
            lambda: t.to(torch.complex64),
            lambda: t.to(rng.choice([torch.float8_e4m3fn, torch.bfloat16, torch.float64])),
            lambda: torch.zeros(t.shape, dtype=torch.uint8).view(torch.float8_e8m0fnu),
            lambda: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8),
            lambda: t.clone().fill_(rng.choice([float("nan"), float("inf"), -float("inf")])),
            lambda: t.double() * 1e300,
            lambda: t.transpose(0, -1) if t.ndim else t,
            lambda: t.unsqueeze(0),
            lambda: t.flatten()[:1],
        ]
    )()


def other_tensors(rng, safe=False) -> dict:
    "A model's tensors, some of them changed, renamed, lost or many more."
    whole = tensors_of_a_model()
    tensors = dict(whole)
    for _ in range(rng.choice([1, 1, 2, 5])):
        name, what = rng.choice([name for name in whole if name in tensors]), rng.randrange(7)
        if what < 3:
            tensors[name] = odd_tensor(rng, whole[name])
        elif what == 3:
            tensors.pop(name)
        elif what == 4:
            tensors[name.replace("resblocks.1.", rng.choice(MARKS))] = tensors.pop(name)
        elif what == 5:
            blocks = rng.choice([3, 1000, 20_000])
            tensors |= {f"text_encoder.transformer.resblocks.{n}.ln_1.bias": torch.zeros(1) for n in range(blocks)}
        else:
            tensors[rng.choice(["\x1b[31m", "a" * 10**5, "модель", "module.module.", "\n"]) + name] = torch.zeros(1)
    if safe:  # what the format can hold
        kept = {n: t for n, t in tensors.items() if t.layout == torch.strided and not t.is_meta and not t.is_quantized}
        tensors = {n: t.contiguous().clone() for n, t in kept.items() if t.numel() < 10**6}
    return tensors


def odd_config(rng) -> str:
    sizes = dict(vars(SMALL))
    for _ in range(rng.choice([1, 2, 4])):
        sizes[rng.choice([*sizes])] = rng.choice(ODD)
    whole = json.dumps(sizes)
    nested = "[" * 10**5 + "]" * 10**5
    return rng.choice(
        [whole, whole, whole, whole[:-5], nested, '{"a": ' * 5000, "null", "7", "NaN", '{"image_size": NaN}', "[]", ""]
        + ['{"vision_layers": ' + "9" * 5000 + "}", json.dumps(sizes | {"\x1b[31m": 1}), json.dumps([sizes])]
    )


def safetensors(rng) -> bytes:
    if rng.random() < 0.5:
        return save(tensors_of_a_model(), metadata={"config": odd_config(rng)})
    return save(
        other_tensors(rng, safe=True), metadata={"config": json.dumps(vars(SMALL))} if rng.random() < 0.5 else {}
    )


def other_header(rng) -> bytes:
    "A safetensors file whose header says something else than what is there."
    data = save(tensors_of_a_model())
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    entry = header[rng.choice([*header])]
    entry[rng.choice([*entry])] = rng.choice([*ODD, [0], [10**12, 10**12], [2**62, 4], "F8_E8M0", "F4", "BOOL", "X"])
    text = json.dumps(header).encode()
    return struct.pack("<Q", rng.choice([len(text), len(text), 0, 2**63, len(text) + 1])) + text + data[8 + n :]


def checkpoint(rng) -> bytes:
    beside = {rng.choice(["epoch", "optimizer", "model_ema"]): rng.choice([1, "a", [1, {"b": torch.zeros(2)}], None])}
    tensors = other_tensors(rng)
    content = rng.choice([{"model": tensors} | beside, {"model": tensors}, tensors])
    content = rng.choice(
        [content] * 6 + [list(tensors), {"model": [1]}, {1: torch.zeros(1)}, {"model": {(1, 2): 3}}, 7]
    )
    return pickled(content, zipped=rng.random() < 0.7)


def damaged(rng) -> bytes:
    "A whole file, some of whose bytes are others, or lost."
    whole = [lambda: pickled({"model": tensors_of_a_model()}), lambda: save(tensors_of_a_model())]
    data = bytearray(rng.choice([*whole, lambda: pickled({"model": tensors_of_a_model()}, zipped=False)])())
    heads = [range(64), range(4096), range(len(data) - 4096, len(data)), range(len(data))]  # where the structure is
    for _ in range(rng.choice([1, 4, 40])):
        data[rng.choice(rng.choice(heads))] = rng.randrange(256)
    return bytes(data[: rng.choice([len(data)] * 3 + [rng.randrange(len(data))])])


def pickle_of_opcodes(rng) -> bytes:
    "A zip whose pickle is other opcodes than torch's: bytes flipped, huge numbers put in, or memory asked for."
    source, out = zipfile.ZipFile(io.BytesIO(pickled({"model": tensors_of_a_model()}))), io.BytesIO()
    compression = rng.choice([zipfile.ZIP_STORED] * 4 + [zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(out, "w", compression) as target:
        for entry in source.namelist():
            data = bytearray(source.read(entry))
            if entry.endswith("data.pkl"):
                for _ in range(rng.choice([1, 2, 20])):
                    at = rng.randrange(len(data))
                    data[at : at + rng.choice([0, 1, 4])] = rng.choice(
                        [
                            bytes([rng.randrange(256)]),
                            b"J\xff\xff\xff\x7f",
                            b"M\xff\xff",
                            b"K\x00",
                            b"(",
                            b"t",
                            b"q\xff",
                        ]
                    )
                if rng.random() < 0.2:
                    data = bytearray(b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
                if rng.random() < 0.1:
                    data = bytearray(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".")
            if compression and rng.random() < 0.1:
                data += bytes(10**8)
            target.writestr(entry, bytes(data))
    return out.getvalue()


def merges(rng) -> bytes:
    "A list of merges that is none, or not this model's."
    with gzip.open(Path(load_viclip.__globals__["ASSETS"]) / "nano_bpe.txt.gz") as file:
        lines = file.read().split(b"\n")
    for _ in range(rng.choice([1, 3])):
        at = rng.randrange(len(lines) + 1)
        lines[at : at + rng.choice([0, 1, 500])] = rng.choice(
            [[b""], [b"a b c"], [b"zz qq"], [b"\xff\xfe"], [b"x"], []]
        )
    text = rng.choice([b"\n".join(lines)] * 4 + [b"", b"\n", b"#version\n", bytes(3 * 10**7), b"a b\n" * 10**6])
    data = gzip.compress(text, 1)
    return rng.choice([data] * 5 + [text[: 10**6], data[: len(data) // 2], data[:-4] + b"\0\0\0\0", b""])


KINDS = {
    "config.safetensors": safetensors,
    "header.safetensors": other_header,
    "tensors.pth": checkpoint,
    "damaged.pth": damaged,
    "damaged.safetensors": damaged,
    "opcodes.pth": pickle_of_opcodes,
    "merges.txt.gz": merges,
}


def make(seed: int, folder: Path) -> Path:
    "The input of a seed, as a file."
    rng = random.Random(seed)
    name = [*KINDS][seed % len(KINDS)]
    path = folder / f"{seed}_{name}"
    path.write_bytes(KINDS[name](rng))
    return path


def read(path: Path) -> str:
    'What comes of an input: "loaded", "refused", or what should not have happened.'
    try:
        if path.suffix == ".gz":
            tokenize = clip_tokenizer(str(path))
            assert tokenize(["a dog"]).max() < tokenize.vocab_size
            return "loaded"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = load_viclip(path)
            size, tokens = model.config.image_size, torch.tensor([[1, 2, 0]]) % model.config.vocab_size
            answers = model.encode_video(torch.zeros(1, 2, 3, size, size)), model.encode_text(tokens)
            assert all(a.isfinite().all() for a in answers), "answers NaN"
        return "loaded"
    except UserError as e:
        told = str(e)
        short = len(told) < 4000 and told.isprintable()
        return "refused" if short else f"refused, but with {len(told)} characters: {ascii(told[:200])}"
    except BaseException as e:  # a panic of a library in Rust is no Exception
        return f"{type(e).__name__}: {ascii(str(e)[:200])}"


def _serve(pipe, megabytes):
    "Read what paths come, and tell; the memory is limited."
    load_viclip("nano")
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    while path := pipe.recv():
        told = read(path)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - start
        pipe.send(told if grown < megabytes else f"took {grown} MB ({told})")


class Reader:
    "A process that reads inputs; one that hangs or dies is told and made anew."

    def __init__(self):
        self.process = None

    def __call__(self, path: Path) -> str:
        if self.process is None:
            context = get_context("spawn")
            self.pipe, end = context.Pipe()
            self.process = context.Process(target=_serve, args=(end, MEGABYTES), daemon=True)
            self.process.start()
            end.close()
        self.pipe.send(path)
        try:
            if self.pipe.poll(SECONDS):
                return self.pipe.recv()
            told = f"hung for {SECONDS} s"
        except EOFError:
            self.process.join()
            told = f"ended the process ({self.process.exitcode})"
        self.close()
        return told

    def close(self):
        "End the process."
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def fuzz(seeds, tell=None) -> dict[int, str]:
    "What came of the inputs of these seeds."
    found, reader = {}, Reader()
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            path, start = make(seed, Path(folder)), time.monotonic()
            found[seed] = reader(path)
            if tell and (found[seed] not in ("loaded", "refused") or time.monotonic() - start > 5):
                tell(f"{path.name}: {found[seed]} ({time.monotonic() - start:.1f} s)")
            path.unlink()
    reader.close()
    return found


if __name__ == "__main__":
    inputs, first = (int(x) for x in [*sys.argv[1:], "400", "0"][:2]) if len(sys.argv) != 2 else (int(sys.argv[1]), 0)
    print(Counter(fuzz(range(first, first + inputs), tell=print).values()))
