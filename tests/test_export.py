"Exports as others' readers see them: webdataset and datasets, which are asked, not imitated."

import json
import os
import sys
from pathlib import Path

import ffmpeg
import pandas as pd
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import file_sha256
from frames_matter.base.profiles import data_dir, draft, get_profile, manifest_dir
from frames_matter.data import export
from frames_matter.data.export import EXPORT_FORMATS, export_dataset
from frames_matter.data.own import OWN, own_rows

SPLITS = ["train"] * 5 + ["alignment", "test", "pool", "pool"]
FILMS = [0, 0, 1, 1, 1, 2, 3, 4, 4]  # none is in two splits


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(len(SPLITS)):
        picture = ffmpeg.input(f"testsrc2=s=64x{48 + 2 * i}:r=8:d=2.5", f="lavfi").output(
            str(folder / f"{i}.mp4"), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", threads=1
        )
        picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return folder


def kept_row(i, split, path):
    "A row of the manifest: a clip of 2.5 s."
    asked = dict(clip_id=path.stem, youtube_id=f"film{FILMS[i]}", start=i, end=i + 2.5, split=split)
    said = dict(caption=f'Pattern {i}, "ü"\u2028NA.', aesthetic_score=5.5 if i % 2 else None)
    facts = dict(sha256=file_sha256(path), bytes=path.stat().st_size, frames=20, fps=8.0, width=64, height=48 + 2 * i)
    return asked | said | dict(status="kept", reason=None, seconds=2.5) | facts


REJECTED = dict(
    clip_id="gone_0.000_3.000",
    youtube_id="gone",
    start=0,
    end=3,
    caption="Gone.",
    status="rejected",
    reason="not fetched",
)


@pytest.fixture
def built(films, tmp_path, monkeypatch):
    "A profile whose manifest and clips are there, and its kept rows by clip."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "home"))
    P, rows = get_profile("smoke"), []
    (data_dir(P) / "clips").mkdir(parents=True)
    for i, split in enumerate(SPLITS):
        path = data_dir(P) / "clips" / f"film{FILMS[i]}_{i}.000_{i + 2}.500.mp4"
        path.write_bytes((films / f"{i}.mp4").read_bytes())
        rows.append(kept_row(i, split, path))
    manifest_dir(P).mkdir(parents=True)
    pd.DataFrame([*rows, REJECTED]).to_csv(manifest_dir(P) / "clips.csv", index=False)
    return P, {row["clip_id"]: row for row in rows}


def clip_bytes(P, clip_id):
    return (data_dir(P) / "clips" / f"{clip_id}.mp4").read_bytes()


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_webdataset_reads_the_tars(built, tmp_path):
    "Every clip once, with its caption and what is known of it, bytes as they are."
    webdataset = pytest.importorskip("webdataset")
    P, rows = built
    folder = export_dataset(P, tmp_path / "out", "webdataset", shard_mb=0.04, progress=False)
    seen = {}
    for tar in sorted(folder.glob("*.tar")):
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
            about = json.loads(sample["json"])
            row = rows[about["clip_id"]]
            assert sample["mp4"] == clip_bytes(P, row["clip_id"])
            assert sample["txt"].decode() == about["caption"] == row["caption"]
            for name in ("split", "frames", "aesthetic_score"):
                assert about[name] == row[name]
            for ours, theirs in dict(youtube_id="source", start="source_start", end="source_end").items():
                assert about[theirs] == row[ours]
            assert tar.name.startswith({"alignment": "validation"}.get(row["split"], row["split"]))
            assert "." not in sample["__key__"]
            assert sample["__key__"] not in seen
            seen[sample["__key__"]] = about["clip_id"]
    assert sorted(seen.values()) == sorted(rows)


def test_shards(built, tmp_path):
    "As small as asked, and the same bytes every time."
    P, _ = built
    folder = export_dataset(P, tmp_path / "out", "webdataset", shard_mb=0.04, progress=False)
    tars = list(folder.glob("*.tar"))
    places = [tar.name.rsplit("-", 1)[0] for tar in tars]
    assert set(places) == {"train", "validation", "test", "pool"}
    assert places.count("train") > 1
    assert all(tar.stat().st_size <= 40_000 + 10_240 for tar in tars)
    first = content(folder)
    for path in (data_dir(P) / "clips").iterdir():
        os.utime(path, (1, 1))
    assert content(export_dataset(P, tmp_path / "again", "webdataset", shard_mb=0.04, progress=False)) == first


def test_datasets_reads_the_folder(built, tmp_path, monkeypatch):
    "Three splits with their videos and what is known of them; the pool is in test."
    for name in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("polars")
    P, rows = built
    folder = export_dataset(P, tmp_path / "out", "datasets", progress=False)
    found = datasets.load_dataset("videofolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    assert {k: len(v) for k, v in found.items()} == {"train": 5, "validation": 1, "test": 3}
    for place in found.values():
        for item in place.cast_column("video", datasets.Video(decode=False)):
            row = rows[item["clip_id"]]
            assert Path(item["video"]["path"]).read_bytes() == clip_bytes(P, row["clip_id"])
            assert item["source"] == row["youtube_id"]
            for name in ("caption", "split", "aesthetic_score"):
                assert item[name] == row[name]
    assert sorted(found["test"]["split"]) == ["pool", "pool", "test"]


def test_what_went_out_comes_in_again(built, tmp_path):
    "Exported tars are clips of one's own: same captions, same groups, same splits, whole clips."
    P, rows = built
    folder = export_dataset(P, tmp_path / "out", "webdataset", shard_mb=0.04, progress=False)
    again = own_rows(draft("again", "smoke", **OWN | dict(rows=str(folder))))
    assert (again.status == "").all()
    expected = sorted((" ".join(row["caption"].split()), row["youtube_id"]) for row in rows.values())
    assert sorted(zip(again.caption, again.youtube_id, strict=True)) == expected
    assert set(again.end) == {2.5}
    split_of = {row["sha256"]: row["split"] for row in rows.values()}
    assert [split_of[file_sha256(address)] for address in again.address] == list(again.split)
    assert {Path(a).read_bytes() for a in again.address} == {p.read_bytes() for p in (data_dir(P) / "clips").iterdir()}


each_format = pytest.mark.parametrize("format", EXPORT_FORMATS)


@pytest.fixture
def interrupt(monkeypatch):
    "A function that has every export interrupted at its fifth clip, until it is called with False."
    whole = export._clip_bytes

    def interrupt(yes=True):
        calls = []

        def interrupted(row):
            calls.append(row)
            if len(calls) > 4:
                raise KeyboardInterrupt
            return whole(row)

        monkeypatch.setattr(export, "_clip_bytes", interrupted if yes else whole)

    return interrupt


@each_format
def test_interrupted(built, tmp_path, interrupt, format):
    "An interrupted export leaves nothing, an interrupted second one the first; what a killed one left does no harm."
    pytest.importorskip("polars")
    P, _ = built
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        export_dataset(P, tmp_path / "out" / "here", format, progress=False)
    assert list((tmp_path / "out").iterdir()) == []
    interrupt(False)
    (tmp_path / "out" / ".here.new.partial").mkdir()  # of one that was killed
    (tmp_path / "out" / ".here.new.partial" / "train-000000.tar").write_bytes(b"half")
    first = content(export_dataset(P, tmp_path / "out" / "here", format, progress=False))
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        export_dataset(P, tmp_path / "out" / "here", format, progress=False)
    assert content(tmp_path / "out") == {f"here/{name}": data for name, data in first.items()}


@each_format
def test_other_folders_are_not_touched(built, tmp_path, format):
    pytest.importorskip("polars")
    P, _ = built
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for place in ("full", "file", "file/below"):
        with pytest.raises(UserError, match="no export|as if it were a folder"):
            export_dataset(P, tmp_path / place, format, progress=False)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "x"
    first = content(export_dataset(P, tmp_path / "new", format, progress=False))
    (tmp_path / "empty").mkdir()
    assert content(export_dataset(P, tmp_path / "empty", format, progress=False)) == first


@each_format
def test_a_spoilt_clip_stops_it(built, tmp_path, format):
    "And the export of before stays."
    pytest.importorskip("polars")
    P, rows = built
    first = content(export_dataset(P, tmp_path / "out", format, progress=False))
    clip = data_dir(P) / "clips" / f"{list(rows)[3]}.mp4"
    clip.write_bytes(b"other")
    with pytest.raises(UserError, match="not the clip of the manifest"):
        export_dataset(P, tmp_path / "out", format, progress=False)
    clip.unlink()
    with pytest.raises(
        UserError, match="not there; make it again with `frames-matter dataset build -p smoke` and then"
    ):
        export_dataset(P, tmp_path / "out", format, progress=False)
    assert content(tmp_path / "out") == first


def test_without_polars(built, tmp_path, monkeypatch):
    P, _ = built
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"frames_matter\[scale\]"):
        export_dataset(P, tmp_path / "out", "datasets", progress=False)
    assert not (tmp_path / "out").exists()
    assert export_dataset(P, tmp_path / "out", "webdataset", progress=False).is_dir()
