"""Building clips from films served on loopback: what a build costs beside its ffmpeg processes, and what it needs.

    frames-matter bench build
    python bench/build.py --part overhead     one part; the others stay as they were measured

Each build is a process of its own, and so are its ffmpeg processes. Parts, and what each is measured against:

overhead    of 24 films of a minute, 640x360, five clips of 5.8 s each are made by two workers. Overhead = workers x
            seconds / sum of the seconds of all ffmpeg processes - 1: what a worker does that is not ffmpeg. (ffmpeg's
            processes are slowed by what runs beside them, so the share of CPU time is given too.)
memory      the peak of a build of 100, 3,000 and 10,000 rows, seven sources of eight dead.
ledger      events a second into a ledger on disk, and bytes hashed a second.
engine      empty jobs a second that a driver hands out, threads against Ray.
network     bytes that a site sends for one clip of a long film, with sections against without.
ray         the same clips on two workers of a Ray cluster here, one of which is killed (SIGKILL) when a third of the
            clips are made; lost and twice are counted against the manifest that threads wrote.

Linux alone: processes are watched through /proc.
"""

import argparse
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import ffmpeg
import pandas as pd
from _measure import OURS, keep_record, load, record_of, stage
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_path, file_sha256, project_root
from frames_matter.base.profiles import get_profile
from frames_matter.data import loopback
from frames_matter.data.engine import ray_cluster, run_jobs
from frames_matter.data.fetch import fetch_source
from frames_matter.data.ledger import Ledger
from frames_matter.data.loopback import serve_folder

WORKERS = 2
LIMIT = 0.10  # of the overhead
FILMS, CLIPS = 24, 5  # films, and clips of each
SECONDS = 5.77  # a clip: the mean of the study's 20 AES clips whose times are known
VIDEO_SECONDS = 351.9  # of a source video: the mean that InternVid's page states
PICTURES = (  # flat with noise, and fine detail everywhere
    "testsrc2=s=640x360:r=25:d=60,noise=alls=6:allf=t",
    "mandelbrot=s=640x360:r=25:maxiter=200:start_scale={},trim=duration=60",
)
RESULT = project_root() / "results" / "bench" / "build.json"

# --- what is built


def encode(picture: str, path: Path, **options) -> None:
    "Encode what a filter of ffmpeg draws, unless the film is there."
    if path.is_file():
        return
    with atomic_path(path) as tmp:
        film = ffmpeg.input(picture, f="lavfi").output(
            str(tmp), vcodec="libx264", pix_fmt="yuv420p", threads=1, **options
        )
        film.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())


def make_films(folder: Path) -> None:
    "Films that cost what real ones cost, made once; the second half are the first by other names."
    different = FILMS // 2
    for i in range(different):
        path = folder / f"film{i:02}.mp4"
        if not path.is_file():
            encode(PICTURES[i % 2].format(3 - i / 8), path, preset="veryfast", crf=24)
            print(f"making films: {i + 1} of {different}", flush=True)
    for i in range(different, FILMS):
        path = folder / f"film{i:02}.mp4"
        if not path.is_file():
            os.link(folder / f"film{i - different:02}.mp4", path)


def make_tiny_film(folder: Path) -> None:
    "A film whose clips cost little."
    encode("testsrc2=s=64x64:r=10:d=20", folder / "tiny.mp4", preset="ultrafast", g=10)


def make_long_film(folder: Path) -> Path:
    "A film as long as InternVid's mean: six of the films, alike all through, follow one another in it."
    make_films(folder)
    film = folder / "long.mp4"
    if film.is_file():
        return film
    with atomic_path(film) as tmp, tempfile.TemporaryDirectory() as place:
        listing = Path(place) / "list.txt"
        listing.write_text("".join(f"file '{path}'\n" for path in sorted(folder.glob("film*.mp4"))[:12:2]))
        joined = ffmpeg.input(str(listing), f="concat", safe=0).output(str(tmp), c="copy", t=VIDEO_SECONDS)
        joined.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return film


def timestamp(seconds: float) -> str:
    "A moment of the first hour as InternVid writes it."
    return f"00:{int(seconds) // 60:02}:{seconds % 60:06.3f}"


def rows_of(sources: list[str], clips: int, seconds: float, step: float) -> list[dict]:
    "A table with InternVid's columns: so many clips of each source."
    rows = []
    for source in sources:
        for i in range(clips):
            start = 1 + step * i
            times = {"Start_timestamp": timestamp(start), "End_timestamp": timestamp(start + seconds)}
            words = {"Caption": f"Part {i} of the film {source}.", "Aesthetic_Score": 5.0, "CLIP_Score": None}
            rows.append({"YoutubeID": source} | times | words)
    return rows


def rows_of_films(n: int = FILMS) -> list[dict]:
    "The clips of so many films."
    return rows_of([f"film{i:02}" for i in range(n)], CLIPS, SECONDS, step=11)


@contextmanager
def home(table: list[dict], **overrides) -> Iterator[Path]:
    "A project's folder of its own with a table of rows and, for the child process, the profile."
    profile = {"source": "hub", "n_clips": len(table), "n_pool": 0, "workers": WORKERS, "per_host": WORKERS}
    with tempfile.TemporaryDirectory(dir=project_root() / "data" / "bench") as folder:
        data = Path(folder) / "data" / "smoke"
        data.mkdir(parents=True)
        (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
        (Path(folder) / "profile.json").write_text(json.dumps(profile | overrides))
        yield Path(folder)


# --- the child: one build, its ffmpeg processes timed


class Timed(subprocess.Popen):
    "Popen that knows how long each ffmpeg ran."

    program, spans = find_ffmpeg(), []

    def __init__(self, args, *rest, **options):
        self.began = time.perf_counter()
        super().__init__(args, *rest, **options)

    def wait(self, timeout=None):
        code = super().wait(timeout)
        if self.args[0] == self.program and self.began is not None:
            self.spans.append(time.perf_counter() - self.began)
        self.began = None
        return code


def build_here(folder: Path) -> None:
    "Build the profile in `folder` and print what it took, as JSON."
    import resource

    from frames_matter.data.build import build_dataset

    profile = get_profile("smoke", **json.loads((folder / "profile.json").read_text()))
    subprocess.Popen = Timed
    start, cpu = time.perf_counter(), time.process_time()
    manifest = build_dataset(profile, progress=False)
    seconds, own = time.perf_counter() - start, time.process_time() - cpu
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    kept = manifest[manifest.status == "kept"]
    took = {
        "rows": len(manifest),
        "clips": len(kept),
        "seconds": seconds,
        "ffmpeg_processes": len(Timed.spans),
        "ffmpeg_seconds": sum(Timed.spans),
        "cpu_seconds": own,
        "ffmpeg_cpu_seconds": children.ru_utime + children.ru_stime,
        "clip_bytes": int(kept.bytes.sum()),
        "clip_seconds": float(kept.seconds.sum()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(took))


# --- the parent: starts builds and watches them


class Process(NamedTuple):
    "What /proc tells of a process."

    parent: int
    name: str
    resident: int  # bytes


def processes() -> dict[int, Process]:
    "Every process of the machine, by its id."
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue  # it has ended
        fields, name = rest.split(), head.partition("(")[2]
        found[int(stat.parent.name)] = Process(int(fields[1]), name, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    return found


def tree(pid: int) -> dict[int, Process]:
    "A process and all below it."
    found, members = processes(), {pid}
    while more := {p for p, process in found.items() if process.parent in members} - members:
        members |= more
    return {p: found[p] for p in members if p in found}


class Watcher(threading.Thread):
    "Looks at a build twenty times a second: the peak of it and its ffmpeg processes together, and `watch(pid)`."

    def __init__(self, pid: int, watch: Callable[[int], None]):
        super().__init__()
        self.pid, self.watch = pid, watch
        self.peak, self.over = 0, threading.Event()

    def run(self):
        while not self.over.wait(0.05):
            resident = [
                process.resident
                for pid, process in tree(self.pid).items()
                if pid == self.pid or process.name.startswith("ffmpeg")
            ]
            self.peak = max(self.peak, sum(resident))
            self.watch(self.pid)


def ignore(pid: int) -> None:
    "Do nothing about a build."


def build(folder: Path, watch: Callable[[int], None] = ignore) -> dict:
    "Build in a child process: what it took, with the peak of it and its ffmpeg processes together, in MB."
    child = subprocess.Popen(
        [sys.executable, __file__, "--build-in", str(folder)],
        env=os.environ | {"FRAMES_MATTER_HOME": str(folder), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watcher = Watcher(child.pid, watch)
    watcher.start()
    out, err = child.communicate()
    watcher.over.set()
    watcher.join()
    if child.returncode:
        raise UserError(f"A build failed: {(err.strip().splitlines() or ['it said nothing'])[-1]}")
    return json.loads(out.splitlines()[-1]) | {"peak_with_ffmpeg_mb": watcher.peak / 2**20}


# --- the parts


def measure_overhead(folder: Path) -> dict:
    "What a build costs beside its ffmpeg processes."
    make_films(folder)
    with serve_folder(folder) as url, home(rows_of_films(), url_template=url + "/{id}.mp4") as place:
        found = build(place)
    if found["clips"] != FILMS * CLIPS:
        raise UserError(f"Only {found['clips']} of {FILMS * CLIPS} clips were made.")
    overhead = WORKERS * found["seconds"] / found["ffmpeg_seconds"] - 1
    beside = found["cpu_seconds"] / found["ffmpeg_cpu_seconds"]
    found |= {
        "workers": WORKERS,
        "sources": FILMS,
        "source_bytes": sum(path.stat().st_size for path in folder.glob("film*.mp4")),
        "source_seconds": 60 * FILMS,
        "clips_per_second": found["clips"] / found["seconds"],
        "overhead": overhead,
        "cpu_share_beside_ffmpeg": beside,
        "limit": LIMIT,
    }
    verdict = "met" if overhead <= LIMIT else "MISSED"
    print(f"{found['clips']} clips in {found['seconds']:.1f} s by {WORKERS} workers,", end=" ")
    print(
        f"{found['ffmpeg_seconds']:.1f} s of ffmpeg: overhead {overhead:.1%} (at most {LIMIT:.0%}: {verdict});", end=" "
    )
    print(f"CPU beside ffmpeg {beside:.1%} of ffmpeg's", flush=True)
    return found


def measure_memory(folder: Path) -> dict:
    "The peak memory of builds of more and more rows."
    make_tiny_film(folder)
    builds = []
    for n in (100, 3000, 10_000):
        sources = [f"{'dead' if i % 8 else 'alive'}{i}" for i in range(n // 5)]
        for source in sources:
            if source.startswith("alive") and not (folder / f"{source}.mp4").is_file():
                os.link(folder / "tiny.mp4", folder / f"{source}.mp4")
        table = rows_of(sources, 5, 3, step=3)
        with serve_folder(folder) as url, home(table, url_template=url + "/{id}.mp4", per_host=8) as place:
            builds.append(found := build(place))
        peaks = f"{found['peak_mb']:.0f} MB at most, with ffmpeg's processes {found['peak_with_ffmpeg_mb']:.0f} MB"
        print(f"{found['rows']:6} rows, {found['clips']:4} clips in {found['seconds']:6.1f} s: {peaks}", flush=True)
    return {
        "what": "5 clips a source of 3 s, 64x64; one source in eight is there, the others are 404",
        "builds": builds,
    }


def ledger_rows(n: int) -> Iterator[dict]:
    "Rows as a ledger takes them, two of each video."
    for i in range(n):
        yield {
            "clip_id": f"v{i // 2}_{i}",
            "youtube_id": f"v{i // 2}",
            "start": float(i),
            "end": i + 5.0,
            "caption": f"Row {i}: a man walks a dog. " * 4,
            "aesthetic_score": 5.0,
            "status": "",
            "reason": "",
        }


EVENTS = (  # of one row
    {"state": "fetched"},
    {"state": "cut", "sha256": "0" * 64, "bytes": 100_000},
    {"state": "checked", "frames": 100, "fps": 25.0, "width": 640, "height": 360, "seconds": 4.0},
)


def fill_ledger(folder: Path, n: int) -> tuple[float, float, int]:
    "Seconds that adding n rows took, and recording all their events; the bytes on disk."
    with tempfile.TemporaryDirectory(dir=folder) as place, Ledger(Path(place) / "ledger.sqlite") as ledger:
        ledger.begin("bench", place)
        began = time.perf_counter()
        ledger.add(ledger_rows(n))
        adding = time.perf_counter() - began
        ledger.take("study", n)
        began = time.perf_counter()
        for i in range(n):
            for event in EVENTS:
                ledger.record(event | {"rows": [i]})
        recording = time.perf_counter() - began
        if len(ledger.kept("study")) != n:
            raise UserError("The ledger lost rows.")
        return adding, recording, sum(path.stat().st_size for path in Path(place).glob("ledger.sqlite*"))


def measure_ledger(folder: Path, n: int = 10_000) -> dict:
    "Rows put into a ledger, three events of each, and bytes hashed a second."
    adding, recording, size = fill_ledger(folder, n)
    make_films(folder)
    paths = list(folder.glob("film*.mp4"))
    began = time.perf_counter()
    for path in paths:
        file_sha256(path)
    hashing = time.perf_counter() - began
    found = {
        "hashed_bytes_per_second": sum(path.stat().st_size for path in paths) / hashing,
        "rows": n,
        "rows_added_per_second": n / adding,
        "events_per_second": len(EVENTS) * n / recording,
        "events_per_row": len(EVENTS),
        "bytes_per_row": size / n,
    }
    events, added = found["events_per_second"], found["rows_added_per_second"]
    print(f"ledger: {events:.0f} events a second, {added:.0f} rows added a second,", end=" ")
    print(f"{found['bytes_per_row']:.0f} bytes a row", flush=True)
    return found


def killer(clips: Path, enough: int, killed: list[int]) -> Callable[[int], None]:
    "What kills one Ray worker of a build in the midst of a job as soon as there are enough clips, and notes how many."

    def watch(pid: int) -> None:
        if killed or len(list(clips.glob("*.mp4"))) < enough:
            return
        for worker in tree(pid):
            try:
                title = Path(f"/proc/{worker}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::make_clips"):
                os.kill(worker, signal.SIGKILL)
                killed.append(len(list(clips.glob("*.mp4"))))
                return

    return watch


class Built(NamedTuple):
    "A build, and what shows whether it was the same as another."

    took: dict
    manifest: pd.DataFrame
    files: list[str]
    requests: Counter


def build_with(engine: str, folder: Path, n: int, killed: list[int]) -> Built:
    "Build the clips of n films on an engine; under Ray a worker is killed when a third are made."
    asked = []
    table = rows_of_films(n)
    with (
        serve_folder(folder, requests=asked) as url,
        home(table, url_template=url + "/{id}.mp4", engine=engine) as place,
    ):
        clips = place / "data" / "smoke" / "clips"
        watch = killer(clips, n * CLIPS // 3, killed) if engine == "ray" else ignore
        took = build(place, watch)
        path = place / "data_manifest" / "smoke" / "clips.csv"
        manifest = pd.read_csv(path, keep_default_na=False, dtype=str)
        files = sorted(clip.name for clip in clips.glob("*.mp4"))
    return Built(took, manifest, files, Counter(path for _, path in asked))


def measure_ray(folder: Path, n: int = 8) -> dict:
    "What is lost or made twice of the clips of n films when a Ray worker is killed."
    make_films(folder)
    killed = []
    one, other = (build_with(engine, folder, n, killed) for engine in ("threads", "ray"))
    if not killed:
        raise UserError("No worker was killed: the build was too fast, or Ray names its processes otherwise.")
    kept, kept_by_ray = (set(m.clip_id[m.status == "kept"]) for m in (one.manifest, other.manifest))
    record = {
        "rows": len(other.manifest),
        "clips": len(kept_by_ray),
        "killed_after_clips": killed[0],
        "lost": len(kept - kept_by_ray),
        "twice": int(other.manifest.clip_id.duplicated().sum()),
        "same_manifest": one.manifest.equals(other.manifest),
        "same_files": one.files == other.files,
        "fetched_again": sum(other.requests[path] > times for path, times in one.requests.items()),
        "builds": {"threads": one.took, "ray": other.took},
    }
    same = "" if record["same_manifest"] else "NOT "
    print(f"ray: a worker killed after {killed[0]} of {record['clips']} clips: {record['lost']} lost,", end=" ")
    print(f"{record['twice']} twice, the manifest is {same}that of threads;", end=" ")
    print(f"{record['fetched_again']} of {n} films fetched again", flush=True)
    return record


def empty_job(job: int) -> Iterator[int]:
    "A job with nothing to do."
    yield job


def jobs_per_second(n: int, **engine) -> float:
    "Empty jobs a second that one driver hands out and takes in."
    began = time.perf_counter()
    if sum(1 for _ in run_jobs(empty_job, range(n), workers=WORKERS, **engine)) != n:
        raise UserError("The engine lost jobs.")
    return n / (time.perf_counter() - began)


def measure_engine(folder: Path, n: int = 2000) -> dict:
    "Jobs a second that one driver hands out and takes in, when there is nothing to do in them."
    found = {"jobs": n, "threads_per_second": jobs_per_second(n)}
    here = str(Path(__file__).parent)  # workers import this file
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with ray_cluster(WORKERS):
        jobs_per_second(n, engine="ray")  # workers start
        found["ray_per_second"] = jobs_per_second(n, engine="ray")
    rates = f"{found['threads_per_second']:.0f} empty jobs a second on threads, {found['ray_per_second']:.0f} on Ray"
    print(f"engine: {rates}", flush=True)
    return found


class Counting(loopback.FolderHandler):
    "Counts the bytes that are sent."

    def setup(self):
        super().setup()
        write = self.wfile.write

        def counted(data):
            self.server.sent.append(len(data))
            return write(data)

        self.wfile.write = counted


def fetch_one(folder: Path, at: float, sections: bool) -> dict:
    "What a site sends for one clip of the long film, and what is kept of it."
    sent = []
    with (
        loopback.serve(Counting, folder=folder, requests=[], sent=sent) as url,
        tempfile.TemporaryDirectory() as place,
    ):
        fetched = fetch_source("long", f"{url}/long.mp4", [(at, at + SECONDS)], place, sections=sections)
    if fetched.whole == sections:
        raise UserError("The fetch was not of the kind that was asked for.")
    return {"sent_bytes": sum(sent), "file_bytes": fetched.bytes, "seconds": fetched.seconds}


def measure_network(folder: Path, at: float = 170.0) -> dict:
    "One clip of a long film, fetched with and without sections."
    film_bytes = make_long_film(folder).stat().st_size
    whole, section = (fetch_one(folder, at, sections) for sections in (False, True))
    share = section["sent_bytes"] / film_bytes
    found = {"film_seconds": VIDEO_SECONDS, "film_bytes": film_bytes, "clip_seconds": SECONDS}
    found |= {"whole": whole, "section": section, "seconds_sent_for_a_clip": share * VIDEO_SECONDS}
    print(f"network: {whole['sent_bytes'] / 1e6:.1f} MB for the whole film,", end=" ")
    print(f"{section['sent_bytes'] / 1e6:.1f} MB for a section:", end=" ")
    print(f"as much as {found['seconds_sent_for_a_clip']:.1f} s of it for a clip of {SECONDS} s", flush=True)
    return found


PARTS = {
    "overhead": measure_overhead,
    "memory": measure_memory,
    "ledger": measure_ledger,
    "engine": measure_engine,
    "network": measure_network,
    "ray": measure_ray,
}
DEFINITIONS = {
    "overhead": "workers x seconds of the build / sum of the seconds of its ffmpeg processes - 1",
    "load_before": "processes that wanted a core in the minute before; near 0 on a quiet machine",
}


def stages_of(record: dict) -> list[dict]:
    "What of the record sets a time beside another."
    stages = []
    if built := record.get("overhead"):
        least = {"its ffmpeg processes alone": [built["ffmpeg_seconds"] / built["workers"]]}
        stages.append(stage(f"{built['clips']} clips of {built['sources']} films", {OURS: [built["seconds"]]}, least))
    if handed := record.get("engine"):
        ways = {OURS: [handed["jobs"] / handed["threads_per_second"]]}
        ways["Ray"] = [handed["jobs"] / handed["ray_per_second"]]
        stages.append(stage(f"{handed['jobs']:,} empty jobs handed out", ways))
    if fetched := record.get("network"):
        ways = {OURS: [fetched["section"]["seconds"]], "the whole film": [fetched["whole"]["seconds"]]}
        stages.append(stage("a clip of a long film fetched, site on this machine", ways))
    return stages


def versions() -> dict[str, str]:
    "Of all that is timed."
    said = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True, check=True).stdout
    own = {"python": platform.python_version(), "ffmpeg": said.split()[2], "sqlite": sqlite3.sqlite_version}
    return own | {name: metadata.version(name) for name in ("yt-dlp", "decord2", "ray")}


def measure(name: str, folder: Path) -> dict:
    "One part, with what else is needed to judge its numbers."
    before = load()
    found = PARTS[name](folder)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return found | {"load_before": before, "machine": machine, "versions": versions()}


def main() -> None:
    "Measure the parts and write each into the record as soon as it is measured."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--build-in", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build_in:
        return build_here(args.build_in)
    if sys.platform != "linux":
        raise UserError("This benchmark watches processes through /proc; run it on Linux.")
    folder = project_root() / "data" / "bench" / "build"
    folder.mkdir(parents=True, exist_ok=True)
    parts, before = json.loads(RESULT.read_text()) if RESULT.is_file() else {}, load()
    for name in args.part or PARTS:
        parts[name] = measure(name, folder)
        keep_parts(parts, before)


def keep_parts(parts: dict, before: float) -> None:
    "The record with those parts that there are, whenever they were measured."
    of = {name: parts[name] for name in PARTS if name in parts}
    what = f"parts measured one by one: {', '.join(of)}; each with its own load and versions in the record"
    record = record_of("build", what, stages_of(of), ("yt-dlp", "decord2", "ray"), before)
    keep_record("build", record | {"definitions": DEFINITIONS} | of)


if __name__ == "__main__":
    run_script(main)
