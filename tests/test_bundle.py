"What belongs together comes together: a model with the frames, numbers and tokens that fit it; and mismatches told."

import dataclasses
import gzip
import json
import subprocess

import numpy as np
import pytest
import torch
from safetensors import safe_open

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.model.bundle import load
from frames_matter.model.preprocessing import preprocess
from frames_matter.model.tokenizer import clip_tokenizer, tokenizer_for
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig
from frames_matter.model.weights import ASSETS, save_viclip
from frames_matter.video.frames import read_clip, read_frames

NANO_BPE = ASSETS / "nano_bpe.txt.gz"
VOCABULARY = clip_tokenizer(NANO_BPE).vocab_size
SMALL = ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 16, 300, 64, 1, 2)


@pytest.fixture(scope="module")
def nano():
    return load("nano")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    "A video file of 40 frames."
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x72:rate=20:duration=2"]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *source, "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def merges_file(path, n):
    "The first n merges of nano's list: a vocabulary of 514 + n."
    lines = gzip.decompress(NANO_BPE.read_bytes()).decode().split("\n")
    path.write_bytes(gzip.compress("\n".join(lines[: n + 1]).encode()))
    return path


def test_it_is_the_four_functions_put_together_rightly(nano, clip):
    captions = ["a red star moves left", "a blue ring"]
    with torch.no_grad():
        video = nano.model.encode_video(preprocess(read_clip(clip, "uniform", k=8, size=64), 64)[None])
        text = nano.model.encode_text(tokenizer_for("mini")(captions, nano.model.config.context_length))
    expected = torch.cosine_similarity(text[:, None], video, dim=-1)  # (2, 1)
    torch.testing.assert_close(nano.similarity([clip], captions), expected)
    torch.testing.assert_close(nano.similarity([str(clip)] * 2, captions), expected.expand(2, 2))
    decoded = read_frames(clip, range(0, 40, 5))  # as they are, 96 x 72: the same frames, resized by the bundle
    torch.testing.assert_close(nano.similarity([decoded, torch.from_numpy(decoded)], captions), expected.expand(2, 2))
    assert not nano.model.training and not nano.similarity([clip], captions).requires_grad


def test_the_other_preset_takes_other_frames(clip):
    official, demo = load("nano", preprocessing="official"), load("nano")
    assert np.array_equal(official.read(clip), read_clip(clip, "middle", k=8, size=64, mode="bicubic"))
    assert np.array_equal(demo.read(clip), read_clip(clip, "uniform", k=8, size=64))
    assert np.array_equal(official.read(clip, "keyframes"), read_clip(clip, "keyframes", k=8, size=64, mode="bicubic"))
    assert demo.read(clip, k=3).shape == (3, 64, 64, 3)


def test_a_model_of_another_size_gets_what_fits_it(tmp_path, clip):
    path, bpe = tmp_path / "small.safetensors", merges_file(tmp_path / "bpe.txt.gz", 86)
    save_viclip(ViCLIP(dataclasses.replace(SMALL, vocab_size=600)), path)
    small = load(path, bpe=bpe)
    assert small.read(clip).shape == (4, 32, 32, 3) and small.tokenize(["a dog"]).shape == (1, 16)
    assert small.similarity([clip], ["a dog", "a cat"]).shape == (2, 1)


def test_a_tokenizer_that_does_not_fit_is_told(tmp_path):
    path = tmp_path / "small.safetensors"
    save_viclip(ViCLIP(SMALL), path)
    with pytest.raises(UserError, match="300 tokens, which is neither nano's nor CLIP's"):
        load(path)
    with pytest.raises(UserError, match=f"makes {VOCABULARY} tokens and .* has 300"):
        load(path, bpe=NANO_BPE)
    with pytest.raises(UserError, match="demo, official"):
        load("nano", preprocessing="paper")


def test_clips_own_vocabulary_leads_to_the_published_list(tmp_path, monkeypatch):
    "At the weights' revision if they are in the same repository; else as it is now."
    from frames_matter.model import bundle

    asked, large = [], dataclasses.replace(SMALL, vocab_size=49408)
    monkeypatch.setattr(bundle, "tokenizer_for", lambda profile: asked.append(profile) or tokenizer_for("mini"))
    monkeypatch.setattr(bundle, "load_viclip", lambda source, **_: ViCLIP(large))
    for source in ("hub:OpenGVLab/ViCLIP/other.pth@v1", tmp_path / "own@home.pth"):
        with pytest.raises(UserError, match=f"makes {VOCABULARY} tokens"):  # the stand-in's
            load(source)
    profiles = [p for p in asked if p != "mini"]
    assert [(p.name, p.weights, p.revision) for p in profiles] == [
        ("internvid", "hub:OpenGVLab/ViCLIP/other.pth", "v1"),
        ("internvid", str(tmp_path / "own@home.pth"), ""),
    ]
    assert all(p.bpe.endswith("bpe_simple_vocab_16e6.txt.gz") for p in profiles)


@pytest.mark.parametrize(
    "shape, said",
    [
        ((8, 3, 64, 64), r"no batch dimension; for one clip write video\[None\]"),
        ((1, 8, 3, 224, 224), "64 x 64 pixels, not 224 x 224; give preprocess image_size=64"),
        ((1, 8, 3, 32, 128), "64 x 64 pixels, not 32 x 128"),  # as many patches, and another picture
        ((1, 8, 64, 64, 3), "make them with preprocess"),
        ((1, 0, 3, 64, 64), "make them with preprocess"),
        ((64, 64), "make them with preprocess"),
    ],
)
def test_a_video_that_does_not_fit_is_a_sentence(nano, shape, said):
    with pytest.raises(UserError, match=said):
        nano.model.encode_video(torch.zeros(shape))


def test_frames_that_were_not_preprocessed_are_told(nano):
    with pytest.raises(UserError, match="call preprocess on them first"):
        nano.model.encode_video(torch.zeros(1, 8, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"one clip's frames, \(T, H, W, 3\) RGB"):
        preprocess(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match="a tensor of shape .*make them with preprocess"):
        nano.model.encode_video(["clip.mp4"])


@pytest.mark.parametrize("as_given", [np.asarray, torch.as_tensor])
def test_values_from_0_to_1_are_told_and_those_to_255_are_taken(as_given):
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    wanted = preprocess(frames, 8)
    for dtype in (np.float32, np.float64, np.float16):
        with pytest.raises(UserError, match="from 0 to 255, not from 0 to 1"):
            preprocess(as_given((frames / 255).astype(dtype)), 8)
        assert torch.equal(preprocess(as_given(frames.astype(dtype)), 8), wanted)
    assert torch.equal(preprocess(as_given(np.zeros((2, 8, 8, 3))), 8), preprocess(np.zeros((2, 8, 8, 3), np.uint8), 8))


@pytest.mark.parametrize(
    "tokens, said",
    [
        (torch.full((1, 32), 49407), f"Token 49407 is not in this model's vocabulary of {VOCABULARY}"),
        (torch.full((1, 32), -1), "Token -1 is not"),
        (torch.zeros(1, 78, dtype=torch.long), "up to 77 tokens a caption, not 78; give tokenize context_length=77"),
        (torch.zeros(32, dtype=torch.long), r"make them with tokenize\(captions\)"),
        (torch.zeros(1, 32), r"make them with tokenize\(captions\)"),
        (["a red star"], r"make them with tokenize\(captions\)"),
        ("a red star", r"make them with tokenize\(captions\)"),
    ],
)
def test_tokens_that_do_not_fit_are_a_sentence(nano, tokens, said):
    with pytest.raises(UserError, match=said):
        nano.model.encode_text(tokens)


def test_a_call_of_the_model_compares(nano):
    video, tokens = torch.randn(3, 8, 3, 64, 64), nano.tokenize(["a dog", "a cat"])
    with torch.no_grad():
        cosines = nano.model(video, tokens)
        text, clips = nano.model.encode_text(tokens), nano.model.encode_video(video)
    torch.testing.assert_close(cosines, torch.cosine_similarity(text[:, None], clips, dim=-1))
    with pytest.raises(UserError, match=r"model\(video, tokens\)"):
        nano.model(video)
    assert nano.model.encode_text(nano.tokenize([])).shape == (0, nano.model.config.embed_dim)


def test_tokenizer_for_takes_a_name():
    assert tokenizer_for("mini") is tokenizer_for("smoke") is clip_tokenizer(NANO_BPE)
    with pytest.raises(UserError, match="mini, mini1000, internvid"):
        tokenizer_for("maxi")


def test_reference_models_are_called_alike(golden):
    "The sentences are for what cannot be encoded: the original's own inputs pass."
    for name in "ac":
        with safe_open(golden / f"viclip_tiny_{name}.safetensors", "pt") as f:
            model = ViCLIP(ViCLIPConfig(**json.loads(f.metadata()["config"])))
            for kind, encode in (("video", model.encode_video), ("one_frame", model.encode_video)):
                assert encode(f.get_tensor(f"io.{kind}")).shape == f.get_tensor(f"io.{kind}_features").shape
            assert model.encode_text(f.get_tensor("io.tokens")).shape == f.get_tensor("io.text_features").shape
