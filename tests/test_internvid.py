"""The profile internvid from end to end, on this machine: real clients (huggingface_hub, yt-dlp) against a hub and a video site on loopback. Only endpoints and sizes differ from the study's own run."""

import csv
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pl = pytest.importorskip("polars")
import ffmpeg
import torch
from fault_site import fault_of, serve_faults
from hub_server import serve_hub

from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig
from frames_matter.model.weights import ASSETS

TABLE, CONFIGURATION = "OpenGVLab/InternVid", "InternVid-18M-AES"
CONVERTED = f"datasets/{TABLE}/{CONFIGURATION}"
GOOD = ("page", "hops", "drip", "torn", "busy")
BAD = {
    "missing": "404",
    "forbidden": "403",
    "removed": "410",
    "signin": "not fetched",
    "html": "a page",
    "half": "not fetched",
    "void": "not fetched",
}
VIDEOS = [f"{kind}{i:07}" for kind in GOOD for i in range(3)]  # ids of eleven characters, as the real ones
DEAD = [f"{kind}{'0' * (11 - len(kind))}" for kind in BAD]
TOKEN = "hf_good"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "A folder of films of twenty seconds."
    folder = tmp_path_factory.mktemp("films")
    for i, name in enumerate(VIDEOS + [d for d in DEAD if d.startswith("half")]):
        picture = ffmpeg.input(f"testsrc2=s=64x{48 + 2 * (i % 8)}:r=8:d=20", f="lavfi").output(
            str(folder / f"{name}.mp4"),
            vcodec="libx264",
            preset="ultrafast",
            g=40,
            pix_fmt="yuv420p",
            threads=1,
            movflags="+faststart",
        )
        picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return folder


def clock(seconds):
    return f"00:{int(seconds) // 60:02}:{seconds % 60:06.3f}"


def table(n=600):
    "Rows like InternVid's: two thirds of the videos can be had; too short, too long and damaged ones among them; CLIP_Score may be missing."
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        start = round(float(rng.uniform(0, 12)), 3)
        rows.append(
            dict(
                YoutubeID=str(rng.choice(VIDEOS + DEAD)),
                Start_timestamp=clock(start),
                End_timestamp=clock(start + float(rng.choice([1.5, 3.25, 4.0, 6.5, 7.9, 20.0]))),
                Caption=None if i % 50 == 7 else f"A pattern of colours number {i} moves across the screen.",
                Aesthetic_Score=float(rng.normal(5, 0.5)),
                CLIP_Score=None if i % 9 == 0 else 0.3,
            )
        )
    rows[5] |= dict(Start_timestamp="00:03:60.000")
    return pl.DataFrame(rows + rows[:20])


def as_parquet(rows, path):
    rows.write_parquet(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A small ViCLIP in the form of the real checkpoint: a pickle whose key `model` holds the tensors."
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.manual_seed(0)
    with gzip.open(ASSETS / "nano_bpe.txt.gz", "rt", encoding="utf-8") as f:
        merges = sum(1 for _ in f)
    torch.save(
        {"model": ViCLIP(ViCLIPConfig(32, 16, 64, 2, 1, 32, 8, 32, max(49408, merges + 1024), 64, 2, 1)).state_dict()},
        path,
    )
    return path


@pytest.fixture
def hub(weights, tmp_path):
    "A hub with the weights, the tokenizer and, gated, the whole conversion of the table in two files."
    rows = table()
    files = {
        "OpenGVLab/ViCLIP/ViClip-InternVid-10M-FLT.pth": weights,
        "OpenGVLab/ViCLIP/bpe_simple_vocab_16e6.txt.gz": ASSETS / "nano_bpe.txt.gz",
        f"datasets/{TABLE}/README.md": b"# InternVid\n",
    }
    for i, part in enumerate((rows[:300], rows[300:])):
        files[f"{CONVERTED}/AES_vc2vicuna/{i:04}.parquet"] = as_parquet(part, tmp_path / f"{i}.parquet")
    with serve_hub(
        files,
        gated={TABLE},
        token=TOKEN,
        revisions=("main", "refs/convert/parquet"),
        at={CONVERTED: "refs/convert/parquet"},
    ) as hub:
        yield hub


@pytest.fixture
def command(tmp_path, root):
    "Run frames-matter in a process of its own with a home of its own, whose notebooks are the checkout's."
    home = tmp_path / "home"
    home.mkdir()
    (home / "nbs").symlink_to(root / "nbs")

    def run(hub, *words, token=TOKEN, **env):
        env = {
            **os.environ,
            **hub.env(tmp_path / "cache"),
            "HF_TOKEN": token,
            "FRAMES_MATTER_HOME": str(home),
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "POLARS_MAX_THREADS": "2",
            **env,
        }
        done = subprocess.run(
            [sys.executable, "-c", "from frames_matter.cli import main; main()", *words],
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    run.home = home
    return run


def test_all_five_lessons(hub, films, command):
    "Rows, videos, weights and tokenizer come over HTTP; every run finishes, and what is written says where it came from."
    with serve_faults(films) as site:
        template, sizes = (
            site.template,
            [
                "device=cpu",
                "precision=fp32",
                "image_size=32",
                "n_clips=20",
                "candidates=120",
                "epochs_first=1",
                "epochs_second=1",
                "seeds=[0]",
                "patience=1",
            ],
        )
        done = command(
            hub,
            "reproduce",
            "--profile",
            "internvid",
            *[w for o in [f"url_template={template}", *sizes] for w in ("-o", o)],
        )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    manifest, results = command.home / "data_manifest" / "internvid", command.home / "results" / "internvid"
    selection, rows = (
        json.loads((manifest / "selection.json").read_text()),
        list(csv.DictReader(open(manifest / "clips.csv"))),
    )
    assert (
        selection["asked"]["rule"] == "hash"
        and selection["commit"] == hub.commit
        and selection["rows_seen"] == 620
        and [f["name"] for f in selection["files"]] == [f"{CONFIGURATION}/AES_vc2vicuna/000{i}.parquet" for i in (0, 1)]
    )
    assert selection["partial"] and selection["rows_expected"] == 17_573_429, (
        "620 rows passed for InternVid's 17.6 million"
    )
    kept = [r for r in rows if r["status"] == "kept"]
    assert (
        len(kept) == 20
        and {r["split"] for r in kept} == {"train", "alignment", "test"}
        and {r["youtube_id"] for r in kept} <= set(VIDEOS)
    )
    for r in rows:
        if (kind := fault_of(r["youtube_id"])) in BAD:
            assert BAD[kind] in r["reason"] or r["reason"] == "the same clip as an earlier row", r
    tried = [c["YoutubeID"] for c in csv.DictReader(open(manifest / "candidates.csv"))][: len(rows)]
    assert [r["youtube_id"] for r in rows] == tried, "not tried in the order of the candidates"
    assert (kinds := {fault_of(r["youtube_id"]) for r in rows}) >= {*GOOD} and kinds & set(BAD)
    assert not any("youtube" in path for _, path in site.asked)
    runs = [json.loads(line) for line in (results / "runs.jsonl").read_text().splitlines()]
    assert {r["spec"]["phase"] for r in runs} == {"zero_shot", "first_improvement", "second_improvement"} and {
        r["spec"]["protocol"] for r in runs
    } == {"published", "sound"}
    assert len({r["spec"]["weights_sha"] for r in runs}) == 1 and all(
        np.isfinite(r["metrics"]["alignment_loss"]) for r in runs
    )
    assert sorted(p.stem for p in (results / "notebooks").glob("*.ipynb")) == [
        "01_dataset",
        "02_baseline",
        "03_first_improvement",
        "04_second_improvement",
        "05_cosine_gap",
    ]
    tables = {p.stem: p.read_text() for p in (results / "tables").glob("*.md")}
    assert (
        {"zero_shot", "alignment", "sampling", "gap"} <= set(tables)
        and "which need not be the study's" in tables["alignment"]
        and "0.1134" in tables["alignment"]
    )
    hub.requests.clear()
    again = command(
        hub,
        "dataset",
        "build",
        "-p",
        "internvid",
        "-o",
        f"url_template={template}",
        *[w for o in sizes for w in ("-o", o)],
    )
    assert again.returncode == 0 and hub.requests == [], "a finished build asked the hub again"


SELECT = ("dataset", "select", "-p", "internvid", "--candidates", "50")


def chosen(command):
    folder = command.home / "data_manifest" / "internvid"
    return json.loads((folder / "selection.json").read_text()), (folder / "candidates.csv").read_bytes()


def test_gated_without_a_token(hub, command):
    "One line says which page to accept and which variable to set; nothing is written."
    for token in ("", "hf_of_a_stranger"):
        done = command(hub, *SELECT, token=token)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "HF_TOKEN" in done.stderr, done.stderr
        if not token:
            assert f"{hub.url}/datasets/{TABLE}" in done.stderr and "accept" in done.stderr
    assert not (command.home / "data_manifest").exists()


def test_selecting_twice_is_once(hub, command, tmp_path):
    "Byte by byte; the files come from the cache; from the same rows in another file and order the same rows are chosen; the choice outlives the hub."
    assert command(hub, *SELECT).returncode == 0
    first, downloads = chosen(command), hub.asked("GET", ".parquet")
    assert (
        command(hub, *SELECT).returncode == 0 and chosen(command) == first and hub.asked("GET", ".parquet") == downloads
    )
    table().sample(fraction=1, shuffle=True, seed=1).write_ndjson(tmp_path / "shuffled.jsonl")
    assert command(hub, *SELECT, "--rows", str(tmp_path / "shuffled.jsonl")).returncode == 0
    record, candidates = chosen(command)
    assert (
        candidates == first[1]
        and record["rows_seen"] == first[0]["rows_seen"]
        and record["rows_left_out"] == first[0]["rows_left_out"]
    )
    assert command(hub, *SELECT, "-o", "seed=7").returncode == 0 and chosen(command)[1] != first[1]
    offline = command(hub, *SELECT, "-o", "seed=7", HF_HUB_OFFLINE="1")
    assert offline.returncode == 2 and "HF_HUB_OFFLINE" in offline.stderr


def test_first_rule(hub, command):
    "In the order of the table, across its files."
    assert command(hub, *SELECT, "--rule", "first").returncode == 0
    record, candidates = chosen(command)
    order = [int(r["order"]) for r in csv.DictReader(candidates.decode().splitlines())]
    assert (
        order == sorted(order)
        and len(order) == 50
        and record["rows_seen"] == order[-1] + 1 == record["rows_qualifying"] + sum(record["rows_left_out"].values())
    )


def test_partial_conversion(hub, command, tmp_path):
    "Where the hub has converted only a part, the dataset's own file is read, if its page names one; else the part is, and it is said to be one."
    rows = table()
    for name in [n for n in hub.files if n.startswith(CONVERTED)]:
        del hub.files[name]
    hub.files[f"{CONVERTED}/partial-AES_vc2vicuna/0000.parquet"] = as_parquet(rows[:200], tmp_path / "part.parquet")
    done = command(hub, *SELECT)
    assert (
        done.returncode == 0
        and "PARTIAL" in done.stdout
        and "200 read of 17,573,429" in done.stdout
        and chosen(command)[0]["partial"]
    )
    rows.write_ndjson(tmp_path / "whole.jsonl")
    hub.files[f"datasets/{TABLE}/InternVid-18M-aes.jsonl"] = tmp_path / "whole.jsonl"
    hub.files[f"datasets/{TABLE}/README.md"] = (
        f"---\nconfigs:\n- config_name: {CONFIGURATION}\n  data_files:\n  - split: AES_vc2vicuna\n    path: InternVid-18M-aes.jsonl\n---\n# InternVid\n".encode()
    )
    hub.commit = "0123456789" * 4
    assert command(hub, *SELECT).returncode == 0
    record, _ = chosen(command)
    assert (
        record["rows_seen"] == len(rows)
        and record["files"][0]["name"] == "InternVid-18M-aes.jsonl"
        and record["commit"] == hub.commit
    )


@pytest.mark.parametrize(
    "fault, words", [("absent", "AES_vc2vicuna"), ("damaged", "cannot be read"), ("columns", "Caption")]
)
def test_tables_that_are_none(hub, command, tmp_path, fault, words):
    "A table that is not there, is damaged or has other columns: one line that names it."
    names = [n for n in hub.files if n.startswith(CONVERTED)]
    for name in names:
        if fault == "absent":
            del hub.files[name]
        elif fault == "damaged":
            hub.files[name] = b"PAR1 and then nothing" * 100
        else:
            hub.files[name] = as_parquet(table().drop("Caption"), tmp_path / "other.parquet")
    done = command(hub, *SELECT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.stderr
