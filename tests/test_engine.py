"What `run_jobs` promises when workers fail, are called off, or die: on threads, and on a Ray cluster of this machine."

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import ffmpeg
import psutil
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import file_sha256
from frames_matter.base.profiles import data_dir, get_profile, manifest_dir
from frames_matter.data import engine, loopback
from frames_matter.data.build import build_dataset
from frames_matter.data.engine import engine_ready, run_jobs
from frames_matter.data.manifest import load_manifest, verify


class Work:
    "Yields 0, 1, 2, ... without end, and knows how many it has yielded and whether it was closed."

    def __init__(self):
        self.yielded, self.closed = 0, 0

    def __call__(self, job):
        try:
            while True:
                self.yielded += 1
                yield self.yielded
        finally:
            self.closed += 1


def our_threads():
    return [t for t in threading.enumerate() if "_serve_jobs" in t.name]


def alive(pid):
    try:
        return os.kill(pid, 0) is None
    except ProcessLookupError:
        return False


def wait_until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def test_a_slow_caller_slows_the_work():
    work = Work()
    with closing(run_jobs(work, range(10**9), workers=2)) as events:
        next(events)
        wait_until(lambda: work.yielded >= 2 * 8)
        time.sleep(0.1)  # time in which more would come, were there no bound
        assert work.yielded <= 2 * 8 + 2 + 1  # in the queue, in the hands of each worker, and taken
    assert work.closed == 2
    assert our_threads() == []


def test_what_one_job_raises_stops_the_others():
    others = Work()

    def work(job):
        if job != 3:
            yield from others(job)
        yield "well so far"
        wait_until(lambda: others.yielded >= 2)
        raise UserError("Job three is at fault.")

    seen = []
    with pytest.raises(UserError, match="three is at fault"):
        for event in run_jobs(work, [3, 0, 0, 0], workers=3):
            seen.append(event)
    assert (0, "well so far") in seen
    assert our_threads() == []
    assert others.closed in (1, 2)


def test_what_the_jobs_iterator_raises_stops_all():
    def jobs():
        yield 1
        raise UserError("No more rows; fetch the table again.")

    work = Work()
    with pytest.raises(UserError, match="No more rows"):
        list(run_jobs(work, jobs(), workers=2))
    assert our_threads() == []


def test_jobs_are_asked_for_in_the_callers_thread():
    "So that they may come out of a database."
    asked = []

    def jobs():
        for i in range(5):
            asked.append(threading.current_thread())
            yield i

    assert len(list(run_jobs(lambda job: (event for event in [job]), jobs(), workers=2))) == 5
    assert set(asked) == {threading.current_thread()}


@pytest.mark.skipif(os.name == "nt", reason="interrupts by signal")
@pytest.mark.parametrize("step", [0.05, 600], ids=["busy", "hanging"])
def test_ctrl_c(tmp_path, step):
    "Workers end with the step they are at; one that hangs does not keep the process."
    (tmp_path / "run.py").write_text(f"""
import threading, time
from frames_matter.data import engine
engine.LEAVE_SECONDS = 1
def work(job):
    while True:
        yield job
        time.sleep({step})
try:
    for number, _ in engine.run_jobs(work, range(10**9), workers=2):
        print(number, flush=True)
except KeyboardInterrupt:
    print("left", sum("_serve_jobs" in t.name for t in threading.enumerate()), flush=True)
""")
    process = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.splitlines()[-1] == f"left {0 if step < 1 else 2}"
    assert "Traceback" not in err
    assert ("Stopping; the steps at hand have 1 s to end." in err) == (step > 1)  # of what is soon over nothing is said


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install 'frames_matter\\[scale\\]'"):
        list(run_jobs(Work(), [1], "ray"))


def test_no_cluster_at_the_address():
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'frames_matter[scale]'")
    with pytest.raises(UserError, match="No Ray cluster could be reached at 127.0.0.1:1 "):
        list(run_jobs(Work(), [1], "ray", address="127.0.0.1:1"))


# ---- Ray: one cluster for all


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    "Two workers on this machine, and a module they can import work from."
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'frames_matter[scale]'")
    home = tmp_path_factory.mktemp("cluster")
    (home / "ray_work.py").write_text(RAY_WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(home))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(home), os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(str(home))
        import ray

        with engine_ready("ray", 2):
            yield home
        assert not ray.is_initialized()


RAY_WORK = """
import os, signal, time
from pathlib import Path
from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write, project_root

def files(job):
    "Write three files, whole or not at all, and say which; while `hold` is there, stop before the last."
    for i in range(3):
        while i == 2 and job == 0 and (project_root()/"hold").exists():
            time.sleep(0.02)
        with open(project_root()/f"begun-{job}-{i}", "a") as f:
            f.write(f"{os.getpid()}\\n")
        atomic_write(project_root()/f"made-{job}-{i}", str(job))
        yield f"made-{job}-{i}"

def faulty(job):
    yield job
    raise UserError("This job is at fault.")

def deadly(job):
    os.kill(os.getpid(), signal.SIGKILL)
    yield job

def endless(job):
    (project_root()/f"endless-{job}").write_text(str(os.getpid()))
    time.sleep(600)
    yield job

def variables(job):
    yield os.environ.get("FRAMES_MATTER_HOME"), os.environ.get("FRAMES_MATTER_COOKIES")
"""


@pytest.mark.skipif(os.name == "nt", reason="looks for processes by signal")
def test_ray_ends_what_is_called_off(cluster):
    from ray_work import endless

    def jobs():
        yield 0
        wait_until(lambda: (cluster / "endless-0").exists() and (cluster / "endless-0").read_text())
        raise UserError("No more rows; fetch the table again.")

    with pytest.raises(UserError, match="No more rows"):
        list(run_jobs(endless, jobs(), "ray"))
    worker = int((cluster / "endless-0").read_text())
    wait_until(lambda: not alive(worker))


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_ray_worker_killed(cluster):
    "A worker is killed at two thirds of a job: every job's events come once, in order, and the job was begun again."
    from ray_work import files

    (cluster / "hold").touch()

    def kill():
        wait_until((cluster / "made-0-1").exists)
        os.kill(int((cluster / "begun-0-0").read_text().split()[0]), signal.SIGKILL)
        (cluster / "hold").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    found = list(run_jobs(files, range(8), "ray"))
    killer.join()
    told = [(job, f"made-{job}-{i}") for job in range(8) for i in range(3)]
    assert Counter(found) == Counter(told), "something was lost, or came twice"
    assert all([e for n, e in found if n == job] == [f"made-{job}-{i}" for i in range(3)] for job in range(8))
    assert len((cluster / "begun-0-0").read_text().split()) == 2, "it was not killed"
    assert all((cluster / name).read_text() == str(job) for job, name in found)


def test_ray_raises_and_passes_variables(cluster, monkeypatch):
    from ray_work import deadly, faulty, variables

    with pytest.raises(UserError) as caught:
        list(run_jobs(faulty, [1], "ray"))
    assert str(caught.value) == "This job is at fault."
    monkeypatch.setenv("FRAMES_MATTER_COOKIES", "cookies.txt")
    assert list(run_jobs(variables, [1], "ray")) == [(0, (str(cluster), "cookies.txt"))]
    if os.name != "nt":
        monkeypatch.setattr(engine, "RAY_RETRIES", 1)
        with pytest.raises(UserError, match="Job 0 ended its worker 2 times"):
            list(run_jobs(deadly, [1], "ray"))


def test_ray_without_a_shared_folder(cluster, monkeypatch):
    monkeypatch.setattr(engine, "atomic_write", lambda path, content: None)  # the file is on the driver's disk alone
    with pytest.raises(UserError, match="does not see .*; let all machines share that folder"):
        list(run_jobs(Work(), [1], "ray"))


# ---- Ray: a whole build


class Site(loopback.FolderHandler):
    "Holds back film `v3` until somebody lets it go, the first time."

    def answer(self, body):
        if self.path == "/v3.mp4":
            self.server.asked.set()
            assert self.server.go.wait(60)
        super().answer(body)


def kill_busy_workers():
    "SIGKILL to every worker of this process's Ray cluster that is at `make_clips`."
    killed = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            if " ".join(process.cmdline()).startswith("ray::make_clips"):
                killed += process.kill() is None
    return killed


def make_films(folder, n):
    "Films v0.mp4, v1.mp4, ... of eight seconds, no two of one height."
    folder.mkdir()
    for i in range(n):
        picture = ffmpeg.input(f"testsrc=s=128x{64 + 2 * i}:r=10:d=8", f="lavfi")
        film = picture.output(
            str(folder / f"v{i}.mp4"), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", threads=1
        )
        film.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return folder


def row_of(i, at):
    "A row of InternVid's table: film i from second `at`."
    times = dict(Start_timestamp=f"00:00:0{at}.000", End_timestamp=f"00:00:0{at + 3}.500")
    return dict(YoutubeID=f"v{i}", Caption=f"Film {i} from {at}.", Aesthetic_Score=5.0, CLIP_Score=None) | times


def build(home, engine, rows, monkeypatch, **state):
    "Build in a home of its own, from a `Site` of such a state: the profile, the manifest and the clips' checksums."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(home))
    with loopback.serve(Site, **state) as url:
        template = f"{url}/{{id}}.mp4"
        profile = get_profile("smoke", source="hub", url_template=template, n_clips=len(rows), n_pool=0, engine=engine)
        data_dir(profile).mkdir(parents=True)
        (data_dir(profile) / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        build_dataset(profile, progress=False)
    clips = {p.name: file_sha256(p) for p in (data_dir(profile) / "clips").iterdir()}
    return profile, (manifest_dir(profile) / "clips.csv").read_bytes(), clips


def test_ray_build_with_a_worker_killed(cluster, tmp_path, monkeypatch):
    "Workers are killed while a film is being fetched: the manifest and the clips are those of a build on threads."
    rows = [row_of(i, at) for i in range(6) for at in (0, 2, 4)]
    go, asked, killed = threading.Event(), threading.Event(), []
    site = dict(folder=make_films(tmp_path / "films", 6), go=go, asked=asked)
    undisturbed, disturbed = [], []  # requests
    go.set()
    _, manifest, clips = build(tmp_path / "threads", "threads", rows, monkeypatch, requests=undisturbed, **site)
    go.clear()
    asked.clear()

    def kill():
        asked.wait(60)
        killed.append(kill_busy_workers())
        go.set()

    killer = threading.Thread(target=kill)
    killer.start()
    P, manifest_of_ray, clips_of_ray = build(tmp_path / "ray", "ray", rows, monkeypatch, requests=disturbed, **site)
    killer.join()
    assert killed[0] >= 1
    assert disturbed.count(("GET", "/v3.mp4")) > undisturbed.count(("GET", "/v3.mp4")), "it was not fetched again"
    assert manifest_of_ray == manifest
    assert clips_of_ray == clips
    assert len(clips) == len(rows), "something was lost, came twice, or was left over"
    assert len(load_manifest(P)) == len(rows)
    assert verify(P) == []
