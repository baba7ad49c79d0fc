"Checkpoints and lists of merges as nobody should make them, and pickles that would run code."

import gzip
import io
import json
import pickle
import struct
import zipfile

import torch
from safetensors.torch import save

from frames_matter.model.tokenizer import clip_tokenizer
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig
from frames_matter.model.weights import ASSETS, load_viclip, read_config

SMALL = ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 16, 300, 64, 1, 2)
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
    with gzip.open(ASSETS / "nano_bpe.txt.gz") as file:
        lines = file.read().split(b"\n")
    for _ in range(rng.choice([1, 3])):
        at = rng.randrange(len(lines) + 1)
        lines[at : at + rng.choice([0, 1, 500])] = rng.choice(
            [[b""], [b"a b c"], [b"zz qq"], [b"\xff\xfe"], [b"x"], []]
        )
    text = rng.choice([b"\n".join(lines)] * 12 + [b"", b"\n", b"#version\n", bytes(3 * 10**7), b"a b\n" * 10**6])
    data = gzip.compress(text, 1)
    return rng.choice([data] * 12 + [text[: 10**6], data[: len(data) // 2], data[:-4] + b"\0\0\0\0", b""])


class Runs:
    "Would make a file if it were unpickled."

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


CALLS = ("os system", "posix system", "builtins exec", "builtins eval", "subprocess Popen", "torch load", "nt system")


def pickle_that_runs(rng, cell) -> bytes:
    "A checkpoint that makes a file, or calls a program, if it is unpickled as Python likes to."
    tensors = tensors_of_a_model()
    name = rng.choice([*tensors])
    content = rng.choice(
        [
            lambda: {"model": tensors, "beside": Runs(cell.canary)},
            lambda: {"model": tensors | {name: Runs(cell.canary)}},
            lambda: {"model": tensors | {Runs(cell.canary): tensors[name]}},
            lambda: Runs(cell.canary),
        ]
    )()
    if rng.random() < 0.5:
        return pickled(content, zipped=rng.random() < 0.7)
    call = rng.choice(CALLS).replace(" ", "\n")
    argument = f"touch {cell.canary}" if "exec" not in call else f"open({str(cell.canary)!r}, 'w')"
    bare = f"c{call}\n(V{argument}\ntR.".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", rng.choice([bare, b"\x80\x02" + bare, pickle.dumps(content)]))
        file.writestr("archive/version", "3")
        if rng.random() < 0.3:  # as TorchScript has it
            file.writestr("archive/constants.pkl", bare)
            file.writestr("archive/code/a.py", argument)
    return rng.choice([out.getvalue(), bare, pickle.dumps(content)])


INDEX = dict(metadata=dict(total_size=1), weight_map={"vision_encoder.proj": "../../evil.safetensors"})


def _shards(rng) -> bytes:
    "An index of shards, which is no checkpoint."
    return json.dumps(INDEX).encode()


WRITERS = {  # ending -> what a file of it may be
    ".safetensors": (safetensors, safetensors, other_header, damaged, _shards),
    ".pth": (checkpoint, checkpoint, damaged, pickle_of_opcodes, _shards),
}


def _loaded(path):
    "Load a model and let it answer."
    with torch.no_grad():
        model = load_viclip(path)
        assert model.config == read_config(path)
        size, tokens = model.config.image_size, torch.tensor([[1, 2, 0]]) % model.config.vocab_size
        answers = model.encode_video(torch.zeros(1, 2, 3, size, size)), model.encode_text(tokens)
        assert all(a.isfinite().all() for a in answers), "answers NaN"


def _file(cell, name, data):
    path = cell.given / name
    path.write_bytes(data)
    return path


def checkpoint_file(rng, cell):
    "A checkpoint whose tensors, header, pickle or configuration say other things than they should."
    suffix = rng.choice([*WRITERS])
    path = _file(cell, f"model{suffix}", rng.choice(WRITERS[suffix])(rng))
    return lambda: _loaded(path)


def pickle_file(rng, cell):
    "A pickle that would run code."
    path = _file(
        cell, rng.choice(["model.pth", "model.pt", "model.bin", "model.safetensors"]), pickle_that_runs(rng, cell)
    )
    return lambda: _loaded(path)


def merges_file(rng, cell):
    "A list of merges that is none, or another model's."
    path = _file(cell, "merges.txt.gz", merges(rng))

    def call():
        tokenize = clip_tokenizer(str(path))
        assert tokenize(["a dog"]).max() < tokenize.vocab_size

    return call
