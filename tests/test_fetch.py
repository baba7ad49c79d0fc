"""One fetch from a site that misbehaves in every way: how it ends, how often it asked, what it left on disk.

And sections of long videos, which must be the whole's own frames.
"""

import errno
import io
import itertools
import os
import re
import subprocess
import threading
import time

import pandas as pd
import pytest
import yt_dlp
from fault_site import FAULTS, MANNERS, SPAN, rows, serve_faults

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import file_sha256
from frames_matter.base.profiles import get_profile
from frames_matter.data import fetch, sections
from frames_matter.data.failures import Failed
from frames_matter.data.fetch import fetch_source
from frames_matter.data.loopback import FolderHandler, serve
from frames_matter.data.politeness import Hosts, Manners, Timing
from frames_matter.data.row_checks import select_rows
from frames_matter.data.ytdlp import downloader_for


class SkippingTiming(Timing):
    "Waits take no time, but time goes on by as much: `slept` lists them, in seconds."

    def __init__(self):
        slept = []
        super().__init__(now=lambda: time.monotonic() + sum(slept), sleep=slept.append)
        object.__setattr__(self, "slept", slept)


@pytest.fixture
def timing():
    return SkippingTiming()


def fetch_one(name, address, folder, spans=(SPAN,), manners=MANNERS, timing=None, **options):
    "`fetch_source` with no other fetch's turns to wait for."
    timing = timing or Timing()
    return fetch_source(name, address, list(spans), folder, manners, Hosts(timing=timing), timing=timing, **options)


def fetch_fails(*arguments, match=None, **options):
    "The `Failed` that a fetch ends with."
    with pytest.raises(Failed, match=match) as e:
        fetch_one(*arguments, **options)
    return e.value


def is_one_clean_line(failure):
    "Whether a reason is one line without an address."
    text = str(failure)
    return "\n" not in text and "127.0.0.1" not in text and len(text) < 220


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.kind])
def test_fault_that_fails(name, site, tmp_path, timing):
    "Each fault ends as the table says, after as many attempts, and nothing is left on disk."
    fault = FAULTS[name]
    attempts = fault.attempts or MANNERS.attempts
    failure = fetch_fails(name, site.address(name), tmp_path, match=fault.word, timing=timing)
    assert failure.kind == fault.kind
    assert failure.attempts == attempts
    assert failure.transient == (fault.attempts != 1)
    assert is_one_clean_line(failure)
    assert names_in(tmp_path) == []
    assert len(timing.slept) == attempts - 1


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.kind])
def test_fault_that_is_had(name, site, films, tmp_path, timing):
    "What is had is the site's file to the last byte, after as many attempts, and nothing else is on disk."
    fault = FAULTS[name]
    got = fetch_one(name, site.address(name), tmp_path, timing=timing)
    (source,) = films.glob(f"{fault.film}.*")
    assert got.path.read_bytes() == source.read_bytes()
    assert got.attempts == fault.attempts
    assert got.whole
    assert got.offset == 0
    assert got.bytes == source.stat().st_size
    assert got.sha256 == file_sha256(source)
    assert list(tmp_path.iterdir()) == [got.path]
    assert len(timing.slept) == fault.attempts - 1
    if name == "limited":
        assert timing.slept == [1.0], "the site's own Retry-After"


@pytest.mark.parametrize("name", ["page", "hops", "busy", "torn", "forbidden", "missing", "signin", "half"])
def test_page(name, site, tmp_path):
    "A page that leads to the video, or tells that there is none, is as good as the file's address."
    fault, address = FAULTS[name], site.template.replace("{id}", f"{name}0000001")
    if not fault.kind:
        assert fetch_one(name, address, tmp_path).whole
    else:
        failure = fetch_fails(name, address, tmp_path, match=fault.word)
        assert failure.kind == fault.kind
        assert "watch" not in str(failure)


def test_waits_grow_and_end_with_patience(site, tmp_path, timing):
    patient = Manners(patience=40, attempts=100)
    failure = fetch_fails("broken", site.address("broken"), tmp_path, manners=patient, timing=timing)
    assert failure.attempts == len(timing.slept) + 1
    assert failure.attempts >= 3
    assert sum(timing.slept) <= 40
    assert all(a < b for a, b in itertools.pairwise(timing.slept)), timing.slept


def test_a_site_that_asks_for_more_patience_than_there_is(site, tmp_path, timing):
    "It is not asked again before its time."
    hasty = Manners(patience=0.9, first_wait=0.01)
    failure = fetch_fails("limited", site.address("limited"), tmp_path, manners=hasty, timing=timing)
    assert failure.kind == "rate_limited"
    assert failure.attempts == 1
    assert failure.wait == 1.0
    assert timing.slept == []


def test_places_at_a_host():
    "No more fetches at once than a host has places; other hosts have their own."
    hosts, lock = Hosts(per_host=2), threading.Lock()
    inside, most = {"a": 0, "b": 0}, {"a": 0, "b": 0}
    start = threading.Barrier(12)

    def ask(name):
        start.wait()
        with hosts.turn(f"http://www.{name}.org/x"):
            with lock:
                inside[name] += 1
                most[name] = max(most[name], inside[name])
            threading.Event().wait(0.02)
            with lock:
                inside[name] -= 1

    threads = [threading.Thread(target=ask, args=(name,)) for name in "ab" * 6]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == {"a": 2, "b": 2}


def test_left_by_a_kill(site, films, tmp_path):
    "What a killed process left is neither taken for whole nor continued."
    left = tmp_path / ".good.partial"
    left.mkdir()
    (left / "video.mp4.part").write_bytes(b"junk" * 500)
    (left / "video.mp4").write_bytes(b"junk" * 500)
    got = fetch_one("good", site.address("good"), tmp_path)
    assert got.path.read_bytes() == (films / "good.mp4").read_bytes()
    assert names_in(tmp_path) == ["good.mp4"]


def no_space_left(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_disk_full_while_writing(site, tmp_path, monkeypatch):
    "No space left is nobody's row."

    class Full(io.BytesIO):
        write = no_space_left

    monkeypatch.setattr(yt_dlp.downloader.http.HttpFD, "sanitize_open", lambda self, name, mode: (Full(), name))
    with pytest.raises(UserError, match="No space left") as e:
        fetch_one("good", site.address("good"), tmp_path)
    assert not isinstance(e.value, Failed)


def test_disk_full_at_the_end(site, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_put_in_place", no_space_left)
    with pytest.raises(UserError, match="No space left") as e:
        fetch_one("good", site.address("good"), tmp_path)
    assert not isinstance(e.value, Failed)
    assert names_in(tmp_path) == []


COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tuser\tme\n"


def test_cookies(tmp_path, monkeypatch, films):
    "The site sees the file's cookies and the file stays as it is."
    seen = []

    class Noting(FolderHandler):
        def answer(self, body):
            seen.append(self.headers.get("Cookie"))
            super().answer(body)

    jar = tmp_path / "cookies.txt"
    jar.write_text(COOKIES)
    monkeypatch.setenv("FRAMES_MATTER_COOKIES", str(jar))
    with serve(Noting, folder=films, requests=[]) as url:
        fetch_one("good", f"{url}/good.mp4", tmp_path)
    assert set(seen) == {"user=me"}
    assert jar.read_text() == COOKIES


@pytest.mark.parametrize("content", ["{}", None, "# Netscape HTTP Cookie File\nnonsense\n"])
def test_cookies_that_are_none(tmp_path, monkeypatch, content):
    "A file that is absent or of another form is said to be."
    jar = tmp_path / "cookies.txt"
    if content is not None:
        jar.write_text(content)
    monkeypatch.setenv("FRAMES_MATTER_COOKIES", str(jar))
    with pytest.raises(UserError, match="FRAMES_MATTER_COOKIES") as e:
        fetch_one("good", "http://127.0.0.1:9/good.mp4", tmp_path)
    assert not isinstance(e.value, Failed)


def test_warnings_tell_the_kind(site, tmp_path, monkeypatch):
    "What yt-dlp only warned of decides what an error that follows from it is called."

    def without_runtime(self, url, **options):
        self.report_warning(
            "No supported JavaScript runtime could be found. Only deno is enabled by default; "
            "to use another runtime add  --js-runtimes RUNTIME[:PATH]",
            only_once=True,
        )
        self.report_error(
            "[youtube] abc: Requested format is not available. Use --list-formats for a list of available formats"
        )

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", without_runtime)
    words = "^not fetched: Requested format is not available$"
    failure = fetch_fails("good", site.address("good"), tmp_path, match=words)
    assert failure.kind == "no_js_runtime"
    assert failure.attempts == 1


def test_an_extractor_that_breaks(site, tmp_path, monkeypatch):
    "A bug in one site's extractor is that video's loss."
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda self, url, **options: {}["title"])
    assert fetch_fails("good", site.address("good"), tmp_path).kind == "other"
    assert names_in(tmp_path) == []


def test_local_file(films, tmp_path):
    "A path is used where it lies."
    source = films / "good.mp4"
    got = fetch_one("x", str(source), tmp_path / "sources")
    assert got.path == source
    assert got.whole
    assert got.offset == 0
    assert got.sha256 == file_sha256(source)
    assert got.attempts == 1
    assert not (tmp_path / "sources").exists()


@pytest.mark.parametrize(
    "name, content, kind",
    [
        ("gone.mp4", None, "absent"),
        ("a\0b", None, "absent"),
        ("empty.mp4", b"", "empty"),
        ("page.mp4", b"<html>", "not_video"),
        ("pipe", None, "other"),
        (".", None, "other"),
        ("half.mp4", "half of a film", "damaged"),
    ],
    ids=["gone", "no name", "empty", "page", "pipe", "folder", "half"],
)
def test_local_file_that_is_no_video(films, tmp_path, name, content, kind):
    if name == "pipe":
        os.mkfifo(tmp_path / "pipe")
    if content == "half of a film":
        content = (films / "good.mp4").read_bytes()[:9000]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    failure = fetch_fails("x", f"{tmp_path}/{name}", tmp_path / "sources")
    assert failure.kind == kind
    assert str(tmp_path) not in str(failure)


def test_rows_of_the_fault_site():
    "The rows that nothing should be fetched for are rejected for what is wrong with them."
    bad, words = zip(*rows(), strict=True)
    chosen = select_rows(pd.DataFrame(bad), get_profile("smoke"))
    for status, reason, word in zip(chosen.status, chosen.reason, words, strict=True):
        assert status == ("rejected" if word else "")
        assert word in reason


def test_hostile_names(tmp_path):
    "Nothing is fetched under a name that would leave its folder."
    hostile = [row["YoutubeID"] for row, word in rows() if word == "id" and row["YoutubeID"] is not None]
    assert len(hostile) > 15
    for name in hostile:
        fetch_fails(name, "http://127.0.0.1:9/x.mp4", tmp_path / "in")
    assert list(tmp_path.iterdir()) == []


ADDRESSES = (
    "http://",
    "http://[::1",
    "https://127.0.0.1:99999/x",
    "http:///x",
    "HTTP://?",
    "ftp://127.0.0.1/x",
    "file:///etc/passwd",
    "x" * 10_000,
    "http://127.0.0.1:9/a b\n-o x",
)


@pytest.mark.parametrize("address", ADDRESSES, ids=[re.sub(r"\W+", " ", a)[:20] for a in ADDRESSES])
def test_hostile_addresses(tmp_path, address):
    "Nothing is fetched from what is no address."
    failure = fetch_fails("x", address, tmp_path / "in", manners=Manners(attempts=1))
    assert "\n" not in str(failure)
    assert len(str(failure)) < 220
    assert not any(tmp_path.rglob("*.mp4"))
    assert names_in(tmp_path) in ([], ["in"])


@pytest.mark.parametrize("audio, chosen", [(False, "480v"), (True, "480v+sound")])
def test_format(tmp_path, audio, chosen):
    "The largest picture that is not taller than asked, whatever its codec, with sound if that is kept."

    def one(name, **more):
        return dict(format_id=name, url=f"http://127.0.0.1:9/{name}", ext="mp4", protocol="http") | more

    formats = [
        one("sound", vcodec="none", acodec="mp4a"),
        one("360", height=360, width=640, vcodec="avc1", acodec="mp4a"),
        one("480v", height=480, width=854, vcodec="vp9", acodec="none"),
        one("1080v", height=1080, width=1920, vcodec="av01", acodec="none"),
    ]
    downloader = downloader_for("http://127.0.0.1:9", tmp_path, MANNERS, height=480, audio=audio)
    found = dict(id="x", title="x", extractor="x", formats=formats)
    assert downloader.process_ie_result(found, download=False)["format_id"] == chosen


# ---- Sections

H264 = "-c:v libx264 -preset ultrafast -g 77 -bf 2 -crf 12"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 90 -b:v 400k"
LONG_FILMS = {"good": ("mp4", H264, 30000 / 1001), "vp": ("webm", VP9, 25)}  # suffix, encoder, frames a second


def run_ffmpeg(*words):
    command = [find_ffmpeg(), "-v", "error", "-nostdin", *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def long_films(films):
    "Films of 100 s with sound, <fault>_long.<suffix>; key frames seconds apart; the MP4's index at its end."
    for name, (suffix, encoder, rate) in LONG_FILMS.items():
        picture = ["-f", "lavfi", "-i", f"testsrc2=s=128x72:r={rate}:d=100"]
        sound = ["-f", "lavfi", "-i", "sine=d=100"]
        run_ffmpeg(*picture, *sound, "-pix_fmt", "yuv420p", *encoder.split(), films / f"{name}_long.{suffix}")
    for name in ("busy", "rangeless", "half"):
        (films / f"{name}_long.mp4").hardlink_to(films / "good_long.mp4")
    return films


def frames(path, start, seconds, sound=False):
    "Timestamps and checksums of the decoded frames of a cut, as `cut_clip` seeks."
    span = ["-ss", f"{start:.6f}", "-i", path, "-t", f"{seconds:.3f}"]
    done = run_ffmpeg(*span, "-map", "0:a:0" if sound else "0:v:0", "-f", "framemd5", "-")
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line[0] != "#"]


def frames_of_section(got, start, seconds, sound=False):
    "The same of a section, at the whole's times."
    return frames(got.path, start - got.offset, seconds, sound)


@pytest.fixture
def no_film_is_small(monkeypatch):
    monkeypatch.setattr(sections, "LARGE_BYTES", 100_000)


SPANS = ([(41.7, 46.0)], [(33.333, 36.5), (38.0, 41.017)], [(0.4, 4.0)], [(95.0, 99.5)])


@pytest.mark.parametrize("spans", SPANS, ids=["middle", "two", "start", "end"])
@pytest.mark.parametrize("name", LONG_FILMS)
def test_section(name, spans, long_films, tmp_path, no_film_is_small):
    "Only the needed seconds are sent, and every cut from them is that from the whole: the same frames, the same times."
    suffix, _, rate = LONG_FILMS[name]
    whole = long_films / f"{name}_long.{suffix}"
    size = whole.stat().st_size
    with serve_faults(long_films) as site:
        got = fetch_one(f"{name}_long", site.address(f"{name}_long"), tmp_path, spans)
        sent = sum(site.sent.values())
    assert not got.whole
    assert got.path.suffix == {"mp4": ".mp4", "webm": ".mkv"}[suffix]
    assert 0 <= got.offset <= spans[0][0]
    assert got.bytes < size / 3
    assert 0 < sent < 0.75 * size
    for start, end in spans:
        cut = frames(whole, start, end - start)
        assert frames_of_section(got, start, end - start) == cut
        assert abs(len(cut) - (end - start) * rate) <= 1


@pytest.mark.parametrize("name", LONG_FILMS)
def test_whole_in_place_of_a_section(name, long_films, tmp_path, no_film_is_small):
    with serve_faults(long_films) as site:
        address = site.address(f"{name}_long")
        assert fetch_one(f"{name}_long", address, tmp_path, [(1, 5), (90, 95)]).whole, "clips far apart"
        assert fetch_one(f"{name}_long", address, tmp_path, [(41, 45)], sections=False).whole


def test_section_with_sound(long_films, tmp_path, no_film_is_small):
    "Sound that is kept comes along, at its time."
    with serve_faults(long_films) as site:
        got = fetch_one("good_long", site.address("good_long"), tmp_path, [(41.7, 46.0)], audio=True)
    whole = long_films / "good_long.mp4"
    assert not got.whole
    assert frames_of_section(got, 41.7, 4.3) == frames(whole, 41.7, 4.3)
    n_sound = len(frames_of_section(got, 41.7, 4.3, sound=True))
    assert n_sound == len(frames(whole, 41.7, 4.3, sound=True))
    assert n_sound > 100


def test_section_of_picture_and_sound_apart(long_films, tmp_path, monkeypatch):
    "Sites serve large pictures without sound: the section has both, from two files."

    def two_files(self, url, download):
        base = url.rpartition("/")[0]
        picture = dict(url=f"{base}/good_long.mp4", ext="mp4", vcodec="avc1", acodec="none", height=72)
        sound = dict(url=f"{base}/vp_long.webm", ext="webm", vcodec="none", acodec="opus")
        formats = [dict(format_id="v", protocol="http", **picture), dict(format_id="a", protocol="http", **sound)]
        found = dict(id="x", title="x", extractor="x", duration=100, formats=formats)
        return self.process_ie_result(found, download=False)

    monkeypatch.setattr(sections, "LONG_SECONDS", 60)
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", two_files)
    with serve_faults(long_films) as site:
        got = fetch_one("x", site.address("good_long"), tmp_path, [(41.7, 46.0)], audio=True)
    assert not got.whole
    assert frames_of_section(got, 41.7, 4.3) == frames(long_films / "good_long.mp4", 41.7, 4.3)
    assert len(frames_of_section(got, 41.7, 4.3, sound=True)) > 100


def test_section_from_a_bad_site(long_films, tmp_path, no_film_is_small):
    "A busy site is asked again for the section; one without byte ranges sends the whole; faults have the same names."
    with serve_faults(long_films) as site:
        got = fetch_one("busy_long", site.address("busy_long"), tmp_path, [(41.7, 46.0)])
        assert not got.whole
        assert got.attempts == 2
        got = fetch_one("rangeless_long", site.address("rangeless_long"), tmp_path, [(41.7, 46.0)])
        assert got.whole
        assert got.sha256 == file_sha256(long_films / "good_long.mp4")
        failure = fetch_fails("half_long", site.address("half_long"), tmp_path, [(41.7, 46.0)])
        assert failure.kind == "truncated"
    assert names_in(tmp_path) == ["busy_long.mp4", "rangeless_long.mp4"]
