"""Building a dataset from a site that misbehaves, from two processes at once, and across a kill."""
import contextlib, json, os, signal, subprocess, sys, time
from pathlib import Path

import ffmpeg
import pytest

from frames_matter import dataset, loopback
from frames_matter.core import UserError, data_dir, find_ffmpeg, get_profile, manifest_dir
from frames_matter.dataset import VideoCaptionDataset, build_dataset, load_manifest, verify
from frames_matter.loopback import serve_folder

GOOD = [f"good{i}" for i in range(6)]

@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "A folder of good films, eight seconds each, and some that are not."
    folder = tmp_path_factory.mktemp("films")
    for i, name in enumerate(GOOD):
        picture = ffmpeg.input(f"testsrc=s=96x{64 + 2*i}:r=10:d=8", f="lavfi").output(str(folder/f"{name}.mp4"), vcodec="libx264", preset="ultrafast", g=40, pix_fmt="yuv420p", threads=1)
        picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    whole = (folder/"good0.mp4").read_bytes()
    (folder/"short.mp4").write_bytes(whole)
    (folder/"damaged.mp4").write_bytes(whole[:len(whole)//2])
    (folder/"empty.mp4").write_bytes(b"")
    (folder/"page.mp4").write_text("<!doctype html><title>Sign in</title>")
    sound = ffmpeg.input("sine=d=8", f="lavfi").output(str(folder/"sound.mp4"), acodec="aac").global_args("-v", "error", "-nostdin")
    sound.run(cmd=find_ffmpeg())
    return folder

class Misbehaving(loopback._Handler):
    "Hangs up in the middle of `short`, fails on `broken`, and takes its time where the server says so."
    def _answer(self, body):
        time.sleep(getattr(self.server, "delay", 0))
        if "/broken" in self.path: return self._say(500)
        if "/short" not in self.path: return super()._answer(body)
        whole = (self.server.folder/"short.mp4").read_bytes()
        self.server.requests.append((self.command, self.path))
        self._say(200, len(whole), "video/mp4")
        if body: self.wfile.write(whole[:2000])
        self.close_connection = True

@pytest.fixture
def site(films, monkeypatch):
    "The films' base URL and the list of requests made to it."
    monkeypatch.setattr(loopback, "_Handler", Misbehaving)
    asked = []
    with serve_folder(films, requests=asked) as url: yield url, asked

def row(youtube_id, start="00:00:01.000", end="00:00:05.000", caption=None, score=5.0):
    return dict(YoutubeID=youtube_id, Start_timestamp=start, End_timestamp=end, Caption=caption or f"A film called {youtube_id}.", Aesthetic_Score=score, CLIP_Score=None)

@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home of its own; a function that puts rows there and gives a profile for them."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    def put(rows, url, **overrides):
        P = get_profile("smoke", source="hub", url_template=f"{url}/{{id}}.mp4", **dict(n_clips=len(GOOD), n_pool=0) | overrides)
        data_dir(P).mkdir(parents=True, exist_ok=True)
        (data_dir(P)/"metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return P
    return put

def fetched(asked): return {path for method, path in asked if method == "GET"}

def left_over(P): return [str(p) for p in data_dir(P).rglob("*") if "partial" in p.name]

FAULTS = {"gone": "404", "broken": "500", "short": "not fetched", "page": "a page", "empty": "not fetched", "damaged": "damaged", "sound": "not cut"}

def test_faults(home, site):
    "Each fault rejects its own row, with a reason of one line; a second build asks the site for nothing."
    url, asked = site
    P = home([row(i) for pair in zip(FAULTS, GOOD) for i in pair] + [row("sound")] + [row(i, "00:00:02.000") for i in GOOD], url, n_clips=8)
    manifest = build_dataset(P, progress=False)
    tried = manifest.drop_duplicates("youtube_id").set_index("youtube_id")
    for name, word in FAULTS.items():
        assert tried.status[name] == "rejected" and word in tried.reason[name] and "\n" not in tried.reason[name], (name, tried.reason[name])
        assert "127.0.0.1" not in tried.reason[name]
    assert (tried.status[GOOD] == "kept").all() and (manifest.status == "kept").sum() == 8
    assert left_over(P) == [] and verify(P) == []
    assert sorted(p.stem for p in (data_dir(P)/"clips").iterdir()) == sorted(load_manifest(P).clip_id)
    table = (manifest_dir(P)/"clips.csv").read_bytes()
    asked.clear()
    assert build_dataset(P, progress=False).equals(manifest) and asked == []
    (data_dir(P)/"built.json").unlink() # finished, but killed before it could say so
    build_dataset(P, progress=False)
    assert asked == [] and (manifest_dir(P)/"clips.csv").read_bytes() == table

def test_each_source_is_fetched_once(home, site):
    "However many clips a video holds, and whether it can be had or not."
    url, asked = site
    times = [("00:00:00.000", "00:00:03.500"), ("00:00:01.000", "00:00:05.000"), ("00:00:04.000", "00:00:07.500")]
    P = home([row(i, *t) for t in times for i in ("gone", *GOOD[:3])], url, n_clips=9)
    manifest = build_dataset(P, progress=False)
    assert (manifest.status == "kept").sum() == 9 and (manifest.reason == "not fetched: HTTP Error 404: Not Found").sum() == 3
    assert not manifest.clip_id.duplicated().any() and list(manifest.youtube_id) == ["gone", *GOOD[:3]]*3, "a row was left out or tried twice"
    downloads = {name: sum(path == f"/{name}.mp4" for _, path in asked) for name in ("gone", *GOOD[:3])}
    assert downloads["gone"] == 1
    one = home([row(i) for i in GOOD[3:]], url, n_clips=3)
    build_dataset(one, progress=False)
    assert set(downloads[i] for i in GOOD[:3]) == {sum(path == f"/{GOOD[3]}.mp4" for _, path in asked)}, "three clips cost more requests than one"
    assert len(set(load_manifest(one).clip_id)) == 3

def test_hostile_and_odd_rows(home, site):
    "Ids that are paths, options or shell; impossible times; missing captions and scores: rejected, and nothing outside is touched."
    url, asked = site
    bad = [row("../../escaped"), row("-o/tmp/x"), row("a;touch x"), row(""), row("ü"*5), row("x"*10_000), row("good0", "00:00:05.000", "00:00:01.000"), row("good0", "later"), row("good0", "00:99:00.000", "00:99:04.000"),
           row("good0", caption=" "), row("good0") | {"Caption": None}, row("good0", score=None), row("good0", score="n/a"), row("good0", score=1.0)]
    P = home(bad + [row("good0", "00:00:00.000", "00:00:60.000")] + [row(i) for i in GOOD] + [row(GOOD[-1])], url)
    manifest = build_dataset(P, progress=False)
    assert (manifest.status[:len(bad) + 1] == "rejected").all() and manifest.reason[:len(bad) + 1].notna().all() and (manifest.status == "kept").sum() == 6
    assert manifest.reason[len(bad)] == "longer than 15 s" and manifest.clip_id[len(bad)] == "good0_0.000_60.000"
    assert {p.split("/")[1] for p in fetched(asked)} == {f"{i}.mp4" for i in GOOD}
    assert all(len(str(v)) < 200 for v in manifest.youtube_id)

def test_silent_site(home, films):
    "A site that does not answer stops the run and condemns no row: with the site back, the next build goes on."
    with serve_folder(films) as url: pass
    P = home([row(i) for i in GOOD], url)
    with pytest.raises(UserError, match="check the network"): build_dataset(P, progress=False)
    assert not (manifest_dir(P)/"clips.csv").exists() and not any(p.read_text() for p in data_dir(P).glob("journal-*"))
    with serve_folder(films) as url:
        assert (build_dataset(home([row(i) for i in GOOD], url), progress=False).status == "kept").all()

@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\xfe\x00"*50, b"a,b\n1,2\n", b"clip_id,youtube_id,caption,split,status\n\"", b"clip_id"])
def test_unreadable_manifest(tmp_path, content):
    "An absent, empty, binary or foreign clips.csv is said to be one, by its name."
    table = tmp_path/"clips.csv"
    if content is not None: table.write_bytes(content)
    with pytest.raises(UserError, match="clips.csv") as e: VideoCaptionDataset(table, "train")
    assert "\n" not in str(e.value)

def test_full_disk(home, site, monkeypatch):
    "No space left is nobody's row: the run stops with one line."
    url, _ = site
    P = home([row(i) for i in GOOD], url)
    def full(*args, **kwargs): raise OSError(28, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(dataset.shutil, "move", full)
        with pytest.raises(UserError, match="No space left"): build_dataset(P, progress=False)
    with monkeypatch.context() as m:
        m.setattr(dataset, "_why_not_cut", lambda said, target, why=dataset._why_not_cut: why("av_interleaved_write_frame(): No space left on device", target))
        m.setattr(dataset, "find_ffmpeg", lambda: "false")
        with pytest.raises(UserError, match="No space left"): build_dataset(P, progress=False)
    assert left_over(P) == [] and (build_dataset(P, progress=False).status == "kept").all()

def test_missing_ffmpeg(home, site, monkeypatch):
    "Without an ffmpeg nothing is fetched, and one line says what to install."
    url, asked = site
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match="imageio-ffmpeg"): build_dataset(home([row(i) for i in GOOD], url), progress=False)
    assert asked == []

BUILD = """
import sys, json
from frames_matter.core import get_profile
from frames_matter.dataset import build_dataset
build_dataset(get_profile("smoke", **json.loads(sys.argv[1])), progress=False)
"""

def start(P):
    "Build in another process."
    fields = {k: getattr(P, k) for k in ("source", "url_template", "n_clips", "n_pool")}
    return subprocess.Popen([sys.executable, "-c", BUILD, json.dumps(fields)], env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, start_new_session=True)

def test_two_at_once(home, site):
    "Of two processes on one folder one builds and the other waits: each video is fetched once, and both end well."
    url, asked = site
    P = home([row(i) for i in GOOD], url)
    both = [start(P), start(P)]
    assert [p.wait(60) for p in both] == [0, 0], [p.stderr.read() for p in both]
    alone = sum(path == "/good0.mp4" for _, path in asked)
    asked.clear()
    other = home([row("good0"), row("good1"), row("good2")], url, n_clips=3)
    for p in (data_dir(P)/"sources").iterdir(): p.unlink()
    for p in (data_dir(P)/"clips").iterdir(): p.unlink()
    (data_dir(P)/"built.json").unlink()
    build_dataset(other, progress=False)
    assert alone == sum(path == "/good0.mp4" for _, path in asked), "two processes fetched a video twice"

def test_killed_and_resumed(home, site):
    "kill -9 in the middle: no partial file is taken for whole, nothing finished is done again, and the manifest is that of an undisturbed build."
    url, asked = site
    P = home([row(i) for i in GOOD] + [row(i, "00:00:02.000") for i in GOOD], url, n_clips=12)
    process = start(P)
    clips = data_dir(P)/"clips"
    end = time.monotonic() + 60
    def journalled(): return sum(len(p.read_text().splitlines()) for p in data_dir(P).glob("journal-*.jsonl"))
    while journalled() < 3 and process.poll() is None and time.monotonic() < end: time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError): os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not (manifest_dir(P)/"clips.csv").exists()
    journal, = data_dir(P).glob("journal-*.jsonl")
    finished = {json.loads(line)["clip_id"]: (clips/f"{json.loads(line)['clip_id']}.mp4").stat().st_mtime_ns for line in journal.read_text().splitlines()}
    assert 3 <= len(finished) < 12
    with open(journal, "a") as f: f.write('{"clip_id": "torn') # and power fails in the middle of a line
    partial = clips/".0badcafe.partial.mp4"
    partial.write_bytes(b"half")
    asked.clear()
    manifest = build_dataset(P, progress=False)
    assert (manifest.status == "kept").sum() == 12 and verify(P) == []
    assert all((clips/f"{i}.mp4").stat().st_mtime_ns == t for i, t in finished.items()), "a finished clip was cut again"
    done = {i.split("_")[0] for i in finished}
    assert not fetched(asked) & {f"/{i}.mp4" for i in done}, "a fetched video was fetched again"
    table = (manifest_dir(P)/"clips.csv").read_bytes()
    for p in (*clips.iterdir(), *(data_dir(P)/"sources").iterdir(), journal, data_dir(P)/"built.json"): p.unlink()
    build_dataset(P, progress=False)
    assert (manifest_dir(P)/"clips.csv").read_bytes() == table

def test_verify_names_what_differs(home, site):
    "A clip that is gone, changed or cut short is named; a build makes it again."
    url, _ = site
    P = home([row(i) for i in GOOD], url)
    build_dataset(P, progress=False)
    gone, changed = (Path(p) for p in load_manifest(P).path[:2])
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-10] + b"0123456789")
    assert [d.split(":")[0] for d in verify(P)] == [gone.stem, changed.stem]
    build_dataset(P, progress=False)
    assert verify(P) == []

def test_training_items(home, site):
    "Batches through a DataLoader; drawing strategies draw anew each epoch and the same for the same seed."
    import torch
    url, _ = site
    P = home([row(i) for i in GOOD], url)
    data = build_dataset(P, progress=False)
    train = VideoCaptionDataset(data, "train", strategy="weighted", k=4, size=32, seed=1)
    batch = next(iter(torch.utils.data.DataLoader(train, batch_size=2)))
    assert batch["video"].shape == (2, 4, 3, 32, 32) and batch["video"].dtype == torch.float32 and len(batch["caption"]) == 2
    first = train[0]["video"]
    train.set_epoch(1)
    assert not torch.equal(first, train[0]["video"])
    train.set_epoch(0)
    assert torch.equal(first, train[0]["video"])
    assert len(VideoCaptionDataset(manifest_dir(P)/"clips.csv", "test")) == len(VideoCaptionDataset(load_manifest(P), "test")) == 1
    for bad in (dict(split="validation"), dict(split="train", strategy="last")):
        with pytest.raises(UserError, match="valid:"): VideoCaptionDataset(data, **bad)
