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
from frames_matter.data.export import export_dataset
from frames_matter.data.own import OWN, own_rows

SPLITS = ["train"] * 5 + ["alignment", "test", "pool", "pool"]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(len(SPLITS)):
        picture = ffmpeg.input(f"testsrc2=s=64x{48 + 2 * i}:r=8:d=2.5", f="lavfi").output(
            str(folder / f"{i}.mp4"), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", threads=1
        )
        picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return folder


@pytest.fixture
def built(films, tmp_path, monkeypatch):
    "A profile whose manifest and clips are there."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "home"))
    P, rows = get_profile("smoke"), []
    (data_dir(P) / "clips").mkdir(parents=True)
    for i, split in enumerate(SPLITS):
        clip = f"film{i // 2}_{i}.000_{i + 2}.500"
        path = data_dir(P) / "clips" / f"{clip}.mp4"
        path.write_bytes((films / f"{i}.mp4").read_bytes())
        rows.append(
            dict(
                clip_id=clip,
                youtube_id=f"film{i // 2}",
                start=i,
                end=i + 2.5,
                caption=f'Pattern {i}, "ü"\u2028NA.',
                aesthetic_score=5.5 if i % 2 else None,
                split=split,
                status="kept",
                reason=None,
                sha256=file_sha256(path),
                bytes=path.stat().st_size,
                frames=20,
                fps=8.0,
                width=64,
                height=48 + 2 * i,
                seconds=2.5,
            )
        )
    rows.append(
        dict(
            clip_id="gone_0.000_3.000",
            youtube_id="gone",
            start=0,
            end=3,
            caption="Gone.",
            status="rejected",
            reason="not fetched",
        )
    )
    manifest_dir(P).mkdir(parents=True)
    pd.DataFrame(rows).to_csv(manifest_dir(P) / "clips.csv", index=False)
    return P, {r["clip_id"]: r for r in rows[:-1]}


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def test_webdataset_reads_the_tars(built, tmp_path):
    "Every clip once, with its caption and what is known of it, bytes as they are; shards as small as asked; the same bytes every time."
    webdataset = pytest.importorskip("webdataset")
    P, rows = built
    folder = export_dataset(P, tmp_path / "out", "webdataset", shard_mb=0.04, progress=False)
    tars, seen = sorted(p.name for p in folder.glob("*.tar")), {}
    assert {t.rsplit("-", 1)[0] for t in tars} == {"train", "validation", "test", "pool"} and sum(
        t.startswith("train") for t in tars
    ) > 1
    assert all((folder / t).stat().st_size <= 40_000 + 10_240 for t in tars)
    for name in tars:
        for sample in webdataset.WebDataset(str(folder / name), shardshuffle=False):
            about = json.loads(sample["json"])
            row = rows[about["clip_id"]]
            assert (
                sample["mp4"] == (data_dir(P) / "clips" / f"{row['clip_id']}.mp4").read_bytes()
                and sample["txt"].decode() == about["caption"] == row["caption"]
                and "." not in sample["__key__"]
            )
            assert (
                about["split"],
                about["source"],
                about["source_start"],
                about["source_end"],
                about["frames"],
                about["aesthetic_score"],
            ) == (row["split"], row["youtube_id"], row["start"], row["end"], 20, row["aesthetic_score"])
            assert (
                name.startswith({"alignment": "validation"}.get(row["split"], row["split"]))
                and sample["__key__"] not in seen
            )
            seen[sample["__key__"]] = about["clip_id"]
    assert sorted(seen.values()) == sorted(rows)
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
            assert Path(item["video"]["path"]).read_bytes() == (
                data_dir(P) / "clips" / f"{row['clip_id']}.mp4"
            ).read_bytes() and (item["caption"], item["split"], item["source"], item["aesthetic_score"]) == (
                row["caption"],
                row["split"],
                row["youtube_id"],
                row["aesthetic_score"],
            )
    assert sorted(found["test"]["split"]) == ["pool", "pool", "test"]


def test_what_went_out_comes_in_again(built, tmp_path):
    "Exported tars are clips of one's own: same captions, same groups, whole clips."
    P, rows = built
    folder = export_dataset(P, tmp_path / "out", "webdataset", shard_mb=0.04, progress=False)
    again = own_rows(draft("again", "smoke", **OWN | dict(rows=str(folder))))
    assert (
        (again.status == "").all()
        and sorted(zip(again.caption, again.youtube_id))
        == sorted((" ".join(r["caption"].split()), r["youtube_id"]) for r in rows.values())
        and set(again.end) == {2.5}
    )
    assert {Path(a).read_bytes() for a in again.address} == {p.read_bytes() for p in (data_dir(P) / "clips").iterdir()}


@pytest.mark.parametrize("format", export.FORMATS)
def test_whole_or_not_at_all(built, tmp_path, monkeypatch, format):
    "An interrupted export leaves nothing, an interrupted second one leaves the first; other folders are not touched; a spoilt clip stops it."
    pytest.importorskip("polars")
    P, rows = built
    real, calls = export._whole, []

    def interrupted(row):
        calls.append(row)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return real(row)

    monkeypatch.setattr(export, "_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_dataset(P, tmp_path / "out" / "here", format, progress=False)
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.setattr(export, "_whole", real)
    (tmp_path / "out" / ".here.new.partial").mkdir()  # of one that was killed
    (tmp_path / "out" / ".here.new.partial" / "train-000000.tar").write_bytes(b"half")
    first = content(export_dataset(P, tmp_path / "out" / "here", format, progress=False))
    monkeypatch.setattr(export, "_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_dataset(P, tmp_path / "out" / "here", format, progress=False)
    monkeypatch.setattr(export, "_whole", real)
    assert content(tmp_path / "out") == {f"here/{k}": v for k, v in first.items()}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for place in ("full", "file", "file/below"):
        with pytest.raises(UserError, match="no export|cannot be written"):
            export_dataset(P, tmp_path / place, format, progress=False)
    (tmp_path / "empty").mkdir()
    assert content(export_dataset(P, tmp_path / "empty", format, progress=False)) == first
    (data_dir(P) / "clips" / f"{list(rows)[3]}.mp4").write_bytes(b"other")
    with pytest.raises(UserError, match="not the clip of the manifest"):
        export_dataset(P, tmp_path / "empty", format, progress=False)
    (data_dir(P) / "clips" / f"{list(rows)[3]}.mp4").unlink()
    with pytest.raises(UserError, match="not there"):
        export_dataset(P, tmp_path / "empty", format, progress=False)
    assert content(tmp_path / "empty") == first and (tmp_path / "full" / "thesis.tex").read_text() == "x"


def test_without_polars(built, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"frames_matter\[scale\]"):
        export_dataset(built[0], tmp_path / "out", "datasets", progress=False)
    assert (
        not (tmp_path / "out").exists()
        and export_dataset(built[0], tmp_path / "out", "webdataset", progress=False).is_dir()
    )
