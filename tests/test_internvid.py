"""The profile internvid from end to end, on this machine.

Real clients (huggingface_hub, yt-dlp) against a hub and a video site on loopback. Only endpoints and sizes differ from
the study's own run.
"""

import csv
import json
import os
import subprocess
import sys

import ffmpeg
import numpy as np
import pytest
import torch
from fault_site import fault_of, serve_faults
from hub_server import serve_hub

from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.model.tokenizer import clip_tokenizer
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig
from frames_matter.model.weights import ASSETS

pl = pytest.importorskip("polars")

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
    encode = dict(vcodec="libx264", preset="ultrafast", g=40, pix_fmt="yuv420p", threads=1, movflags="+faststart")
    for i, name in enumerate(VIDEOS + [d for d in DEAD if d.startswith("half")]):
        picture = ffmpeg.input(f"testsrc2=s=64x{48 + 2 * (i % 8)}:r=8:d=20", f="lavfi")
        film = picture.output(str(folder / f"{name}.mp4"), **encode)
        film.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return folder


def as_timestamp(seconds):
    return f"00:{int(seconds) // 60:02}:{seconds % 60:06.3f}"


def table(n=600):
    """Rows like InternVid's: two thirds of the videos can be had.

    Too short, too long and damaged ones are among them; CLIP_Score may be missing.
    """
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        start = round(float(rng.uniform(0, 12)), 3)
        video = str(rng.choice(VIDEOS + DEAD))
        end = start + float(rng.choice([1.5, 3.25, 4.0, 6.5, 7.9, 20.0]))
        caption = None if i % 50 == 7 else f"A pattern of colours number {i} moves across the screen."
        times = dict(Start_timestamp=as_timestamp(start), End_timestamp=as_timestamp(end))
        scores = dict(Aesthetic_Score=float(rng.normal(5, 0.5)), CLIP_Score=None if i % 9 == 0 else 0.3)
        rows.append(dict(YoutubeID=video, **times, Caption=caption, **scores))
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
    vocabulary = clip_tokenizer(ASSETS / "nano_bpe.txt.gz").vocab_size
    model = ViCLIP(ViCLIPConfig(32, 16, 64, 2, 1, 32, 8, 32, vocabulary, 64, 2, 1))
    torch.save({"model": model.state_dict()}, path)
    return path


def hub_with(weights, folder):
    "A hub with the weights, the tokenizer and, gated, the whole conversion of the table in two files."
    rows = table()
    files = {
        "OpenGVLab/ViCLIP/ViClip-InternVid-10M-FLT.pth": weights,
        "OpenGVLab/ViCLIP/bpe_simple_vocab_16e6.txt.gz": ASSETS / "nano_bpe.txt.gz",
        f"datasets/{TABLE}/README.md": b"# InternVid\n",
    }
    for i, part in enumerate((rows[:300], rows[300:])):
        files[f"{CONVERTED}/AES_vc2vicuna/{i:04}.parquet"] = as_parquet(part, folder / f"{i}.parquet")
    revisions = dict(revisions=("main", "refs/convert/parquet"), at={CONVERTED: "refs/convert/parquet"})
    return serve_hub(files, gated={TABLE}, token=TOKEN, **revisions)


@pytest.fixture
def hub(weights, tmp_path):
    with hub_with(weights, tmp_path) as hub:
        yield hub


def command_in(folder, root):
    "A function that runs frames-matter in a process and a home of its own, whose notebooks are the checkout's."
    home = folder / "home"
    home.mkdir()
    (home / "nbs").symlink_to(root / "nbs")
    of_this_project = {"FRAMES_MATTER_HOME": str(home), "PYTHONPATH": str(root)}
    few_threads = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}

    def run(hub, *words, token=TOKEN, **env):
        env = {**os.environ, **hub.env(folder / "cache"), "HF_TOKEN": token, **of_this_project, **few_threads, **env}
        command = [sys.executable, "-c", "from frames_matter.cli import main; main()", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    run.home = home
    return run


@pytest.fixture
def command(tmp_path, root):
    return command_in(tmp_path, root)


SIZES = (
    "device=cpu",
    "precision=fp32",
    "image_size=32",
    "n_clips=20",
    "candidates=120",
    "epochs_first=1",
    "epochs_second=1",
    "seeds=[0]",
    "patience=1",
)
LESSONS = ["01_dataset", "02_baseline", "03_first_improvement", "04_second_improvement", "05_cosine_gap"]


def overrides(template):
    "Words of the command line."
    return [word for field in (f"url_template={template}", *SIZES) for word in ("-o", field)]


def read_rows(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def reproduced(weights, films, tmp_path_factory, root):
    "The study, all five lessons, in a home of its own: the hub, the site, and a way to run commands there."
    folder = tmp_path_factory.mktemp("study")
    run = command_in(folder, root)
    with hub_with(weights, folder) as hub:
        with serve_faults(films) as site:
            done = run(hub, "reproduce", "--profile", "internvid", *overrides(site.template))
        assert done.returncode == 0, done.stdout + done.stderr
        yield hub, site, run


def test_rows_and_clips(reproduced):
    "Rows and videos come over HTTP, and each row that gave no clip says why."
    hub, site, run = reproduced
    manifest = run.home / "data_manifest" / "internvid"
    selection = json.loads((manifest / "selection.json").read_text())
    rows = read_rows(manifest / "clips.csv")
    assert selection["asked"]["rule"] == "hash"
    assert selection["commit"] == hub.commit
    assert selection["rows_seen"] == 620
    names = [f"{CONFIGURATION}/AES_vc2vicuna/000{i}.parquet" for i in (0, 1)]
    assert [f["name"] for f in selection["files"]] == names
    assert selection["partial"], "620 rows passed for InternVid's 17.6 million"
    assert selection["rows_expected"] == 17_573_429
    kept = [r for r in rows if r["status"] == "kept"]
    assert len(kept) == 20
    assert {r["split"] for r in kept} == {"train", "alignment", "test"}
    assert {r["youtube_id"] for r in kept} <= set(VIDEOS)
    for r in rows:
        if (kind := fault_of(r["youtube_id"])) in BAD:
            assert BAD[kind] in r["reason"] or r["reason"] == "the same clip as an earlier row", r
    tried = [c["YoutubeID"] for c in read_rows(manifest / "candidates.csv")][: len(rows)]
    assert [r["youtube_id"] for r in rows] == tried, "not tried in the order of the candidates"
    kinds = {fault_of(r["youtube_id"]) for r in rows}
    assert kinds >= set(GOOD)
    assert kinds & set(BAD)
    assert not any("youtube" in path for _, path in site.asked)


def test_runs_and_tables(reproduced):
    "Weights and tokenizer come over HTTP; every run finishes, and what is written says where it came from."
    _, _, run = reproduced
    results = run.home / "results" / "internvid"
    runs = [json.loads(line) for line in (results / "runs.jsonl").read_text().splitlines()]
    assert {r["spec"]["phase"] for r in runs} == {"zero_shot", "first_improvement", "second_improvement"}
    assert {r["spec"]["protocol"] for r in runs} == {"published", "sound"}
    assert len({r["spec"]["weights_sha"] for r in runs}) == 1
    assert all(np.isfinite(r["metrics"]["alignment_loss"]) for r in runs)
    assert sorted(path.stem for path in (results / "notebooks").glob("*.ipynb")) == LESSONS
    tables = {path.stem: path.read_text() for path in (results / "tables").glob("*.md")}
    assert {"zero_shot", "alignment", "sampling", "gap"} <= set(tables)
    assert "which need not be the study's" in tables["alignment"]
    assert "0.1134" in tables["alignment"]


def test_a_finished_build_asks_nobody(reproduced):
    hub, site, run = reproduced
    hub.requests.clear()
    again = run(hub, "dataset", "build", "-p", "internvid", *overrides(site.template))
    assert again.returncode == 0
    assert hub.requests == [], "a finished build asked the hub again"


SELECT = ("dataset", "select", "-p", "internvid", "--candidates", "50")


def select(command, hub, *words, **how):
    "The command `select`, which must end well."
    done = command(hub, *SELECT, *words, **how)
    assert done.returncode == 0, done.stderr
    return done


def select_fails(command, hub, *words, **how):
    "What the command `select` says in one line when it does not end well."
    done = command(hub, *SELECT, *words, **how)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def chosen(command):
    "The selection that is written, and the candidates' bytes."
    folder = command.home / "data_manifest" / "internvid"
    return json.loads((folder / "selection.json").read_text()), (folder / "candidates.csv").read_bytes()


def test_gated_without_a_token(hub, command):
    "One line says which page to accept and which variable to set; nothing is written."
    told = select_fails(command, hub, token="")
    assert "HF_TOKEN" in told
    assert f"{hub.url}/datasets/{TABLE}" in told
    assert "accept" in told
    assert "HF_TOKEN" in select_fails(command, hub, token="hf_of_a_stranger")
    assert not (command.home / "data_manifest").exists()


def test_selecting_twice_is_once(hub, command):
    "The same bytes, from files in the cache; the choice outlives the hub, and another seed asks for it."
    select(command, hub)
    first, downloads = chosen(command), hub.asked("GET", ".parquet")
    select(command, hub)
    assert chosen(command) == first
    assert hub.asked("GET", ".parquet") == downloads
    select(command, hub, "-o", "seed=7")
    assert chosen(command)[1] != first[1]
    offline = command(hub, *SELECT, "-o", "seed=7", HF_HUB_OFFLINE="1")
    assert offline.returncode == 2
    assert "HF_HUB_OFFLINE" in offline.stderr


def test_selecting_from_a_shuffled_file(hub, command, tmp_path):
    "From the same rows in another file and order the same rows are chosen."
    select(command, hub)
    first, candidates = chosen(command)
    table().sample(fraction=1, shuffle=True, seed=1).write_ndjson(tmp_path / "shuffled.jsonl")
    select(command, hub, "--rows", str(tmp_path / "shuffled.jsonl"))
    again, same_candidates = chosen(command)
    assert same_candidates == candidates
    assert again["rows_seen"] == first["rows_seen"]
    assert again["rows_left_out"] == first["rows_left_out"]


def test_first_rule(hub, command):
    "In the order of the table, across its files."
    select(command, hub, "--rule", "first")
    record, candidates = chosen(command)
    order = [int(r["order"]) for r in csv.DictReader(candidates.decode().splitlines())]
    assert order == sorted(order)
    assert len(order) == 50
    assert record["rows_seen"] == order[-1] + 1
    assert record["rows_seen"] == record["rows_qualifying"] + sum(record["rows_left_out"].values())


CARD = f"""---
configs:
- config_name: {CONFIGURATION}
  data_files:
  - split: AES_vc2vicuna
    path: InternVid-18M-aes.jsonl
---
# InternVid
"""


def forget_conversion(hub):
    "As if the hub had converted nothing."
    for name in [n for n in hub.files if n.startswith(CONVERTED)]:
        del hub.files[name]


def test_partial_conversion(hub, command, tmp_path):
    "Where the hub has converted only a part, and the page names no file, the part is read, and is said to be one."
    forget_conversion(hub)
    part = as_parquet(table()[:200], tmp_path / "part.parquet")
    hub.files[f"{CONVERTED}/partial-AES_vc2vicuna/0000.parquet"] = part
    done = select(command, hub)
    assert "PARTIAL" in done.stdout
    assert "200 read of 17,573,429" in done.stdout
    assert chosen(command)[0]["partial"]


def test_the_datasets_own_file(hub, command, tmp_path):
    "Where the hub has converted only a part, the dataset's own file is read, if its page names one."
    forget_conversion(hub)
    rows = table()
    part = as_parquet(rows[:200], tmp_path / "part.parquet")
    hub.files[f"{CONVERTED}/partial-AES_vc2vicuna/0000.parquet"] = part
    rows.write_ndjson(tmp_path / "whole.jsonl")
    hub.files[f"datasets/{TABLE}/InternVid-18M-aes.jsonl"] = tmp_path / "whole.jsonl"
    hub.files[f"datasets/{TABLE}/README.md"] = CARD.encode()
    hub.commit = "0123456789" * 4
    select(command, hub)
    record, _ = chosen(command)
    assert record["rows_seen"] == len(rows)
    assert record["files"][0]["name"] == "InternVid-18M-aes.jsonl"
    assert record["commit"] == hub.commit


def absent(hub, tmp_path):
    forget_conversion(hub)


def damaged(hub, tmp_path):
    for name in [n for n in hub.files if n.startswith(CONVERTED)]:
        hub.files[name] = b"PAR1 and then nothing" * 100


def of_other_columns(hub, tmp_path):
    for name in [n for n in hub.files if n.startswith(CONVERTED)]:
        hub.files[name] = as_parquet(table().drop("Caption"), tmp_path / "other.parquet")


FAULTY_TABLES = [(absent, "AES_vc2vicuna"), (damaged, "cannot be read"), (of_other_columns, "Caption")]


@pytest.mark.parametrize("spoil, words", FAULTY_TABLES, ids=[spoil.__name__ for spoil, _ in FAULTY_TABLES])
def test_tables_that_are_none(hub, command, tmp_path, spoil, words):
    "A table that is not there, is damaged or has other columns: one line that names it."
    spoil(hub, tmp_path)
    assert words in select_fails(command, hub)
