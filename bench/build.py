"""Building clips from films served on loopback: how much a build costs beside its ffmpeg processes, what memory it needs, what its books can take, and what a killed worker costs. Each build is a process of its own.

    frames-matter bench build
    python bench/build.py --part overhead     one part; the others stay as they were measured: overhead, memory, ledger, engine, network, ray

overhead: of 24 films of a minute, 640x360, five clips of 5.8 s each are made by two workers. Overhead = workers x seconds / sum of the seconds of all ffmpeg processes - 1: what a
worker does that is not ffmpeg. (ffmpeg's processes are slowed by what runs beside them, so the share of CPU time is given too.)  memory: the peak of a build of 100, 3,000 and 10,000 rows, seven sources of eight dead.
ledger: events a second into a ledger on disk, and bytes hashed a second.  engine: empty jobs a second that a driver hands out.  network: bytes that a site sends for one clip of a long film, with sections and without.  ray: the same clips on two workers of a Ray cluster here, one of which is killed (SIGKILL) when a third of the clips are made; lost and twice are counted
against the manifest that threads wrote. Linux alone: processes are watched through /proc.
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
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import ffmpeg
import pandas as pd

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_path, atomic_write, file_sha256, project_root
from frames_matter.base.profiles import get_profile
from frames_matter.data import loopback
from frames_matter.data.engine import ray_cluster, run_jobs
from frames_matter.data.fetch import fetch_source
from frames_matter.data.loopback import serve_folder

WORKERS, LIMIT, FILMS, CLIPS, SECONDS = (
    2,
    0.10,
    24,
    5,
    5.77,
)  # seconds a clip: the mean of the study's 20 AES clips whose times are known
VIDEO_SECONDS = 351.9  # of a source video: the mean that InternVid's page states
PICTURES = (
    "testsrc2=s=640x360:r=25:d=60,noise=alls=6:allf=t",
    "mandelbrot=s=640x360:r=25:maxiter=200:start_scale={},trim=duration=60",
)  # flat with noise, and fine detail everywhere
RESULT = project_root() / "results" / "bench" / "build.json"

# --- what is built


def films(folder):
    "Films that cost what real ones cost, made once; the second half are the first by other names."
    for i in range(FILMS):
        path = folder / f"film{i:02}.mp4"
        if path.is_file():
            continue
        if i >= FILMS // 2:
            os.link(folder / f"film{i - FILMS // 2:02}.mp4", path)
            continue
        with atomic_path(path) as tmp:
            picture = ffmpeg.input(PICTURES[i % 2].format(3 - i / 8), f="lavfi").output(
                str(tmp), vcodec="libx264", preset="veryfast", crf=24, pix_fmt="yuv420p", threads=1
            )
            picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
        print(f"\rmaking films: {i + 1} of {FILMS // 2}", end="\n" if i == FILMS // 2 - 1 else "", flush=True)


def tiny(folder):
    "A film whose clips cost little."
    path = folder / "tiny.mp4"
    if not path.is_file():
        with atomic_path(path) as tmp:
            ffmpeg.input("testsrc2=s=64x64:r=10:d=20", f="lavfi").output(
                str(tmp), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", g=10, threads=1
            ).global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())


def clock(seconds):
    return f"00:{int(seconds) // 60:02}:{seconds % 60:06.3f}"


def rows(sources, clips, seconds, step):
    "InternVid's columns: so many clips of each source."
    return [
        dict(
            YoutubeID=source,
            Start_timestamp=clock(1 + step * i),
            End_timestamp=clock(1 + step * i + seconds),
            Caption=f"Part {i} of the film {source}.",
            Aesthetic_Score=5.0,
            CLIP_Score=None,
        )
        for source in sources
        for i in range(clips)
    ]


@contextmanager
def home(table, **overrides):  # yields folder
    "A project's folder of its own with a table of rows and, for the child process, the profile."
    with tempfile.TemporaryDirectory(dir=project_root() / "data" / "bench") as folder:
        (Path(folder) / "data" / "smoke").mkdir(parents=True)
        (Path(folder) / "data" / "smoke" / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table))
        (Path(folder) / "profile.json").write_text(
            json.dumps(dict(source="hub", n_clips=len(table), n_pool=0, workers=WORKERS, per_host=WORKERS) | overrides)
        )
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


def build_here(folder):
    "Build the profile in `folder` and print what it took, as JSON."
    import resource

    from frames_matter.data.build import build_dataset

    P = get_profile("smoke", **json.loads((folder / "profile.json").read_text()))
    subprocess.Popen = Timed
    start, cpu = time.perf_counter(), time.process_time()
    manifest = build_dataset(P, progress=False)
    seconds, own = time.perf_counter() - start, time.process_time() - cpu
    children, kept = resource.getrusage(resource.RUSAGE_CHILDREN), manifest[manifest.status == "kept"]
    print(
        json.dumps(
            dict(
                rows=len(manifest),
                clips=len(kept),
                seconds=seconds,
                ffmpeg_processes=len(Timed.spans),
                ffmpeg_seconds=sum(Timed.spans),
                cpu_seconds=own,
                ffmpeg_cpu_seconds=children.ru_utime + children.ru_stime,
                clip_bytes=int(kept.bytes.sum()),
                clip_seconds=float(kept.seconds.sum()),
                peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            )
        )
    )


# --- the parent: starts builds and watches them


def processes():
    "Parent, name and resident bytes of every process."
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue  # it has ended
        fields = rest.split()
        found[int(stat.parent.name)] = (
            int(fields[1]),
            head.partition("(")[2],
            int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        )
    return found


def tree(pid):  # {pid: (parent, name, resident bytes)}
    "A process and all below it."
    found, members = processes(), {pid}
    while more := {p for p, (parent, *_) in found.items() if parent in members} - members:
        members |= more
    return {p: found[p] for p in members if p in found}


def built(folder, watch=lambda pid: None):
    "Build in a child process; what it took, with the peak of it and its ffmpeg processes together, in MB."
    child = subprocess.Popen(
        [sys.executable, __file__, "--build-in", str(folder)],
        env=os.environ | dict(FRAMES_MATTER_HOME=str(folder), OMP_NUM_THREADS="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak, over = 0, threading.Event()

    def look():
        nonlocal peak
        while not over.wait(0.05):
            peak = max(
                peak,
                sum(
                    size
                    for p, (_, name, size) in tree(child.pid).items()
                    if p == child.pid or name.startswith("ffmpeg")
                ),
            )
            watch(child.pid)

    watcher = threading.Thread(target=look)
    watcher.start()
    out, err = child.communicate()
    over.set()
    watcher.join()
    if child.returncode:
        raise UserError(f"A build failed: {(err.strip().splitlines() or ['it said nothing'])[-1]}")
    return json.loads(out.splitlines()[-1]) | dict(peak_with_ffmpeg_mb=peak / 2**20)


def table_of_films(n=FILMS):
    return rows([f"film{i:02}" for i in range(n)], CLIPS, SECONDS, step=11)


def measure_overhead(folder):
    films(folder)
    with serve_folder(folder) as url, home(table_of_films(), url_template=url + "/{id}.mp4") as place:
        found = built(place)
    if found["clips"] != FILMS * CLIPS:
        raise UserError(f"Only {found['clips']} of {FILMS * CLIPS} clips were made.")
    found |= dict(
        workers=WORKERS,
        sources=FILMS,
        source_bytes=sum(p.stat().st_size for p in folder.glob("film*.mp4")),
        source_seconds=60 * FILMS,
        clips_per_second=found["clips"] / found["seconds"],
        overhead=WORKERS * found["seconds"] / found["ffmpeg_seconds"] - 1,
        cpu_share_beside_ffmpeg=found["cpu_seconds"] / found["ffmpeg_cpu_seconds"],
        limit=LIMIT,
    )
    print(
        f"{found['clips']} clips in {found['seconds']:.1f} s by {WORKERS} workers, {found['ffmpeg_seconds']:.1f} s of ffmpeg: overhead {found['overhead']:.1%} (at most {LIMIT:.0%}: {'met' if found['overhead'] <= LIMIT else 'MISSED'}); "
        f"CPU beside ffmpeg {found['cpu_share_beside_ffmpeg']:.1%} of ffmpeg's",
        flush=True,
    )
    return found


def measure_memory(folder):
    tiny(folder)
    found = []
    for n in (100, 3000, 10_000):
        sources = [f"alive{i}" if i % 8 == 0 else f"dead{i}" for i in range(n // 5)]
        for s in sources:
            if s.startswith("alive") and not (folder / f"{s}.mp4").is_file():
                os.link(folder / "tiny.mp4", folder / f"{s}.mp4")
        with (
            serve_folder(folder) as url,
            home(rows(sources, 5, 3, step=3), url_template=url + "/{id}.mp4", per_host=8) as place,
        ):
            found.append(built(place))
        print(
            f"{found[-1]['rows']:6} rows, {found[-1]['clips']:4} clips in {found[-1]['seconds']:6.1f} s: {found[-1]['peak_mb']:.0f} MB at most, with ffmpeg's processes {found[-1]['peak_with_ffmpeg_mb']:.0f} MB",
            flush=True,
        )
    return dict(what="5 clips a source of 3 s, 64x64; one source in eight is there, the others are 404", builds=found)


def measure_ledger(folder, n=10_000):
    "Rows put into a ledger, and three events of each."
    from frames_matter.data.ledger import Ledger

    with tempfile.TemporaryDirectory(dir=folder) as place, Ledger(Path(place) / "ledger.sqlite") as ledger:
        ledger.begin("bench", place)
        began = time.perf_counter()
        ledger.add(
            dict(
                clip_id=f"v{i // 2}_{i}",
                youtube_id=f"v{i // 2}",
                start=float(i),
                end=i + 5.0,
                caption=f"Row {i}: a man walks a dog. " * 4,
                aesthetic_score=5.0,
                status="",
                reason="",
            )
            for i in range(n)
        )
        adding = time.perf_counter() - began
        ledger.take("study", n)
        began = time.perf_counter()
        for i in range(n):
            for event in (
                dict(state="fetched"),
                dict(state="cut", sha256="0" * 64, bytes=100_000),
                dict(state="checked", frames=100, fps=25.0, width=640, height=360, seconds=4.0),
            ):
                ledger.record(event | dict(rows=[i]))
        recording = time.perf_counter() - began
        if len(ledger.kept("study")) != n:
            raise UserError("The ledger lost rows.")
        size = sum(p.stat().st_size for p in Path(place).glob("ledger.sqlite*"))
    films(folder)
    began = time.perf_counter()
    for path in folder.glob("film*.mp4"):
        file_sha256(path)
    hashed = sum(p.stat().st_size for p in folder.glob("film*.mp4")) / (time.perf_counter() - began)
    found = dict(
        hashed_bytes_per_second=hashed,
        rows=n,
        rows_added_per_second=n / adding,
        events_per_second=3 * n / recording,
        events_per_row=3,
        bytes_per_row=size / n,
    )
    print(
        f"ledger: {found['events_per_second']:.0f} events a second, {found['rows_added_per_second']:.0f} rows added a second, {found['bytes_per_row']:.0f} bytes a row",
        flush=True,
    )
    return found


def killer(clips, enough, killed):  # a function of the build's process id
    "Kills one worker in the midst of a job as soon as there are enough clips."

    def watch(pid):
        if killed or len(list(clips.glob("*.mp4"))) < enough:
            return
        for worker in tree(pid):
            try:
                title = Path(f"/proc/{worker}/cmdline").read_bytes()
            except OSError:
                continue
            if not title.startswith(b"ray::make_clips"):
                continue
            os.kill(worker, signal.SIGKILL)
            return killed.append(len(list(clips.glob("*.mp4"))))

    return watch


def manifest(folder):
    return pd.read_csv(folder / "data_manifest" / "smoke" / "clips.csv", keep_default_na=False, dtype=str)


def measure_ray(folder, n=8):  # films
    films(folder)
    found, killed = {}, []
    for engine in ("threads", "ray"):
        with (
            serve_folder(folder, requests=(asked := [])) as url,
            home(table_of_films(n), url_template=url + "/{id}.mp4", engine=engine) as place,
        ):
            clips = place / "data" / "smoke" / "clips"
            found[engine] = built(place, killer(clips, n * CLIPS // 3, killed) if engine == "ray" else lambda pid: None)
            found[engine] |= dict(
                manifest=manifest(place),
                files=sorted(p.name for p in clips.glob("*.mp4")),
                asked=Counter(path for _, path in asked),
            )
    if not killed:
        raise UserError("No worker was killed: the build was too fast, or Ray names its processes otherwise.")
    one, other = (found[e].pop("manifest") for e in ("threads", "ray"))
    kept = [set(m.clip_id[m.status == "kept"]) for m in (one, other)]
    files, asked = ([found[e].pop(what) for e in ("threads", "ray")] for what in ("files", "asked"))
    record = dict(
        rows=len(other),
        clips=len(kept[1]),
        killed_after_clips=killed[0],
        lost=len(kept[0] - kept[1]),
        twice=int(other.clip_id.duplicated().sum()),
        same_manifest=one.equals(other),
        same_files=files[0] == files[1],
        fetched_again=sum(asked[1][path] > n for path, n in asked[0].items()),
        builds=found,
    )
    print(
        f"ray: a worker killed after {killed[0]} of {record['clips']} clips: {record['lost']} lost, {record['twice']} twice, the manifest is {'' if record['same_manifest'] else 'NOT '}that of threads; {record['fetched_again']} of {n} films fetched again",
        flush=True,
    )
    return record


def nothing(job):
    yield job


def measure_engine(folder, n=2000):
    "Jobs a second that one driver hands out and takes in, when there is nothing to do in them."

    def seconds(**how):
        began = time.perf_counter()
        if sum(1 for _ in run_jobs(nothing, range(n), workers=WORKERS, **how)) != n:
            raise UserError("The engine lost jobs.")
        return time.perf_counter() - began

    found = dict(jobs=n, threads_per_second=n / seconds())
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )  # workers import this file
    with ray_cluster(WORKERS):
        seconds(engine="ray")  # workers start
        found["ray_per_second"] = n / seconds(engine="ray")
    print(
        f"engine: {found['threads_per_second']:.0f} empty jobs a second on threads, {found['ray_per_second']:.0f} on Ray",
        flush=True,
    )
    return found


class Counting(loopback._Handler):
    "Counts the bytes that are sent."

    def setup(self):
        super().setup()
        write = self.wfile.write

        def counted(data):
            self.server.sent.append(len(data))
            return write(data)

        self.wfile.write = counted


def measure_network(folder, at=170.0):
    "One clip of a film as long as InternVid's mean, fetched with and without sections; six of the films, alike all through, follow one another in it."
    films(folder)
    if not (film := folder / "long.mp4").is_file():
        with atomic_path(film) as tmp, tempfile.TemporaryDirectory() as place:
            (listing := Path(place) / "list.txt").write_text(
                "".join(f"file '{p}'\n" for p in sorted(folder.glob("film*.mp4"))[:12:2])
            )
            ffmpeg.input(str(listing), f="concat", safe=0).output(str(tmp), c="copy", t=VIDEO_SECONDS).global_args(
                "-v", "error", "-nostdin"
            ).run(cmd=find_ffmpeg())
    found = dict(film_seconds=VIDEO_SECONDS, film_bytes=film.stat().st_size, clip_seconds=SECONDS)
    for name, sections in (("whole", False), ("section", True)):
        sent = []
        with (
            loopback.serve(Counting, folder=folder, requests=[], sent=sent) as url,
            tempfile.TemporaryDirectory() as place,
        ):
            fetched = fetch_source("long", f"{url}/long.mp4", [(at, at + SECONDS)], place, sections=sections)
            found[name] = dict(sent_bytes=sum(sent), file_bytes=fetched.bytes, seconds=fetched.seconds)
            if fetched.whole == sections:
                raise UserError("The fetch was not of the kind that was asked for.")
    found["seconds_sent_for_a_clip"] = found["section"]["sent_bytes"] / found["film_bytes"] * VIDEO_SECONDS
    print(
        f"network: {found['whole']['sent_bytes'] / 1e6:.1f} MB for the whole film, {found['section']['sent_bytes'] / 1e6:.1f} MB for a section: as much as {found['seconds_sent_for_a_clip']:.1f} s of it for a clip of {SECONDS} s",
        flush=True,
    )
    return found


PARTS = {
    "overhead": measure_overhead,
    "memory": measure_memory,
    "ledger": measure_ledger,
    "engine": measure_engine,
    "network": measure_network,
    "ray": measure_ray,
}


def versions():
    said = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return dict(python=platform.python_version(), ffmpeg=said, sqlite=sqlite3.sqlite_version) | {
        name: metadata.version(name) for name in ("yt-dlp", "decord2", "ray")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--build-in", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build_in:
        return build_here(args.build_in)
    if sys.platform != "linux":
        raise UserError("This benchmark watches processes through /proc; run it on Linux.")
    (folder := project_root() / "data" / "bench" / "build").mkdir(parents=True, exist_ok=True)
    record = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for name in args.part or PARTS:
        load = os.getloadavg()[0]
        measured = PARTS[name](folder) | dict(
            load_before=round(load, 2), machine=f"{platform.machine()}, {os.cpu_count()} cores", versions=versions()
        )
        record = (
            dict(
                command="frames-matter bench build",
                definitions=dict(
                    overhead="workers x seconds of the build / sum of the seconds of its ffmpeg processes - 1",
                    load_before="processes that wanted a core in the minute before; near 0 on a quiet machine",
                ),
            )
            | record
            | {name: measured}
        )
        atomic_write(RESULT, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(print(e, file=sys.stderr) or 2)
