"The names and behaviour that others call, against the reference answers of the original code in tests/golden."

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import PROFILES

# --- the model ---

FIELDS = [
    "image_size",
    "patch_size",
    "vision_width",
    "vision_layers",
    "vision_heads",
    "embed_dim",
    "num_frames",
    "context_length",
    "vocab_size",
    "text_width",
    "text_heads",
    "text_layers",
]


def reference(path):
    "Inputs and the original's outputs, the tensors, and the configuration of a small reference model."
    with safe_open(path, "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        config = json.loads(f.metadata()["config"])
    io = {k.removeprefix("io."): tensors.pop(k) for k in list(tensors) if k.startswith("io.")}
    return io, tensors, config


def assert_agrees_with_the_original(path):
    from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

    io, weights, config = reference(path)
    model = ViCLIP(ViCLIPConfig(**config))
    model.load_state_dict(weights, strict=True)
    model.eval()
    with torch.no_grad():
        for inputs, encode, features in (
            ("video", model.encode_video, "video_features"),
            ("one_frame", model.encode_video, "one_frame_features"),
            ("tokens", model.encode_text, "text_features"),
        ):
            assert (encode(io[inputs]) - io[features]).abs().max() <= 1e-4, inputs


def test_config_fields():
    from frames_matter.model.viclip import ViCLIPConfig

    assert {f.name for f in dataclasses.fields(ViCLIPConfig)} >= set(FIELDS)


@pytest.mark.parametrize("name", "ac")
def test_viclip_agrees_with_the_original(golden, name):
    "`a`: 4 heads of 16 at 4 frames; `c`: heads of 64, as the published models have them, at 8 frames."
    assert_agrees_with_the_original(golden / f"viclip_tiny_{name}.safetensors")


def test_viclip_agrees_with_the_original_at_another_patch_size(shared):
    assert_agrees_with_the_original(shared / "golden" / "viclip_tiny_b.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loader_infers_the_configuration_from_shapes(golden, tmp_path, suffix):
    from safetensors.torch import save_file

    from frames_matter.model.weights import load_viclip

    io, weights, config = reference(golden / "viclip_tiny_c.safetensors")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": weights}, path)
    else:
        save_file(weights, path)
    model = load_viclip(str(path))
    assert not model.training and {k: getattr(model.config, k) for k in FIELDS} == config
    with torch.no_grad():
        assert (model.encode_video(io["video"]) - io["video_features"]).abs().max() <= 1e-4


@pytest.mark.parametrize("name, tensors", [("b", 303), ("l", 447)])
def test_parameter_names_and_shapes_are_the_original_ones(golden, name, tensors):
    from published_shapes import published_config, published_shapes

    from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

    listed = published_shapes(golden, name)
    assert len(listed) == tensors
    with torch.device("meta"):
        model = ViCLIP(ViCLIPConfig(**published_config(name)))
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == listed


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    from frames_matter.model.weights import load_viclip

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError):
        load_viclip(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("length", [32, 77])
def test_tokenizer_agrees_with_a_plain_one(golden, length):
    "Of nano's list of merges; what wrote the ids is `Plain` in test_tokens.py, which is CLIP's on CLIP's own list."
    from frames_matter.model.tokenizer import tokenizer_for

    cases = json.loads((golden / "nano_tokens.json").read_text())
    ids = tokenizer_for("mini")([c["caption"] for c in cases], context_length=length)
    assert len(cases) >= 30 and ids.dtype == torch.int64
    assert ids.tolist() == [c[f"ids_{length}"] for c in cases]


@pytest.mark.parametrize("length", [32, 77])
def test_tokenizer_agrees_with_clips(golden, shared, length):
    "CLIP's list of merges is not part of the project."
    from frames_matter.model.tokenizer import clip_tokenizer

    cases = json.loads((golden / "clip_tokens.json").read_text())
    tokenize = clip_tokenizer(shared / "viclip" / "bpe_simple_vocab_16e6.txt.gz")
    ids = tokenize([c["caption"] for c in cases], context_length=length)
    assert ids.dtype == torch.int64 and ids.tolist() == [c[f"ids_{length}"] for c in cases]


def test_preprocessing_agrees_within_one_grey_level(golden):
    from frames_matter.model.preprocessing import preprocess
    from frames_matter.video.sampling import sample_indices

    with safe_open(golden / "preprocess_56.safetensors", "pt") as f:
        frames, expected = f.get_tensor("frames_rgb"), f.get_tensor("expected")
    chosen = frames.numpy()[sample_indices("uniform", len(frames), 8)]
    out = preprocess(chosen, image_size=56)
    assert out.dtype == torch.float32 and (out - expected).abs().max() <= 1 / 255 / 0.224 + 1e-6


def test_nano_is_shipped():
    from frames_matter.model.weights import load_viclip

    model = load_viclip("nano")
    with torch.no_grad():
        out = model.encode_video(
            torch.zeros(2, PROFILES["mini"].k, 3, model.config.image_size, model.config.image_size)
        )
    assert out.shape == (2, model.config.embed_dim) and not model.training


# --- losses and gap ---


@pytest.fixture(scope="module")
def losses(golden):
    return json.loads((golden / "losses.json").read_text())


def embeddings(case):
    return [torch.tensor(case[k], dtype=torch.float64, requires_grad=True) for k in ("video", "text")]


def test_losses_agree(losses):
    from frames_matter.model.losses import hnac, infonce

    assert len(losses) == 24
    for case in losses:
        video, text = embeddings(case)
        assert infonce(video, text, case["temperature"]).item() == pytest.approx(case["infonce"], rel=1e-8, abs=1e-12)
        value = hnac(video, text, case["temperature"], case["hard_negative_weight"])
        assert value.item() == pytest.approx(case["hnac"], rel=1e-8, abs=1e-12)
        value.backward()
        for side, name in ((video, "video"), (text, "text")):
            np.testing.assert_allclose(side.grad.numpy(), case[f"hnac_grad_{name}"], rtol=1e-7, atol=1e-12)


def test_gaps_agree(losses):
    from frames_matter.metrics.gap import cosine_gap

    for case in losses:
        if len(case["video"]) < 2:
            continue
        video, text = (torch.nn.functional.normalize(x.detach(), dim=-1) for x in embeddings(case))
        assert cosine_gap(text @ video.T, kind="mean") == pytest.approx(case["mean_gap"], rel=1e-8)
        trained = (text @ video.T).float().requires_grad_()
        assert cosine_gap(trained, kind="mean") == pytest.approx(case["mean_gap"], abs=1e-6)
        assert cosine_gap(trained.bfloat16(), kind="mean") == pytest.approx(case["mean_gap"], abs=0.02)
        assert cosine_gap(text @ video.T, kind="hardest") == pytest.approx(case["hardest_gap_v2t"], rel=1e-8)


def test_defaults():
    from frames_matter.model.losses import hnac, infonce

    assert (
        inspect.signature(infonce).parameters["temperature"].default
        == inspect.signature(hnac).parameters["temperature"].default
        == 0.07
    )
    assert inspect.signature(hnac).parameters["hard_negative_weight"].default == 0.5


# --- frames ---


def test_samplers_are_valid_for_every_length():
    from frames_matter.video.sampling import SAMPLERS, sample_indices

    assert list(SAMPLERS)[:5] == ["uniform", "mean", "keyframes", "weighted", "dropout"]
    by_length = [name for name, strategy in SAMPLERS.items() if strategy.indices]
    assert set(SAMPLERS) - set(by_length) == {"mean", "motion", "medoids"}
    for name in by_length:
        for n in (1, 2, 3, 7, 8, 9, 15, 16, 31, 301):
            for k in (1, 4, 8):
                found = sample_indices(name, n, k, seed=3)
                assert found.shape == (k,) and found.dtype == np.int64, (name, n, k)
                assert found.min() >= 0 and found.max() < n and (np.diff(found) >= 0).all(), (name, n, k, found)
                assert (found == sample_indices(name, n, k, seed=3)).all(), (name, n, k)
    for name in ("mean", "motion", "medoids"):
        with pytest.raises(UserError, match="read_clip"):
            sample_indices(name, 10)
    with pytest.raises(UserError, match="uniform, mean"):
        sample_indices("last", 10)


@pytest.mark.parametrize(
    "name",
    [
        "example1.mp4",
        "testsrc2_av1_10bit.mp4",
        "testsrc2_odd_height_and_width_vp9.mp4",
        "testsrc2_mpeg4.mp4",
        "h265_video.mp4",
        "test_non_zero_start.mp4",
    ],
)
@pytest.mark.parametrize("strategy", ["uniform", "mean"])
def test_real_files_are_read(shared, name, strategy):
    from frames_matter.video.frames import read_clip

    frames = read_clip(shared / "clips" / name, strategy, k=8, size=56)
    assert frames.shape == (8, 56, 56, 3) and frames.dtype == np.uint8
    assert frames.std() > 0 or name == "testsrc2_mpeg4.mp4"  # its one frame is black


def test_a_damaged_file_is_a_clear_error(shared):
    from frames_matter.video.frames import read_clip

    with pytest.raises(UserError, match="corrupted.mp4"):
        read_clip(shared / "clips" / "corrupted.mp4")


# --- retrieval ---


def slow_ranks(similarity, positives):
    "Rank of the true clip of each caption, by counting; ties at the average."
    ranks = []
    for row, true in zip(similarity, positives, strict=True):
        above, equal = sum(x > row[true] for x in row), sum(x == row[true] for x in row)
        ranks.append(1 + above + (equal - 1) / 2)
    return np.array(ranks)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_agree_with_counting(ties):
    from frames_matter.metrics.retrieval import retrieval_metrics

    rng = np.random.default_rng(0)
    s = rng.integers(0, 5, (24, 24)).astype(float) if ties else rng.random((24, 24))
    found = retrieval_metrics(torch.tensor(s))
    for side, matrix in (("t2v", s), ("v2t", s.T)):
        ranks = slow_ranks(matrix, range(24))
        for k in (1, 5, 10):
            assert found[f"{side}_r{k}"] == pytest.approx(100 * (ranks <= k).mean()), (side, k)
        assert found[f"{side}_mdr"] == pytest.approx(np.median(ranks)) and found[f"{side}_mnr"] == pytest.approx(
            ranks.mean()
        )
    assert found["rsum"] == pytest.approx(sum(found[f"{side}_r{k}"] for side in ("t2v", "v2t") for k in (1, 5, 10)))


def test_a_constant_matrix_is_no_success_and_nan_is_an_error():
    from frames_matter.metrics.retrieval import retrieval_metrics

    assert retrieval_metrics(torch.ones(20, 20))["t2v_r1"] == 0
    with pytest.raises(ValueError):
        retrieval_metrics(torch.full((4, 4), float("nan")))


def test_positives_may_be_given():
    from frames_matter.metrics.retrieval import retrieval_metrics

    order = [2, 0, 1]
    assert retrieval_metrics(torch.eye(3)[order], positives=order)["t2v_r1"] == 100
