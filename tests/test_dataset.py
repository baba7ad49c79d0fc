"""Building a dataset from a site that misbehaves, from two processes at once, and across kill -9 at every step;
rebuilding and verifying one."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import ffmpeg as ffmpeg_python
import pandas as pd
import pytest
from fault_site import FAULTS, MANNERS, Site, fault_of, row, rows, serve_faults

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import Profile, data_dir, get_profile, manifest_dir
from frames_matter.data import fetch
from frames_matter.data.build import BuildTools, build_dataset
from frames_matter.data.cut import cut_clip
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.data.failures import FAILURE_KINDS, CircuitBreaker
from frames_matter.data.fetch_and_cut import make_clips
from frames_matter.data.ledger import Ledger, read_states
from frames_matter.data.loopback import serve_folder
from frames_matter.data.manifest import load_manifest, verify
from frames_matter.data.sources import rotted

GOOD = [f"good{i}" for i in range(6)]


def ffmpeg(*words):
    return subprocess.run([find_ffmpeg(), "-v", "error", "-nostdin", "-y", *map(str, words)], check=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home of its own; a function that puts rows there and gives a profile for them."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    return functools.partial(put, tmp_path)


def put(folder, rows, template, **overrides):
    P = get_profile(
        "smoke",
        source="hub",
        url_template=template,
        **dict(n_clips=len(GOOD), n_pool=0, patience=0.0, per_host=4) | overrides,
    )
    (folder / "data" / "smoke").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "smoke" / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return P


def ledger_of(P):
    return data_dir(P) / "ledger.sqlite"


def states(P):
    return Counter(state for (state,) in read_states(ledger_of(P), "state"))


def asked_of(site):
    return {fault_of(name) for name in names_asked(site)}


def names_asked(site):
    return {
        re.search(r"v=(\w+)|/(\w+)\.\w+$", path).group(1) or re.search(r"/(\w+)\.\w+$", path).group(1)
        for _, path in site.asked
    }


def left_over(P):
    return [str(p) for p in data_dir(P).rglob("*") if "partial" in p.name]


def forget(P):
    "As if the process had been killed when all was written but this."
    with Ledger(ledger_of(P)) as ledger:
        ledger.set_fact("manifest", "")


ONE_OF_EACH = [f"{name}01" for name in FAULTS]
MANY_FAULTS = BuildTools(
    manners=dataclasses.replace(MANNERS, attempts=2, stall=1.0),
    breaker=functools.partial(CircuitBreaker, limit=100),  # more failures than there are faults
)
KIND_WHEN_CUT = {"moov": "damaged", "sound": "not_video", "still": "duration", "brief": "duration"}
SIZE_WHEN_CUT = {"rotated": (72, 128), "odd": (130, 72)}  # all others are of 128 x 72


@dataclasses.dataclass
class BuildOfFaults:
    "What a build made of a video of each fault."

    folder: Path
    site: Site
    profile: Profile
    manifest: pd.DataFrame
    kinds: dict  # of the failures, by video
    attempts: dict  # to fetch it, by video

    def build_again(self):
        return build_dataset(self.profile, progress=False, tools=MANY_FAULTS)


@pytest.fixture(scope="module")
def build_of_faults(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    with serve_faults(films) as site:
        with pytest.MonkeyPatch.context() as m:
            m.setenv("FRAMES_MATTER_HOME", str(folder))
            table = [row(i) for i in ONE_OF_EACH]
            P = put(folder, table, site.template, n_clips=len(table), workers=4)
            manifest = build_dataset(P, progress=False, tools=MANY_FAULTS)
            kinds, attempts = (dict(read_states(ledger_of(P), "youtube_id", what)) for what in ("kind", "attempts"))
        yield BuildOfFaults(folder, site, P, manifest, kinds, attempts)


@pytest.fixture
def faulty(build_of_faults, monkeypatch):
    "The build of a video of each fault, with its home and a site that has not been asked since."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(build_of_faults.folder))
    build_of_faults.site.asked.clear()
    return build_of_faults


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_as_the_table_says(faulty, name):
    "In a whole clip, or in a reason of one line without this machine's address."
    fault, video = FAULTS[name], f"{name}01"
    found = faulty.manifest.set_index("youtube_id").loc[video]
    assert found.status == fault.ends, found.reason
    assert faulty.attempts[video] == (fault.attempts or MANY_FAULTS.manners.attempts)
    if fault.ends == "kept":
        assert (found.width, found.height) == SIZE_WHEN_CUT.get(name, (128, 72))
        assert abs(found.seconds - 4) <= 1 / found.fps
    else:
        assert fault.word in found.reason
        assert "\n" not in found.reason
        assert "127.0.0.1" not in found.reason
        assert faulty.kinds[video] == (fault.kind or KIND_WHEN_CUT[name])


def test_a_faulty_sites_manifest_is_whole(faulty):
    "It has a row of each video, in order, and the clips on the disk are those of its kept rows."
    P = faulty.profile
    assert list(faulty.manifest.youtube_id) == ONE_OF_EACH
    assert left_over(P) == []
    assert verify(P) == []
    assert sorted(p.stem for p in (data_dir(P) / "clips").iterdir()) == sorted(load_manifest(P).clip_id)
    assert load_manifest(P.name).equals(load_manifest(P))


def test_a_finished_build_asks_for_nothing(faulty):
    assert faulty.build_again().equals(faulty.manifest)
    assert faulty.site.asked == []


def test_a_build_that_goes_on_asks_only_for_what_may_have_passed(faulty):
    forget(faulty.profile)
    assert faulty.build_again().equals(faulty.manifest)
    may_have_passed = {name for name, fault in FAULTS.items() if fault.kind and FAILURE_KINDS[fault.kind].transient}
    assert asked_of(faulty.site) == may_have_passed


def test_failures_that_pass(home, site):
    "A site that is busy now is asked again by the next build that is told to; what is gone is not."
    P = home([row(i) for i in ("busy1", "missing1", *GOOD[:4])], site.template, n_clips=6)
    first = build_dataset(P, progress=False)
    assert list(first.status) == ["rejected", "rejected", "kept", "kept", "kept", "kept"] and "503" in first.reason[0]
    site.asked.clear()
    assert build_dataset(P, progress=False).equals(first) and site.asked == [], (
        "the readers of a finished build must not change it"
    )
    assert list(build_dataset(P, progress=False, again=True).status) == [
        "kept",
        "rejected",
        "kept",
        "kept",
        "kept",
        "kept",
    ] and names_asked(site) == {"busy1"}


def test_each_source_is_fetched_once(home, site):
    "However many clips a video holds, and whether it can be had or not."
    times = [("00:00:00.000", "00:00:03.500"), ("00:00:01.000", "00:00:05.000"), ("00:00:04.000", "00:00:07.500")]
    P = home([row(i, *t) for t in times for i in ("missing", *GOOD[:3])], site.template, n_clips=9)
    manifest = build_dataset(P, progress=False)
    assert (manifest.status == "kept").sum() == 9 and (
        manifest.reason == "not fetched: HTTP Error 404: Not Found"
    ).sum() == 3
    assert not manifest.clip_id.duplicated().any() and list(manifest.youtube_id) == ["missing", *GOOD[:3]] * 3, (
        "a row was left out or tried twice"
    )

    def requests(name):
        return sum(path.endswith((f"v={name}", f"/{name}.mp4")) for _, path in site.asked)

    asked = {i: requests(i) for i in GOOD[:3]}
    assert requests("missing") == 1
    one = home([row(i) for i in GOOD[2:]], site.template, n_clips=4)
    build_dataset(one, progress=False)
    assert set(asked.values()) == {requests(GOOD[3])}, "three clips cost more requests than one"
    assert (
        sorted(p.stem for p in (data_dir(one) / "clips").iterdir()) == sorted(load_manifest(one).clip_id)
        and verify(one) == []
    ), "clips of another choice were left"


def test_hostile_and_odd_rows(home, site, tmp_path):
    """Ids that are paths, options or shell; impossible times; missing captions and scores; clips given twice:
    rejected, and nothing outside is touched."""
    first, *bad = rows()
    P = home(
        [first[0]] + [r for r, _ in bad] + [row(i) for i in GOOD] + [row("\ud800")],
        site.template,
        n_clips=len(GOOD) + 2,
    )
    manifest = build_dataset(P, progress=False)
    for (_, word), r in zip(bad, manifest[1:].itertuples(), strict=False):
        assert r.status == "rejected" and word in r.reason and "\n" not in r.reason, r
    assert manifest.status[0] == "kept" and list(manifest.status[1 + len(bad) :]) == ["kept"] * len(GOOD) + ["rejected"]
    assert names_asked(site) == {"good", *GOOD} and all(len(str(v)) < 200 for v in manifest.youtube_id)
    assert {p.name for p in tmp_path.iterdir()} == {"data", "data_manifest"} and {
        p.stem for p in (data_dir(P) / "sources").iterdir()
    } == {"good", *GOOD}


def test_repetitions_across_pieces(home, site):
    "Rows are read a piece at a time; a clip given twice is one, however far apart."
    P = home([row(i) for i in GOOD[:3]] + [row(GOOD[0]), row("missing"), row(GOOD[3])], site.template, n_clips=4)
    manifest = build_dataset(P, progress=False, tools=BuildTools(piece=2))
    assert (
        list(manifest.status) == ["kept"] * 3 + ["rejected"] * 2 + ["kept"]
        and manifest.reason[3] == "the same clip as an earlier row"
    )


def test_silent_site(home, films):
    "A site that does not answer stops the build and condemns no row: with the site back, the next build goes on."
    with serve_folder(films) as url:
        pass
    P = home([row(i) for i in GOOD], f"{url}/{{id}}.mp4")
    with pytest.raises(UserError, match="check the network"):
        build_dataset(P, progress=False)
    assert not (manifest_dir(P) / "clips.csv").exists() and states(P) == {"selected": 6}
    with serve_faults(films) as site:
        assert (build_dataset(home([row(i) for i in GOOD], site.template), progress=False).status == "kept").all()


def test_wall(home, site):
    """Five videos in a row that are refused are no fault of theirs: the build stops with advice, and what was had
    before stays."""
    wall = [f"forbidden{i}" for i in range(8)]
    P = home([row(i) for i in [*GOOD, "missing1", *wall]], site.template, n_clips=15, workers=1)
    with pytest.raises(UserError, match="cookies"):
        build_dataset(P, progress=False)
    assert states(P) == {"checked": 6, "rejected": 1, "selected": 8} and left_over(P) == []
    site.asked.clear()
    with pytest.raises(UserError, match="cookies"):
        build_dataset(P, progress=False)
    assert asked_of(site) == {"forbidden"}


def test_too_few(home, site):
    "Four clips of three videos are the least; what is missing is said with the commonest reasons."
    P = home([row(GOOD[0]), row(GOOD[1]), row("missing"), row("html")], site.template)
    with pytest.raises(
        UserError, match="Only 2 good clips of 4 rows tried; 4 clips of three different videos are the least .*404"
    ):
        build_dataset(P, progress=False)
    with pytest.raises(UserError, match="url_template"):
        build_dataset(dataclasses.replace(P, url_template=""), progress=False)


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\x00\xff\xfe\x00" * 50, b"a,b\n1,2\n", b'clip_id,youtube_id,caption,split,status\n"', b"clip_id"],
)
def test_unreadable_manifest(tmp_path, content):
    "An absent, empty, binary or foreign clips.csv is said to be one, by its name."
    table = tmp_path / "clips.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(UserError, match="clips.csv") as e:
        VideoCaptionDataset(table, "train")
    assert "\n" not in str(e.value)


def test_full_disk(home, site, monkeypatch):
    "No space left is nobody's row: the build stops with one line."
    P = home([row(i) for i in GOOD], site.template)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(fetch, "_put_in_place", full)
        with pytest.raises(UserError, match="No space left"):
            build_dataset(P, progress=False)

    def no_room(stream):
        raise ffmpeg_python.Error("ffmpeg", b"", b"av_interleaved_write_frame(): No space left on device\n")

    tools = BuildTools(work=functools.partial(make_clips, cut=functools.partial(cut_clip, run=no_room)))
    with pytest.raises(UserError, match="No space left"):
        build_dataset(P, progress=False, tools=tools)
    assert (
        left_over(P) == [] and "rejected" not in states(P) and (build_dataset(P, progress=False).status == "kept").all()
    )


def test_little_room(home, site):
    """Fetched videos stay for other choices of rows, unless the disk is nearly full: then each goes when its rows
    have ended, and none is fetched twice."""
    P = home([row(i) for i in GOOD] + [row(i, "00:00:02.000") for i in GOOD], site.template, n_clips=9)
    build_dataset(P, progress=False, tools=BuildTools(keep_free=2**62))
    assert {p.stem for p in (data_dir(P) / "sources").iterdir()} == set(GOOD[3:]), (
        "three videos have rows that were not tried"
    )


def test_missing_ffmpeg(home, site, monkeypatch):
    "Without an ffmpeg nothing is fetched, and one line says what to install."
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="imageio-ffmpeg"):
        build_dataset(home([row(i) for i in GOOD], site.template), progress=False)
    assert site.asked == []


@pytest.fixture
def folder_with_a_long_film(films, tmp_path):
    "A film of three minutes that does not compress well, and two short ones."
    folder = tmp_path / "site"
    folder.mkdir()
    picture = "testsrc2=s=320x180:r=25:d=180,noise=alls=40:allf=t"
    encoding = ("-c:v", "libx264", "-preset", "ultrafast", "-b:v", "1M", "-g", "50", "-movflags", "+faststart")
    ffmpeg("-f", "lavfi", "-i", picture, "-pix_fmt", "yuv420p", *encoding, folder / "long.mp4")
    for i in range(2):
        shutil.copy(films / "good.mp4", folder / f"good{i}.mp4")
    return folder


def test_sections(home, folder_with_a_long_film):
    """Of a long film only what its rows need is fetched, once for all of them, and the clips are those cut from the
    whole."""
    parts_of_it = [row("long", "00:01:01.040", "00:01:05.200"), row("long", "00:01:10.000", "00:01:13.500")]

    def build_afresh(**options):
        "The manifest, and how many bytes of the long film were fetched."
        with serve_folder(folder_with_a_long_film) as url:
            P = home([*parts_of_it, row("good0"), row("good1")], f"{url}/{{id}}.mp4", n_clips=4, **options)
            shutil.rmtree(data_dir(P) / "sources", ignore_errors=True)
            manifest = build_dataset(P, progress=False)
        return manifest, sum(p.stat().st_size for p in (data_dir(P) / "sources").glob("long.*"))

    cut_from_parts, fetched = build_afresh()
    cut_from_whole, _ = build_afresh(sections=False)
    assert list(cut_from_parts.status) == ["kept"] * 4
    assert 0 < fetched < (folder_with_a_long_film / "long.mp4").stat().st_size / 4
    assert cut_from_parts.sha256.equals(cut_from_whole.sha256)


def test_sound(tmp_path):
    "The sound is dropped, or kept on request; a film without sound is as good."
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc=s=64x48:r=10:d=6",
        "-f",
        "lavfi",
        "-i",
        "sine=d=6",
        "-pix_fmt",
        "yuv420p",
        tmp_path / "film.mp4",
    )

    def streams(source, name, *span, **options):
        cut_clip(tmp_path / source, tmp_path / name, *span, **options)
        return subprocess.run([find_ffmpeg(), "-i", tmp_path / name], capture_output=True, text=True).stderr

    assert "Audio" not in streams("film.mp4", "quiet.mp4", 1, 4)
    assert "Audio: aac" in streams("film.mp4", "loud.mp4", 1, 4, audio=True)
    streams("film.mp4", "again.mp4", 1, 4, audio=True)
    assert (tmp_path / "loud.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()
    assert "Audio" not in streams("quiet.mp4", "still_quiet.mp4", 0, 2, audio=True)


# --- processes ---

BUILD = """
import functools, json, os, signal, sys, threading, time
from frames_matter.base.profiles import get_profile
from frames_matter.data.build import BuildTools, build_dataset
from frames_matter.data.cut import cut_clip, run_ffmpeg
from frames_matter.data.fetch_and_cut import make_clips
from frames_matter.data.ledger import Ledger

point, fields = sys.argv[1], json.loads(sys.argv[2])
seen = []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(Ledger):
    def add(self, rows):
        def until_the_third_piece():
            for n, row in enumerate(rows):
                if point == "rows" and n == 8:
                    die()
                yield row
        super().add(until_the_third_piece())

    def record(self, event):
        fresh = super().record(event)
        seen.append(event["state"])
        return die() if seen.count(point) == 3 else fresh

    def set_fact(self, name, value):
        die() if name == point else super().set_fact(name, value)

def halfway(stream):
    while not seen:  # until one is recorded as fetched
        time.sleep(0.01)
    return run_ffmpeg(stream, "./halfway")

work = functools.partial(make_clips, cut=functools.partial(cut_clip, run=halfway)) if point == "cutting" else make_clips
tools = BuildTools(work=work, ledger=Dying, piece=4 if point == "rows" else 1000)
build_dataset(get_profile("smoke", **fields), progress=False, tools=tools)
"""

HALFWAY = """#!/bin/sh
for word; do case "$word" in *.partial.mp4) printf half > "$word";; esac; done
kill -9 $PPID
"""

ROWS = [row(i) for i in (*GOOD[:3], "missing1", *GOOD[3:])] + [row(i, "00:00:02.000") for i in GOOD]


@pytest.fixture(scope="module")
def undisturbed(films, tmp_path_factory):
    "The manifest of a build that nothing disturbs."
    folder = tmp_path_factory.mktemp("undisturbed")
    with serve_faults(films) as site, pytest.MonkeyPatch.context() as m:
        m.setenv("FRAMES_MATTER_HOME", str(folder))
        P = put(folder, ROWS, site.template, n_clips=12)
        build_dataset(P, progress=False)
        return (manifest_dir(P) / "clips.csv").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
@pytest.mark.parametrize("point", ["rows", "fetched", "cutting", "cut", "checked", "manifest"])
def test_killed_and_resumed(point, home, site, undisturbed, tmp_path):
    """kill -9 at any step: no partial file is taken for whole, nothing finished is done again, and the manifest is
    that of an undisturbed build."""
    P = home(ROWS, site.template, n_clips=12)
    (tmp_path / "halfway").write_text(HALFWAY)
    (tmp_path / "halfway").chmod(0o755)
    fields = {k: getattr(P, k) for k in ("source", "url_template", "n_clips", "n_pool", "patience", "per_host")}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, point, json.dumps(fields)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert point == "manifest" or not (manifest_dir(P) / "clips.csv").exists()
    clips, before = data_dir(P) / "clips", list(read_states(ledger_of(P), "youtube_id", "clip_id", "state"))
    had = {video for video, _, state in before if state in ("fetched", "cut", "checked")}
    made = {
        clip: (clips / f"{clip}.mp4").stat().st_mtime_ns for _, clip, state in before if state in ("cut", "checked")
    }
    at_least = dict(rows=(0, 0), fetched=(3, 0), cutting=(1, 0), cut=(2, 3), checked=(2, 3), manifest=(6, 12))[point]
    assert len(had) >= at_least[0] and len(made) >= at_least[1] and len(before) == (0 if point == "rows" else 13)
    if point == "cutting":
        assert any(p.read_bytes() == b"half" for p in clips.glob(".*.partial.mp4"))
    site.asked.clear()
    manifest = build_dataset(P, progress=False)
    assert (manifest.status == "kept").sum() == 12 and verify(P) == [] and left_over(P) == []
    assert all((clips / f"{i}.mp4").stat().st_mtime_ns == t for i, t in made.items()), "a finished clip was cut again"
    assert not names_asked(site) & had, "a fetched video was fetched again"
    assert ("missing1" in names_asked(site)) <= any(
        video == "missing1" and state == "selected" for video, _, state in before
    ) or point == "rows", "what is gone was asked again"
    assert (manifest_dir(P) / "clips.csv").read_bytes() == undisturbed


def test_doubtful_files(home, site, undisturbed):
    """Of what is recorded only whole files are believed: a clip or a video that has changed is made or fetched
    again, and the rest is left."""
    P = home(ROWS, site.template, n_clips=12)
    build_dataset(P, progress=False)
    clips, sources = data_dir(P) / "clips", data_dir(P) / "sources"
    clip, video = clips / f"{GOOD[0]}_1.000_5.000.mp4", sources / f"{GOOD[1]}.mp4"
    clip.write_bytes(clip.read_bytes()[:-10] + b"0123456789")
    video.write_bytes(video.read_bytes()[:1000])
    (clips / f"{GOOD[1]}_2.000_5.000.mp4").unlink()
    (clips / ".0badcafe.partial.mp4").write_bytes(b"half")
    times = {p: p.stat().st_mtime_ns for p in clips.glob("good[2-5]*")}
    forget(P)
    site.asked.clear()
    build_dataset(P, progress=False)
    assert (
        names_asked(site) == {GOOD[1]}
        and all(p.stat().st_mtime_ns == t for p, t in times.items())
        and left_over(P) == []
        and verify(P) == []
    )
    assert (manifest_dir(P) / "clips.csv").read_bytes() == undisturbed


def command(*words):
    return subprocess.run(
        [sys.executable, "-c", "from frames_matter.cli import main; main()", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )


def test_second_process(home, site):
    """While one process builds, another on the same folder is told which and stops; who finds a finished build reads
    it nevertheless."""
    P = home([row(i) for i in GOOD], site.template)
    words = [w for k in ("source", "url_template", "n_clips", "n_pool") for w in ("-o", f"{k}={getattr(P, k)}")]
    with Ledger(ledger_of(P)):
        done = command("dataset", "build", "-p", "smoke", *words)
        assert (
            done.returncode == 2
            and done.stderr.count("\n") == 1
            and f"Process {os.getpid()} " in done.stderr
            and "since" in done.stderr
        ), done.stderr
    assert site.asked == []
    manifest = build_dataset(P, progress=False)
    site.asked.clear()
    with Ledger(ledger_of(P)):
        assert build_dataset(P, progress=False).equals(manifest) and site.asked == []
        with pytest.raises(UserError, match=f"Process {os.getpid()} "):
            build_dataset(dataclasses.replace(P, n_clips=5), progress=False)


MEMORY = """
import json, resource, sys
from pathlib import Path

from frames_matter.base.profiles import get_profile
from frames_matter.data.build import BuildTools, build_dataset

def work(job):
    "What `make_clips` tells, without its work."
    source = dict(name=job.source, path="none", offset=0.0, whole=True, spans=[(0, 1)], sha256="0" * 64)
    source |= dict(bytes=1, attempts=1, seconds=0.1)
    yield dict(rows=[r["position"] for r in job.rows], state="fetched", attempts=1, source=source)
    for r in job.rows:
        clip = Path(job.folder) / "clips" / f"{r['clip_id']}.mp4"
        clip.parent.mkdir(exist_ok=True)
        clip.write_bytes(b"clip")
        facts = dict(sha256="%s", bytes=4)
        yield dict(rows=[r["position"]], state="cut", **facts)
        seen = dict(frames=40, fps=10.0, width=128, height=72, seconds=4.0)
        yield dict(rows=[r["position"]], state="checked", **seen, **facts)

manifest = build_dataset(
    get_profile("smoke", **json.loads(sys.argv[1])), progress=False, tools=BuildTools(work=work)
)
assert (manifest.status == "kept").all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2))
"""


@pytest.mark.skipif(os.name == "nt", reason="no resource module")
def test_memory_stays_flat(home, tmp_path):
    "Ten thousand rows take no more memory than a hundred, but for the table that is returned."
    peaks = []
    for n in (100, 10_000):
        P = home(
            [
                row(
                    f"video{i:06}",
                    caption=f"Row number {i} shows a thing that is told of in a sentence "
                    "of some length, as captions are.",
                )
                for i in range(n)
            ],
            "http://127.0.0.1:9/{id}.mp4",
            n_clips=n,
        )
        fields = {k: getattr(P, k) for k in ("source", "url_template", "n_clips", "n_pool")}
        sha = "d50f4d1b1b5a0b7f1a1a5c4b7e1f9d5f8a7e7a6f3c3b6c2b8f1e9e2d7c6a5b43"
        done = subprocess.run(
            [sys.executable, "-c", MEMORY % sha, json.dumps(fields)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout))
        shutil.rmtree(data_dir(P))
    print(f"peak memory at 100 and 10,000 rows: {peaks[0]:.0f} and {peaks[1]:.0f} MB")
    assert peaks[1] - peaks[0] < 25, peaks


# --- manifests ---


def test_verify_names_what_differs(home, site):
    """A clip that is gone, changed, cut short or of another size, a file that is no one's, a ledger that knows
    better: each is named; a build makes it again."""
    P = home([row(i) for i in GOOD], site.template)
    build_dataset(P, progress=False)
    gone, changed, short, small = (Path(p) for p in load_manifest(P).path[:4])
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-10] + b"0123456789")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=128x72:r=10:d=2", "-pix_fmt", "yuv420p", short)
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x36:r=5:d=8", "-pix_fmt", "yuv420p", small)
    (data_dir(P) / "clips" / "stranger.mp4").write_bytes(b"")
    found = dict(d.split(": ", 1) for d in verify(P))
    assert list(found) == [gone.stem, changed.stem, short.stem, small.stem, "stranger.mp4"]
    assert (
        "not there" in found[gone.stem]
        and "not the one in the manifest" in found[changed.stem]
        and "20 frames, the manifest says 40" in found[short.stem]
        and "no one's" in found["stranger.mp4"]
    )
    assert (
        "5 frames a second, the manifest says 10" in found[small.stem]
        and "64 pixels wide, the manifest says 128" in found[small.stem]
    )
    build_dataset(P, progress=False)
    assert verify(P) == []
    with Ledger(ledger_of(P)) as ledger:
        ledger.record(dict(rows=[0], state="checked", sha256="0" * 64))
    assert verify(P) == [f"{gone.stem}: the ledger does not have it so"]
    for p in ledger_of(P).parent.glob("ledger.sqlite*"):
        p.unlink()
    assert verify(P) == ["ledger.sqlite: the ledger is not there"]


def test_rebuilding_a_published_manifest(home, site, films, tmp_path):
    """Kept rows alone are tried, splits stay as published, nothing takes the place of what has rotted, and what
    became of each is told."""
    P = home([row(i) for i in ["missing", *GOOD]], site.template)
    build_dataset(P, progress=False)
    published = shutil.copytree(manifest_dir(P), tmp_path / "published") / "clips.csv"
    now = tmp_path / "now"
    now.mkdir()
    for i in (0, 4, 5):
        shutil.copy(films / "good.mp4", now / f"good{i}.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x36:r=5:d=8", "-pix_fmt", "yuv420p", now / "good2.mp4")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=128x72:r=10:d=8", "-pix_fmt", "yuv420p", "-crf", "40", now / "good3.mp4")
    with serve_folder(now) as url:
        Q = dataclasses.replace(
            P, name="again", source="manifest", rows=str(published), url_template=f"{url}/{{id}}.mp4", n_clips=2
        )
        manifest, first = build_dataset(Q, progress=False), load_manifest(published)
        assert list(manifest.youtube_id) == GOOD and list(manifest.status) == ["kept", "rejected"] + ["kept"] * 4
        assert (manifest.split.fillna("") == first.split.where(manifest.status == "kept", "")).all() and set(
            load_manifest(Q).split
        ) <= {"train", "alignment", "test"}
        table = rotted(Q)
        assert table[["youtube_id", "what"]].values.tolist() == [
            ["good1", "gone"],
            ["good2", "different"],
            ["good3", "re-encoded"],
        ]
        assert (
            "404" in table.reason[0]
            and "20 frames, the manifest says 40" in table.reason[1]
            and (manifest_dir(Q) / "rotted.csv").read_text().count("\n") == 4
        )
        assert verify(Q) == [] and build_dataset(Q, progress=False).equals(manifest)
        with pytest.raises(UserError, match="name of its own"):
            build_dataset(dataclasses.replace(Q, name="smoke", rows=str(manifest_dir(P) / "clips.csv")), progress=False)
    with pytest.raises(UserError, match="no rebuild"):
        rotted(P)


def test_a_hostile_manifest(home, site, tmp_path):
    "Somebody else's clips.csv: what is not a row that a build writes is rejected, and nothing outside is touched."
    head = "clip_id,youtube_id,start,end,caption,split,status,address\n"
    lines = [f"{i}_1.000_5.000,{i},1.0,5.0,A film.,train,kept," for i in GOOD[:3]]
    bad = [
        "../../x,good0,1.0,5.0,A film.,train,kept,",
        "x,../x,1.0,5.0,A film.,train,kept,",
        "y,good0,5.0,1.0,A film.,train,kept,",
        "z,good0,soon,later,A film.,train,kept,",
        "w,good0,1.0,5.0,,train,kept,",
        "v,good0,1.0,5.0,A film.,validation,kept,",
        f"u,good0,1.0,5.0,A film.,test,kept,{Path(__file__)}",
        "good0_1.000_5.000,good0,1.0,5.0,Twice.,test,kept,",
    ]
    published = tmp_path / "published" / "clips.csv"
    published.parent.mkdir()
    published.write_text(head + "\n".join(lines + bad) + "\n")
    Q = dataclasses.replace(home([], site.template), name="again", source="manifest", rows=str(published))
    manifest = build_dataset(Q, progress=False)
    assert list(manifest.status) == ["kept"] * 3 + ["rejected"] * len(bad)
    for word, reason in zip(
        ("clip_id", "youtube_id", "times", "times", "caption", "split", "cannot be opened as video", "earlier row"),
        manifest.reason[3:],
        strict=True,
    ):
        assert word in reason
    assert sorted(p.stem for p in (data_dir(Q) / "clips").iterdir()) == sorted(manifest.clip_id[:3]) and rotted(
        Q
    ).what.tolist() == ["gone"] * len(bad)


def test_own_clips(home, films, tmp_path):
    """Clips of one's own: each has its address in the manifest, from the project's folder on; all are tried; and the
    manifest can be built again from there."""
    (tmp_path / "mine").mkdir()
    for i in range(4):
        film = (films / ("good.mp4" if i else "rotated.mp4")).read_bytes()
        (tmp_path / "mine" / f"film {i}.mp4").write_bytes(film + b"\0\0\0\x0cfree%04d" % i)  # each a film of its own
    (tmp_path / "mine.csv").write_text(
        "path,caption,start,end\n"
        + "".join(f"mine/film {i}.mp4,Film number {i}.,{s},{s + 3}\n" for i in range(4) for s in (0, 4))
    )
    P = dataclasses.replace(
        home([], ""), source="own", rows="mine.csv", n_clips=8, name="mine", min_score=0.0, url_template=""
    )
    manifest = build_dataset(P, progress=False)
    assert (
        list(manifest.status) == ["kept"] * 8
        and list(manifest.address) == [f"mine/film {i}.mp4" for i in range(4) for _ in range(2)]
        and set(manifest.split) == {"train", "alignment", "test"}
    )
    assert (
        (manifest.width[0], manifest.height[0]) == (72, 128)
        and not (data_dir(P) / "sources").exists()
        and verify(P) == []
    )
    Q = dataclasses.replace(P, name="again", source="manifest", rows="data_manifest/mine/clips.csv")
    assert build_dataset(Q, progress=False).sha256.equals(manifest.sha256) and rotted(Q).empty
    shutil.copy(films / "odd.mp4", tmp_path / "mine" / "film 3.mp4")
    assert (build_dataset(P, progress=False).width[6:] == 130).all(), "a film that was replaced was not cut again"


def test_training_items(home, site):
    "Batches through a DataLoader; drawing strategies draw anew each epoch and the same for the same seed."
    import torch

    P = home([row(i) for i in GOOD], site.template)
    data = build_dataset(P, progress=False)
    train = VideoCaptionDataset(data, "train", strategy="weighted", k=4, size=32, seed=1)
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=2)))
    assert (
        batch["video"].shape == (2, 4, 3, 32, 32)
        and batch["video"].dtype == torch.float32
        and len(batch["caption"]) == 2
    )
    first = train[0]["video"]
    train.set_epoch(1)
    assert not torch.equal(first, train[0]["video"])
    train.set_epoch(0)
    assert torch.equal(first, train[0]["video"])
    assert (
        len(VideoCaptionDataset(manifest_dir(P) / "clips.csv", "test"))
        == len(VideoCaptionDataset(load_manifest(P), "test"))
        == 1
    )
    for bad in (dict(split="validation"), dict(split="train", strategy="last")):
        with pytest.raises(UserError, match="valid:"):
            VideoCaptionDataset(data, **bad)


def test_a_manifest_right_below_the_root_is_read():
    with tempfile.NamedTemporaryFile("w", suffix=".csv", encoding="utf-8") as file:
        file.write("clip_id,youtube_id,caption,split,status\na,v,NA,train,kept\nb,v,,,rejected\n")
        file.flush()
        manifest = load_manifest(file.name)
    assert list(manifest.clip_id) == ["a"] and list(manifest.caption) == ["NA"]
    assert Path(manifest.path[0]).parts[-2:] == ("clips", "a.mp4")
