"""Checkpoints: B/16 and L/14 at full size with random numbers, loaded, run and saved back; memory; the hub's client."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from collections import OrderedDict
from hashlib import sha256

import pytest
import torch
from hub_server import COMMIT, serve_hub
from published_shapes import published_config, published_shapes
from safetensors.torch import load_file, save_file

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig
from frames_matter.model.weights import load_viclip, load_weights, read_config, save_viclip, weights_of

SMALL = ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 16, 300, 64, 1, 2)


@pytest.fixture()
def state():
    return {k: torch.randn_like(v) for k, v in ViCLIP(SMALL).state_dict().items()}


def random_checkpoint(golden, name, path):
    "A checkpoint with the real one's names and shapes and random numbers."
    numbers = torch.Generator().manual_seed(0)
    tensors = OrderedDict(
        (k, torch.empty(v).uniform_(-0.03, 0.03, generator=numbers)) for k, v in published_shapes(golden, name).items()
    )
    if path.suffix == ".pth":
        torch.save({"model": tensors}, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})
    return len(tensors)


# Run in a process of its own: load, measure, touch every number, one forward pass of each tower, save back, compare.
ROUND = """
import json, sys, torch
from safetensors import safe_open
from frames_matter.model.weights import load_viclip, save_viclip
torch.set_num_threads(1)
def peak(): # bytes: of this process since it was started; ru_maxrss would also count the one it was forked from
    return 1024*int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
source, back = sys.argv[1:]
load_viclip("nano"); torch.zeros(64, 64)@torch.zeros(64, 64)  # what is imported and set up on the first use of all
before = peak()
model = load_viclip(source)
total = sum(float(p.detach().flatten()[::512].sum()) for p in model.parameters())  # every page of the file is read
grown = peak() - before
with torch.no_grad():
    size = model.config.image_size
    video = model.encode_video(torch.randn(1, model.config.num_frames, 3, size, size), mask_ratio=0.9)
    text = model.encode_text(torch.tensor([[49406, 320, 1929, 49407] + [0]*28]))
assert video.shape == text.shape == (1, model.config.embed_dim) and video.isfinite().all() and text.isfinite().all()
save_viclip(model, back)
original = torch.load(source, weights_only=True, mmap=True)["model"] if source.endswith(".pth") else None
with safe_open(back, "pt") as saved, (safe_open(source, "pt") if original is None else saved) as given:
    get = given.get_tensor if original is None else original.__getitem__
    names = set(given.keys()) if original is None else set(original)
    assert set(saved.keys()) == names
    for k in names: assert saved.get_tensor(k).dtype == get(k).dtype and torch.equal(saved.get_tensor(k), get(k)), k
print(json.dumps({"grown": grown, "config": vars(model.config), "tensors": len(names)}))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
@pytest.mark.parametrize("name, suffix, tensors", [("b", ".safetensors", 303), ("b", ".pth", 303), ("l", ".pth", 447)])
def test_full_size_checkpoints_load_run_and_save_back(golden, tmp_path, name, suffix, tensors):
    path = tmp_path / f"viclip_{name}{suffix}"
    assert random_checkpoint(golden, name, path) == tensors
    size = path.stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", ROUND, str(path), str(tmp_path / "back.safetensors")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for file in (path, tmp_path / "back.safetensors"):
        file.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name}{suffix}: file {size / 1e6:.0f} MB, memory {found['grown'] / 1e6:.0f} MB, "
        f"{found['grown'] / size:.2f} of the file"
    )
    assert found["tensors"] == tensors and found["grown"] < 1.3 * size, f"{found['grown'] / size:.2f} of the file"
    assert found["config"] == published_config(name)


def test_what_does_not_fit_is_named(state, tmp_path):
    torch.save(
        {
            "model": {k: v for k, v in state.items() if "ln_pre" not in k}
            | {"head.weight": torch.zeros(3), "text_encoder.ln_final.bias": torch.zeros(9)}
        },
        tmp_path / "x.pth",
    )
    with pytest.raises(UserError) as e:
        load_viclip(tmp_path / "x.pth")
    for said in (
        "missing: vision_encoder.ln_pre.weight, vision_encoder.ln_pre.bias;",
        "not expected: head.weight;",
        "of another shape: text_encoder.ln_final.bias (9,) for (64,)",
    ):
        assert said in str(e.value)
    torch.save({"model": {k: v for k, v in state.items() if ".1." not in k}}, tmp_path / "cut.pth")
    with pytest.raises(UserError, match="missing: vision_encoder.transformer.resblocks.1.attn"):
        load_viclip(tmp_path / "cut.pth", config=SMALL)
    torch.save({"model": state | {f"extra.{i}": torch.zeros(1) for i in range(500)}}, tmp_path / "many.pth")
    with pytest.raises(UserError, match="extra.19 and 480 more"):
        load_viclip(tmp_path / "many.pth")


@pytest.mark.parametrize(
    "content",
    [
        lambda s: {"model": s | {"note": "text"}},
        lambda s: s | {"epoch": 3},
        lambda s: {"model": s | {"numbers": [1, 2]}},
        lambda s: list(s.values()),
        lambda s: {"model": {}},
        lambda s: {"model": s, "args": __import__("argparse").Namespace(lr=1)},
    ],
    ids=["text", "among", "list", "unnamed", "empty", "object"],
)
def test_anything_but_tensors_is_refused(state, tmp_path, content):
    torch.save(content(state), tmp_path / "x.pth")
    with pytest.raises(UserError) as e:
        load_viclip(tmp_path / "x.pth")
    assert "x.pth" in str(e.value) and "\n" not in str(e.value)


def trained_state(model):
    "The state of an optimizer that has made a step: tensors, numbers and lists, nested."
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.encode_video(torch.randn(2, 4, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        lambda: {"epoch": 3},
        lambda: {"epoch": 3, "loss": 0.25, "best": True, "note": "fine-tuned, epoch 3", "scheduler": None},
        lambda: {"optimizer": trained_state(ViCLIP(SMALL))},
        lambda: {
            "args": {"data": ["a.csv", "b.csv"], "lr": {"vision": 1e-5, "text": [0, (1, 2.5)]}, "shape": (8, 224)}
        },
        lambda: {"ema": OrderedDict(weight=torch.zeros(3)), "rng": torch.get_rng_state(), "sizes": torch.Size([1, 2])},
    ],
    ids=["epoch", "numbers and text", "optimizer", "nested", "tensors"],
)
def test_what_lies_harmless_beside_the_model_is_left_alone(state, tmp_path, beside, zipped):
    "Whatever `weights_only=True` reads, as the original, which takes ['model'] and ignores the rest."
    torch.save({"model": state} | beside(), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    model = load_viclip(tmp_path / "x.pth")
    assert model.config == SMALL and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_code_beside_the_model_is_refused_and_not_run(state, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for beside in ({"evil": Evil()}, {"args": {"nested": [Evil()]}}):
        torch.save({"model": state, "epoch": 3} | beside, tmp_path / "evil.pth")
        with pytest.raises(UserError, match="could run code"):
            load_viclip(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_the_old_kind_is_read_and_one_with_code_is_not_run(state, tmp_path):
    torch.save({"model": state}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert all(torch.equal(v, state[k]) for k, v in load_viclip(tmp_path / "old.pth").state_dict().items())

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for new in (True, False):
        torch.save({"model": state | {"evil": Evil()}}, tmp_path / "evil.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(UserError, match="could run code"):
            load_viclip(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_one_sentence(state, tmp_path, suffix):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"x{suffix}"
    torch.save({"model": state}, whole) if suffix == ".pth" else save_file(state, whole)
    data = whole.read_bytes()
    for damaged in (b"", b"not a checkpoint at all", data[:100], data[: len(data) // 2], data[:-10]):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as e:
            load_viclip(path)
        assert path.name in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_a_wrappers_prefix_is_taken_off_and_said(state, tmp_path, prefix):
    save_file({prefix + k: v for k, v in state.items()}, tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match=prefix):
        model = load_viclip(tmp_path / "x.safetensors")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    save_file({(prefix if i else "") + k: v for i, (k, v) in enumerate(state.items())}, tmp_path / "mixed.safetensors")
    with pytest.raises(UserError, match="Not a ViCLIP|not expected"):
        load_viclip(tmp_path / "mixed.safetensors")


def test_other_numbers_of_frames_are_interpolated_and_said(state, tmp_path):
    torch.save({"model": state}, tmp_path / "x.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_viclip(tmp_path / "x.pth")
        with torch.no_grad():
            model.encode_video(torch.zeros(1, 4, 3, 32, 32)), model.encode_video(torch.zeros(1, 1, 3, 32, 32))
    with pytest.warns(UserWarning, match="4 temporal positions; they are interpolated to 12"):
        longer = load_viclip(tmp_path / "x.pth", config=dataclasses.replace(SMALL, num_frames=12))
    video = torch.randn(1, 12, 3, 32, 32)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="12 frames and the model 4"):
            at_once = model.encode_video(video)
        assert torch.allclose(longer.encode_video(video), at_once, atol=1e-6)
    known = model.vision_encoder.temporal_positional_embedding[0].detach()
    assert torch.allclose(
        longer.vision_encoder.temporal_positional_embedding[0, 1::3].detach(), known, atol=1e-6
    )  # the middle of each three is what was learnt


def test_half_precision_is_read_as_float32(state, tmp_path):
    save_file({k: v.bfloat16() for k, v in state.items()}, tmp_path / "x.safetensors")
    model = load_viclip(tmp_path / "x.safetensors")
    assert all(
        p.dtype == torch.float32 and torch.equal(p, state[k].bfloat16().float()) for k, p in model.state_dict().items()
    )


def test_training_a_loaded_model_leaves_its_file_alone(state, tmp_path):
    for path in (tmp_path / "x.pth", tmp_path / "x.safetensors"):
        torch.save({"model": state}, path) if path.suffix == ".pth" else save_file(state, path)
        before, model = path.read_bytes(), load_viclip(path)
        with torch.no_grad():
            for p in model.parameters():
                p += 1
        save_viclip(model, path.with_name("other.safetensors"))
        assert path.read_bytes() == before and torch.equal(
            load_file(path.with_name("other.safetensors"))["temp"], state["temp"] + 1
        )


LOAD = """
import json, sys
from frames_matter.base.errors import UserError
from frames_matter.base.files import file_sha256
from frames_matter.base.profiles import get_profile
from frames_matter.base.hub import resolve_file
from frames_matter.model.tokenizer import tokenizer_for
from frames_matter.model.weights import load_viclip, weights_of
for overrides in json.loads(sys.argv[1]):
    profile = get_profile("internvid", **overrides)
    try:
        model = load_viclip(weights_of(profile))
        found = {
            "width": model.config.vision_width,
            "sum": float(sum(p.double().sum() for p in model.parameters())),
            "ids": tokenizer_for(profile)(["a dog"], 8).tolist(),
            "sha": file_sha256(resolve_file(weights_of(profile))),
        }
        print(json.dumps(found))
    except UserError as e:
        print(json.dumps({"error": str(e)}))
"""


PTH, BPE = "ViClip-InternVid-10M-FLT.pth", "bpe_simple_vocab_16e6.txt.gz"  # in OpenGVLab/ViCLIP


def load_in_a_process(hub, home, *overrides):
    "What each of these profiles loads, the hub's cache being in `home`."
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(overrides)],
        env={**os.environ, **hub.env(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def viclip_hub(state, tmp_path, root):
    "A hub with weights, as .pth and as .safetensors, and the tokenizer; weights.pth lies in `tmp_path` too."
    torch.save({"model": state}, tmp_path / "weights.pth")
    save_file(state, tmp_path / "model.safetensors")
    files = {
        f"OpenGVLab/ViCLIP/{PTH}": tmp_path / "weights.pth",
        f"OpenGVLab/ViCLIP/{BPE}": root / "frames_matter" / "assets" / "nano_bpe.txt.gz",
        "OpenGVLab/ViCLIP-L-14-hf/model.safetensors": tmp_path / "model.safetensors",
    }
    with serve_hub(files, revisions=("main", "v1")) as hub:
        yield hub


def test_the_internvid_profile_gets_weights_and_tokenizer_from_the_hub(viclip_hub, state, tmp_path):
    "Of the revision that it names, or another file that it names, there or here; the numbers are those of the file."
    as_it_is, tagged, absent, hf, path = load_in_a_process(
        viclip_hub,
        tmp_path / "home",
        {},
        {"revision": "v1"},
        {"revision": "v9"},
        {"weights": "hub:OpenGVLab/ViCLIP-L-14-hf/model.safetensors"},
        {"weights": str(tmp_path / "weights.pth")},
    )
    assert as_it_is["width"] == 64
    assert as_it_is["sum"] == pytest.approx(float(sum(v.double().sum() for v in state.values())), rel=1e-9)
    assert as_it_is["sha"] == path["sha"] == sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    assert tagged == as_it_is
    assert hf["sum"] == as_it_is["sum"]
    assert "no such revision" in absent["error"]
    requests = viclip_hub.requests
    asked = {tuple(p.split("/")[4:]) for m, p, *_ in requests if "/resolve/" in p and m == "HEAD"}
    assert asked >= {(revision, file) for revision in ("main", "v1") for file in (PTH, BPE)}, asked


def test_a_pinned_file_that_is_here_is_not_asked_for(viclip_hub, tmp_path):
    of_main = load_in_a_process(viclip_hub, tmp_path / "home", {})
    assert of_main[0]["width"] == 64
    viclip_hub.requests.clear()
    assert load_in_a_process(viclip_hub, tmp_path / "home", {"revision": COMMIT}) == of_main
    assert viclip_hub.requests == []


def test_a_revision_is_of_the_weights_of_a_hub_alone():
    assert weights_of(get_profile("internvid", revision=COMMIT)).endswith(f"@{COMMIT}")
    assert weights_of(get_profile("mini", revision=COMMIT)) == "nano"


def saved(state, path, **tensors):
    "A checkpoint with some tensors replaced."
    torch.save({"model": state | tensors}, path)
    return path


CONV, TIMES, VOCABULARY = (
    "vision_encoder.conv1.weight",
    "vision_encoder.temporal_positional_embedding",
    "text_encoder.token_embedding.weight",
)


@pytest.mark.parametrize(
    "field, value, said",
    [
        ("vision_width", 0, "vision_width is a whole number from 1"),
        ("patch_size", 0, "patch_size is a whole number from 1"),
        ("vision_layers", 10**9, "vision_layers is a whole number from 1"),
        ("text_layers", 3, "text_layers 3 for 2"),
        ("text_width", "64", "text_width is a whole number"),
        ("num_frames", float("nan"), "num_frames is a whole number"),
        ("num_frames", 8, "num_frames 8 for 4"),
        ("image_size", 40, "image_size is a multiple of its patch_size"),
        ("vision_heads", 3, "vision_width is a multiple of its vision_heads"),
        ("vocab_size", 10**40, "vocab_size is a whole number"),
        ("context_length", True, "context_length is a whole number"),
        ("width", 3, "not the JSON of a model's sizes"),
    ],
)
def test_sizes_that_a_configuration_makes_up_are_refused(state, tmp_path, field, value, said):
    path = tmp_path / "x.safetensors"
    save_file(state, path, metadata={"config": json.dumps(dataclasses.asdict(SMALL) | {field: value})})
    with pytest.raises(UserError, match=said):
        load_viclip(path)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"vision_width": ' + "9" * 5000 + "}", "null", "[1]", "", '{"a":' * 9000]
)
def test_a_configuration_that_is_none_is_one_sentence(state, tmp_path, text):
    save_file(state, tmp_path / "x.safetensors", metadata={"config": text})
    with pytest.raises(UserError, match="not the JSON of a model's sizes"):
        load_viclip(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "name, tensor, said",
    [
        (CONV, torch.zeros(0, 3, 1, 16, 16), "no plain arrays"),
        (CONV, torch.zeros(64, 3, 1, 16, 0), "no plain arrays"),
        (
            CONV,
            torch.sparse_coo_tensor(torch.zeros(5, 1).long(), [1.0], (10**6, 3, 1, 10**3, 10**3)),
            "no plain arrays",
        ),
        (CONV, torch.empty(64, 3, 1, 16, 16, device="meta"), "no plain arrays"),
        (VOCABULARY, torch.zeros(1).expand(10**9, 64), "claim"),
        (VOCABULARY, torch.zeros(1).half().expand(10**9, 64), "claim"),
        (TIMES, torch.zeros(1, 4, 64, 1), "another number of dimensions"),
        ("text_encoder.transformer.resblocks.999999999.ln_1.bias", torch.zeros(1), "not numbered from 0 on"),
        ("text_encoder.transformer.resblocks.01.ln_1.bias", torch.zeros(1), "not numbered from 0 on"),
        ("text_encoder.transformer.resblocks.2.ln_1.bias", torch.zeros(64), "missing"),
        ("temp", torch.tensor(float("nan")), "NaN"),
        (VOCABULARY, torch.full((300, 64), float("inf")), "NaN"),
        (VOCABULARY, torch.full((300, 64), 1e300, dtype=torch.float64), "NaN"),
        (VOCABULARY, torch.zeros(300, 64, dtype=torch.int8), "not of real numbers"),
        (VOCABULARY, torch.zeros(300, 64, dtype=torch.complex64), "not of real numbers"),
        ("\x1b[2J" + "x" * 10**5, torch.zeros(1), r"\?\[2Jxxx"),
    ],
)
def test_tensors_that_are_not_what_they_claim_are_refused(state, tmp_path, name, tensor, said):
    with pytest.raises(UserError, match=said) as e:
        load_viclip(saved(state, tmp_path / "x.pth", **{name: tensor}))
    assert str(e.value).isprintable() and len(str(e.value)) < 1000


def test_a_zip_that_unpacks_to_more_than_it_is_and_a_pickle_that_asks_for_memory_are_refused(state, tmp_path):
    import zipfile

    whole = saved(state, tmp_path / "whole.pth")
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry) + bytes(10**7) * entry.endswith(".pkl"))
    with pytest.raises(UserError, match="unpacks to more"):
        load_viclip(tmp_path / "x.pth")
    for zipped in (True, False):
        torch.save({"model": state, "a": bytearray(3)}, tmp_path / "b.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="bytearray"):
            load_viclip(tmp_path / "b.pth")


def test_a_model_that_reads_77_tokens(state, tmp_path):
    config = dataclasses.replace(SMALL, context_length=77)
    save_viclip(ViCLIP(config), tmp_path / "x.safetensors")
    model = load_viclip(tmp_path / "x.safetensors")
    assert model.config == config == read_config(tmp_path / "x.safetensors")
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[:, 76], ids[0, 70] = 299, 5
    with torch.no_grad():
        assert model.encode_text(ids).isfinite().all() and not torch.equal(*model.encode_text(ids))
    with pytest.raises(UserError, match="up to 16 tokens"):
        load_viclip(saved(state, tmp_path / "y.pth")).encode_text(ids)


def test_a_head_that_is_damaged_is_one_sentence(tmp_path):
    head = torch.nn.Linear(2, 2)
    save_file(head.state_dict(), tmp_path / "x.safetensors")
    assert torch.equal(load_weights(torch.nn.Linear(2, 2), tmp_path / "x.safetensors").weight, head.weight)
    for wrong in (head.state_dict() | {"bias": torch.tensor([1, float("nan")])}, {"weight": torch.zeros(2, 2)}):
        save_file(wrong, tmp_path / "x.safetensors")
        with pytest.raises(UserError, match="NaN|missing: bias"):
            load_weights(torch.nn.Linear(2, 2), tmp_path / "x.safetensors")
