"""Builds and runs that are killed (SIGKILL) at a random moment, again and again, until one comes through.

    frames-matter bench kills
    python bench/kills.py --kills 20 --only folder        fewer, of one kind of work

After each kill every clip that the ledger has must be there whole, and the process must have left none that lives on.
What comes through in the end must be what an undisturbed process makes: the same manifest to the byte, every run once,
nothing else in the folders. Kinds of work:

folder      a build of one's own films in many containers, some of them damaged: read, cut, checked.
site        a build of films that a site on loopback serves, among dead and faulty ones: fetched, within limits.
refused     another build that is refused where a finished one stands, which is set aside and put back.
decord      films read by decord, in a process of its own.
runs        training on two worker processes.

Linux alone: processes are watched through /proc.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

from _script import run_script
from tqdm import tqdm

from frames_matter.base.errors import UserError, choose
from frames_matter.base.files import atomic_write, file_sha256, project_root
from frames_matter.base.profiles import data_dir, get_profile, manifest_dir
from frames_matter.data.build import build_dataset
from frames_matter.data.ledger import read_states
from frames_matter.data.manifest import read_manifest, verify
from frames_matter.data.own import register_own
from frames_matter.study.store import read_records, runs_path

sys.path.insert(0, str(project_root() / "tests"))
RESULT = project_root() / "results" / "bench" / "kills.json"
KILLS = dict(folder=50, site=30, refused=25, decord=10, runs=20)
SECONDS_TO_END = 20  # that what a killed process had started may go on

BUILD = """
import json, sys
from frames_matter.base.profiles import get_profile
from frames_matter.data.build import build_dataset
import frames_matter.data.fetch_and_cut, frames_matter.data.own
print("ready", flush=True)
name, fields = json.loads(sys.argv[1])
build_dataset(get_profile(name, **fields), progress=False, again=True)
"""
READ = """
import json, sys
from pathlib import Path
from frames_matter.video.frames import read_clip
print("ready", flush=True)
for path in sorted(Path(json.loads(sys.argv[1])).glob("*.mp4")) * 3:
    try:
        read_clip(path, size=32, reader="decord")
    except ValueError:
        pass
"""
RUN = """
import json, sys
from frames_matter.base.profiles import get_profile
from frames_matter.study.grid import grid
from frames_matter.study.runner import run_all
print("ready", flush=True)
profile = get_profile("smoke", **json.loads(sys.argv[1]))
run_all(grid(profile, "first_improvement", progress=False), workers=2, progress=False)
"""


@dataclass
class Tally:
    "What was killed, and what was wrong afterwards."

    kills: int = 0
    came_through: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        "Whether nothing was wrong."
        return not (self.lost or self.doubled or self.orphans or self.unclean)


@dataclass
class Work:
    """What is killed.

    Attributes
    ----------
    code, argument
        What the process runs, and what it is told.
    prepare
        Makes the home as it is before the work.
    check_killed
        After a kill: what is lost.
    check_done
        After a process that came through: (what is lost, what is doubled, what is unclean).
    """

    code: str
    argument: object
    prepare: Callable[[], None]
    check_killed: Callable[[], list[str]]
    check_done: Callable[[], tuple[list[str], list[str], list[str]]]


# ---- builds


def half_recorded(profile) -> list[str]:
    "Clips that the ledger has and that are not there whole."
    path = data_dir(profile) / "ledger.sqlite"
    rows = read_states(path, "clip_id", "state", "sha256") if path.is_file() else ()
    clips = {clip: sha for clip, state, sha in rows if state == "checked"}
    files = {clip: data_dir(profile) / "clips" / f"{clip}.mp4" for clip in clips}
    return [clip for clip, sha in clips.items() if not files[clip].is_file() or file_sha256(files[clip]) != sha]


def of_a_build(profile, undisturbed: bytes) -> tuple[list[str], list[str], list[str]]:
    "What of a finished build is not as an undisturbed one has it."
    rows = read_manifest(manifest_dir(profile) / "clips.csv")
    kept = rows[rows.status == "kept"].clip_id
    clips = data_dir(profile) / "clips"
    lost = [clip for clip in kept if not (clips / f"{clip}.mp4").is_file()]
    doubled = list(kept[kept.duplicated()])
    left = [p.name for p in data_dir(profile).rglob("*") if ".partial" in p.name]
    unclean = verify(profile) + [f"{name} is left" for name in left]
    if (manifest_dir(profile) / "clips.csv").read_bytes() != undisturbed:
        unclean.append("the manifest is another than that of an undisturbed build")
    return lost, doubled, unclean


def fresh(home: Path, saved: Path | None = None) -> None:
    "Empty the home, or put back what was saved of it."
    shutil.rmtree(home, ignore_errors=True)
    if saved:
        shutil.copytree(saved, home)
    else:
        home.mkdir()


def work_on_a_build(home: Path, profile, saved: Path, fields: dict) -> Work:
    "A build in a home as it was saved, which ends as it does undisturbed."
    build_dataset(get_profile(profile.name, **fields), progress=False, again=True)
    undisturbed = (manifest_dir(profile) / "clips.csv").read_bytes()
    argument = (profile.name, fields)
    return Work(
        BUILD,
        argument,
        lambda: fresh(home, saved),
        lambda: half_recorded(profile),
        lambda: of_a_build(profile, undisturbed),
    )


@contextlib.contextmanager
def folder(home: Path, films: Path) -> Iterator[Work]:
    "One's own films, a part of them damaged."
    given = home.parent / "given"
    given.mkdir()
    rng = random.Random(0)
    for n, path in enumerate(sorted(films.iterdir())):
        data = path.read_bytes()
        cut = data[: rng.randrange(len(data))] if n % 5 == 4 else data
        (given / f"film{n}{path.suffix}").write_bytes(cut)
        (given / f"film{n}.txt").write_text(f"Film {n}.")
    profile = register_own(given, name="mine", like="smoke")
    saved = Path(shutil.copytree(home, home.parent / "saved"))
    yield work_on_a_build(home, profile, saved, {})


@contextlib.contextmanager
def site(home: Path, films: Path) -> Iterator[Work]:
    "Films of a site that fails in some ways, and not in others."
    from fault_site import make_films, row, serve_faults

    names = [f"good{n}" for n in range(8)] + [
        "av1",
        "vp1",
        "odd1",
        "torn1",
        "missing1",
        "html1",
        "cutoff1",
        "overshort1",
    ]
    with serve_faults(make_films(home.parent / "films")) as served:
        fields = dict(source="hub", url_template=served.template, n_clips=16, n_pool=0, patience=1.0, workers=2)
        fields |= dict(per_host=4, max_bytes=10**7)
        profile = get_profile("smoke", **fields)
        rows = [row(name) for name in names] + [row(f"good{n}", "00:00:02.000") for n in range(4)]
        atomic_write(data_dir(profile) / "metadata.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
        saved = Path(shutil.copytree(home, home.parent / "saved"))
        yield work_on_a_build(home, profile, saved, fields)


@contextlib.contextmanager
def refused(home: Path, films: Path) -> Iterator[Work]:
    "A build that is refused where a finished one stands: two clips cannot be split."
    given = home.parent / "given"
    given.mkdir()
    for n, path in enumerate(sorted(films.glob("*.mp4"))[:5]):
        shutil.copy(path, given / f"film{n}.mp4")
        (given / f"film{n}.txt").write_text(f"Film {n}.")
    profile = register_own(given, name="mine", like="smoke")
    build_dataset(profile, progress=False)
    saved = Path(shutil.copytree(home, home.parent / "saved"))
    undisturbed = (manifest_dir(profile) / "clips.csv").read_bytes()
    asked = (profile.name, dict(n_clips=2, min_seconds=0.3))

    def lost_for_good():
        build_dataset(profile, progress=False, again=True)
        return [one for what in of_a_build(profile, undisturbed) for one in what]

    yield Work(BUILD, asked, lambda: fresh(home, saved), lost_for_good, lambda: of_a_build(profile, undisturbed))


@contextlib.contextmanager
def decord(home: Path, films: Path) -> Iterator[Work]:
    "Films read by decord's own process; it keeps nothing that could be lost."
    nothing = ([], [], [])
    yield Work(READ, str(films), lambda: fresh(home), list, lambda: nothing)


@contextlib.contextmanager
def runs(home: Path, films: Path) -> Iterator[Work]:
    "Training on two workers: every run once, and none that was finished done again."
    from frames_matter.study.grid import grid

    fields = dict(epochs_first=2, epochs_second=1)
    profile = get_profile("smoke", **fields)
    grid(profile, "zero_shot", progress=False)
    wanted = {spec.hash for spec in grid(profile, "first_improvement", progress=False)}
    saved, before = Path(shutil.copytree(home, home.parent / "saved")), {}

    def prepare():
        fresh(home, saved)
        before.clear()

    def lost():
        now = {record["spec_hash"]: record for record in read_records(runs_path(profile))}
        gone = [name for name, record in before.items() if now.get(name) != record]
        before.update(now)
        return gone

    def done():
        found = [record["spec_hash"] for record in read_records(runs_path(profile))]
        left = [p.name for p in runs_path(profile).parent.glob(".*.partial*")]
        return sorted(wanted - set(found)) + lost(), sorted({n for n in found if found.count(n) > 1}), left

    yield Work(RUN, fields, prepare, lost, done)


WORKS = dict(folder=folder, site=site, refused=refused, decord=decord, runs=runs)

# ---- killing


def seconds_undisturbed(work: Work) -> float:
    "How long the work takes once everything is imported; it must end well, or refuse."
    work.prepare()
    process = started(work)
    begun = time.monotonic()
    process.wait()
    return time.monotonic() - begun


def started(work: Work) -> subprocess.Popen:
    "The process of some work, in a group of its own, when it has imported what it needs."
    words = [sys.executable, "-c", work.code, json.dumps(work.argument)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    process = subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)
    process.stdout.readline()
    return process


def left_alive(group: int) -> list[str]:
    "What a killed process had started and what goes on for good; it is ended here."
    from fuzzing.cell import living_of_group

    end = time.monotonic() + SECONDS_TO_END
    while (left := living_of_group(group)) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())


def killed(work: Work, kills: int, rng: random.Random, bar: tqdm) -> Tally:
    "Kill the work so many times; what came through is held against an undisturbed one, and begun anew."
    tally, seconds = Tally(), seconds_undisturbed(work)
    work.prepare()
    while tally.kills < kills:
        process = started(work)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0, seconds))
        is_killed = process.poll() is None
        process.kill()
        process.wait()
        tally.orphans += left_alive(process.pid)
        if is_killed:
            tally.kills += 1
            bar.update()
            tally.lost += work.check_killed()
        else:
            finish(work, tally)
    started(work).wait()
    finish(work, tally)
    return tally


def finish(work: Work, tally: Tally) -> None:
    "Hold what came through against what it should be, and begin anew."
    lost, doubled, unclean = work.check_done()
    tally.came_through += 1
    tally.lost += lost
    tally.doubled += doubled
    tally.unclean += unclean
    work.prepare()


def tally_of(name: str, kills: int, seed: int, bar: tqdm) -> Tally:
    "What came of killing one kind of work, in a home of its own."
    from fuzzing.films import make_films

    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        home, films = Path(place).resolve() / "home", Path(place) / "corpus"
        home.mkdir()
        make_films(films)
        with mock.patch.dict(os.environ, FRAMES_MATTER_HOME=str(home)), WORKS[name](home, films) as work:
            return killed(work, kills, random.Random(f"{name}/{seed}"), bar)


def main() -> None:
    "Kill every kind of work, print and write down what came of it, and fail if anything was lost."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="of each kind of work")
    parser.add_argument("--only", default="", help="one kind of work; nothing is written down then")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    chosen = [given.only] if given.only and choose(given.only, WORKS, "kind of work") else [*WORKS]
    wanted = {name: given.kills or KILLS[name] for name in chosen}
    with tqdm(total=sum(wanted.values()), disable=None) as bar:
        tallies = {name: tally_of(name, kills, given.seed, bar) for name, kills in wanted.items()}
    for name, tally in tallies.items():
        counts = {what: len(value) if isinstance(value, list) else value for what, value in asdict(tally).items()}
        print(f"{name:10}" + ", ".join(f"{what.replace('_', ' ')} {n}" for what, n in counts.items()))
    if not given.only:
        about = dict(command=f"python bench/kills.py --seed {given.seed}", python=platform.python_version())
        record = about | {name: asdict(tally) for name, tally in tallies.items()}
        atomic_write(RESULT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if wrong := {name: asdict(tally) for name, tally in tallies.items() if not tally.is_clean}:
        raise UserError(f"Not all is as without a kill: {json.dumps(wrong, ensure_ascii=False)[:3000]}.")


if __name__ == "__main__":
    run_script(main)
