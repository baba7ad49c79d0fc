"""One fetch from a site that misbehaves in every way: how it ends, how often it asked, what it left on disk; and sections of long videos, which must be the whole's own frames."""

import io
import os
import subprocess
import threading

import pandas as pd
import pytest
import yt_dlp
from fault_site import FAULTS, MANNERS, SPAN, rows, serve_faults

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import file_sha256
from frames_matter.base.profiles import get_profile
from frames_matter.data import fetch, loopback
from frames_matter.data.fetch import Failed, Hosts, Manners, fetch_source
from frames_matter.data.loopback import serve
from frames_matter.data.rows import select_rows


@pytest.fixture
def pauses(monkeypatch):
    "Waits take no time: a list of them, in seconds; the clock goes on by as much."
    slept, real = [], fetch.clock
    monkeypatch.setattr(fetch, "sleep", slept.append)
    monkeypatch.setattr(fetch, "clock", lambda: real() + sum(slept))
    return slept


def had(name, address, folder, spans=(SPAN,), manners=MANNERS, **options):
    return fetch_source(name, address, list(spans), folder, manners, Hosts(), **options)


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name, site, films, tmp_path, pauses):
    "Each fault ends as the table says, after as many attempts; what is had is the site's file to the last byte, and nothing else is left on disk."
    fault = FAULTS[name]
    if fault.kind:
        with pytest.raises(Failed, match=fault.word) as e:
            had(name, site.address(name), tmp_path)
        assert (e.value.kind, e.value.attempts, e.value.transient) == (
            fault.kind,
            fault.attempts or MANNERS.attempts,
            fault.attempts != 1,
        )
        assert (
            "\n" not in str(e.value)
            and "127.0.0.1" not in str(e.value)
            and len(str(e.value)) < 220
            and list(tmp_path.iterdir()) == []
        )
    else:
        got = had(name, site.address(name), tmp_path)
        (source,) = films.glob(f"{fault.film}.*")
        assert (
            got.path.read_bytes() == source.read_bytes()
            and got.attempts == fault.attempts
            and list(tmp_path.iterdir()) == [got.path]
        )
        assert (got.whole, got.offset, got.bytes, got.sha256) == (True, 0, source.stat().st_size, file_sha256(source))
    assert len(pauses) == (fault.attempts or MANNERS.attempts) - 1 and (name != "limited" or pauses == [1.0]), pauses


@pytest.mark.parametrize("name", ["page", "hops", "busy", "torn", "forbidden", "missing", "signin", "half"])
def test_page(name, site, tmp_path):
    "A page that leads to the video, or tells that there is none, is as good as the file's address."
    fault, address = FAULTS[name], site.template.replace("{id}", f"{name}0000001")
    if not fault.kind:
        assert had(name, address, tmp_path).whole
    else:
        with pytest.raises(Failed, match=fault.word) as e:
            had(name, address, tmp_path)
        assert e.value.kind == fault.kind and "watch" not in str(e.value)


def test_patience(site, tmp_path, pauses):
    "Waits grow and end with patience, whatever the attempts; a site that asks for more than there is is not asked before its time."
    with pytest.raises(Failed) as e:
        had("broken", site.address("broken"), tmp_path, manners=Manners(patience=40, attempts=100))
    assert (
        3 <= e.value.attempts == len(pauses) + 1
        and sum(pauses) <= 40
        and all(a < b for a, b in zip(pauses, pauses[1:]))
    ), pauses
    pauses.clear()
    with pytest.raises(Failed) as e:
        had("limited", site.address("limited"), tmp_path, manners=Manners(patience=0.9, first_wait=0.01))
    assert (e.value.kind, e.value.attempts, e.value.wait, pauses) == ("rate_limited", 1, 1.0, [])


def test_places_at_a_host():
    "No more fetches at once than a host has places; other hosts have their own."
    hosts, lock, inside, most = Hosts(per_host=2), threading.Lock(), {"a": 0, "b": 0}, {"a": 0, "b": 0}
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

    threads = [threading.Thread(target=ask, args=(n,)) for n in "ab" * 6]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == {"a": 2, "b": 2}


def test_left_by_a_kill(site, films, tmp_path):
    "What a killed process left is neither taken for whole nor continued."
    left = tmp_path / ".good.partial"
    left.mkdir()
    (left / "video.mp4.part").write_bytes(b"junk" * 500)
    (left / "video.mp4").write_bytes(b"junk" * 500)
    assert had("good", site.address("good"), tmp_path).path.read_bytes() == (films / "good.mp4").read_bytes() and [
        p.name for p in tmp_path.iterdir()
    ] == ["good.mp4"]


def test_full_disk(site, tmp_path, monkeypatch):
    "No space left is nobody's row."

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(yt_dlp.downloader.http.HttpFD, "sanitize_open", lambda self, name, mode: (Full(), name))
        with pytest.raises(UserError, match="No space left") as e:
            had("good", site.address("good"), tmp_path)
    with monkeypatch.context() as m:

        def full(*args):
            raise OSError(28, "No space left on device")

        m.setattr(fetch, "_put", full)
        with pytest.raises(UserError, match="No space left") as e:
            had("good", site.address("good"), tmp_path)
    assert not isinstance(e.value, Failed) and list(tmp_path.iterdir()) == []


def test_cookies(tmp_path, monkeypatch, films):
    "The site sees the file's cookies and the file stays as it is; one that is absent or of another form is said to be."
    seen = []

    class Counting(loopback._Handler):
        def _answer(self, body):
            seen.append(self.headers.get("Cookie"))
            super()._answer(body)

    jar = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tuser\tme\n"
    jar.write_text(text)
    monkeypatch.setenv("FRAMES_MATTER_COOKIES", str(jar))
    with serve(Counting, folder=films, requests=[]) as url:
        had("good", f"{url}/good.mp4", tmp_path)
    assert set(seen) == {"user=me"} and jar.read_text() == text
    for content in ("{}", None, "# Netscape HTTP Cookie File\nnonsense\n"):
        jar.unlink() if content is None else jar.write_text(content)
        with pytest.raises(UserError, match="FRAMES_MATTER_COOKIES") as e:
            had("good", "http://127.0.0.1:9/good.mp4", tmp_path)
        assert not isinstance(e.value, Failed)
        if content is None:
            jar.write_text(text)


def test_warnings_tell_the_kind(site, tmp_path, monkeypatch):
    "What yt-dlp only warned of decides what an error that follows from it is called."

    def without_runtime(self, url, **options):
        self.report_warning(
            "No supported JavaScript runtime could be found. Only deno is enabled by default; to use another runtime add  --js-runtimes RUNTIME[:PATH]",
            only_once=True,
        )
        self.report_error(
            "[youtube] abc: Requested format is not available. Use --list-formats for a list of available formats"
        )

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", without_runtime)
    with pytest.raises(Failed, match="^not fetched: Requested format is not available$") as e:
        had("good", site.address("good"), tmp_path)
    assert e.value.kind == "no_js_runtime" and e.value.attempts == 1


def test_an_extractor_that_breaks(site, tmp_path, monkeypatch):
    "A bug in one site's extractor is that video's loss."
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda self, url, **options: {}["title"])
    with pytest.raises(Failed) as e:
        had("good", site.address("good"), tmp_path)
    assert e.value.kind == "other" and list(tmp_path.iterdir()) == []


def test_local_file(films, tmp_path):
    "A path is used where it lies; what is no video's file is said not to be one."
    source = films / "good.mp4"
    got = had("x", str(source), tmp_path / "sources")
    assert (got.path, got.whole, got.offset, got.sha256, got.attempts) == (
        source,
        True,
        0,
        file_sha256(source),
        1,
    ) and not (tmp_path / "sources").exists()
    os.mkfifo(tmp_path / "pipe")
    for name, content, kind in (
        ("gone.mp4", None, "gone"),
        ("a\0b", None, "gone"),
        ("empty.mp4", b"", "empty"),
        ("page.mp4", b"<html>", "not_video"),
        ("pipe", None, "other"),
        (".", None, "other"),
        ("half.mp4", source.read_bytes()[:9000], "damaged"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(Failed) as e:
            had("x", f"{tmp_path}/{name}", tmp_path / "sources")
        assert e.value.kind == kind and str(tmp_path) not in str(e.value)


def test_rows_of_the_fault_site():
    "The rows that nothing should be fetched for are rejected for what is wrong with them."
    bad, words = zip(*rows())
    chosen = select_rows(pd.DataFrame(bad), get_profile("smoke"))
    assert [
        (i, r)
        for i, (s, r, word) in enumerate(zip(chosen.status, chosen.reason, words))
        if s != ("rejected" if word else "") or word not in r
    ] == []


def test_hostile_names_and_addresses(tmp_path):
    "Nothing is fetched under a name that would leave its folder, nor from what is no address."
    for row, word in rows():
        if word == "id" and row["YoutubeID"] is not None:
            with pytest.raises(Failed):
                had(row["YoutubeID"], "http://127.0.0.1:9/x.mp4", tmp_path / "in")
    for address in (
        "http://",
        "http://[::1",
        "https://127.0.0.1:99999/x",
        "http:///x",
        "HTTP://?",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "x" * 10_000,
        "http://127.0.0.1:9/a b\n-o x",
    ):
        with pytest.raises(Failed) as e:
            had("x", address, tmp_path / "in", manners=Manners(attempts=1))
        assert "\n" not in str(e.value) and len(str(e.value)) < 220
    assert not any(tmp_path.rglob("*.mp4")) and [p.name for p in tmp_path.iterdir()] in ([], ["in"])


@pytest.mark.parametrize("audio,chosen", [(False, "480v"), (True, "480v+sound")])
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
    ydl = fetch._downloader("http://127.0.0.1:9", tmp_path, MANNERS, 480, audio)
    assert (
        ydl.process_ie_result(dict(id="x", title="x", extractor="x", formats=formats), download=False)["format_id"]
        == chosen
    )


LONG = {
    "good": ("mp4", ("-c:v", "libx264", "-preset", "ultrafast", "-g", "77", "-bf", "2", "-crf", "12"), 30000 / 1001),
    "vp": ("webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "90", "-b:v", "400k"), 25),
}


@pytest.fixture(scope="module")
def long_films(films):
    "Films of a hundred seconds, <fault>_long.<suffix>, with sound; key frames seconds apart; the index at the end of the MP4."
    for name, (suffix, encode, rate) in LONG.items():
        subprocess.run(
            [
                find_ffmpeg(),
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                f"testsrc2=s=128x72:r={rate}:d=100",
                "-f",
                "lavfi",
                "-i",
                "sine=d=100",
                "-pix_fmt",
                "yuv420p",
                *encode,
                str(films / f"{name}_long.{suffix}"),
            ],
            check=True,
        )
    for name in ("busy", "rangeless", "half"):
        (films / f"{name}_long.mp4").hardlink_to(films / "good_long.mp4")
    return films


def frames(path, start, seconds, sound=False):
    "Timestamps and checksums of the decoded frames of a cut, as `cut_clip` seeks."
    done = subprocess.run(
        [
            find_ffmpeg(),
            "-v",
            "error",
            "-nostdin",
            "-ss",
            f"{start:.6f}",
            "-i",
            str(path),
            "-t",
            f"{seconds:.3f}",
            "-map",
            "0:a:0" if sound else "0:v:0",
            "-f",
            "framemd5",
            "-",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line[0] != "#"]


@pytest.mark.parametrize("name", LONG)
def test_section(name, long_films, tmp_path, monkeypatch):
    "Of a long video only the needed seconds are sent, and every cut from them is that from the whole: the same frames at the same times."
    monkeypatch.setattr(fetch, "SMALL", 100_000)
    suffix, _, rate = LONG[name]
    whole = long_films / f"{name}_long.{suffix}"
    with serve_faults(long_films) as site:
        for spans in ([(41.7, 46.0)], [(33.333, 36.5), (38.0, 41.017)], [(0.4, 4.0)], [(95.0, 99.5)]):
            site.sent.clear()
            got = had(f"{name}_long", site.address(f"{name}_long"), tmp_path, spans)
            assert (
                not got.whole
                and got.path.suffix == {"mp4": ".mp4", "webm": ".mkv"}[suffix]
                and 0 <= got.offset <= spans[0][0]
            )
            assert got.bytes < whole.stat().st_size / 3 and 0 < sum(site.sent.values()) < 0.75 * whole.stat().st_size, (
                got.bytes,
                site.sent,
                whole.stat().st_size,
            )
            for start, end in spans:
                cut = frames(whole, start, end - start)
                assert (
                    frames(got.path, start - got.offset, end - start) == cut
                    and abs(len(cut) - (end - start) * rate) <= 1
                )
        assert had(f"{name}_long", site.address(f"{name}_long"), tmp_path, [(1, 5), (90, 95)]).whole, "clips far apart"
        assert had(f"{name}_long", site.address(f"{name}_long"), tmp_path, [(41, 45)], sections=False).whole


def test_section_with_sound(long_films, tmp_path, monkeypatch):
    "Sound that is kept comes along, at its time."
    monkeypatch.setattr(fetch, "SMALL", 100_000)
    with serve_faults(long_films) as site:
        got = had("good_long", site.address("good_long"), tmp_path, [(41.7, 46.0)], audio=True)
    assert not got.whole and frames(got.path, 41.7 - got.offset, 4.3) == frames(long_films / "good_long.mp4", 41.7, 4.3)
    assert (
        len(frames(got.path, 41.7 - got.offset, 4.3, sound=True))
        == len(frames(long_films / "good_long.mp4", 41.7, 4.3, sound=True))
        > 100
    )


def test_section_of_picture_and_sound_apart(long_films, tmp_path, monkeypatch):
    "Sites serve large pictures without sound: the section has both, from two files."
    monkeypatch.setattr(fetch, "LONG", 60)

    def found(self, url, download):
        base = url.rpartition("/")[0]
        return self.process_ie_result(
            dict(
                id="x",
                title="x",
                extractor="x",
                duration=100,
                formats=[
                    dict(
                        format_id="v",
                        url=f"{base}/good_long.mp4",
                        ext="mp4",
                        protocol="http",
                        vcodec="avc1",
                        acodec="none",
                        height=72,
                    ),
                    dict(
                        format_id="a",
                        url=f"{base}/vp_long.webm",
                        ext="webm",
                        protocol="http",
                        vcodec="none",
                        acodec="opus",
                    ),
                ],
            ),
            download=False,
        )

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", found)
    with serve_faults(long_films) as site:
        got = had("x", site.address("good_long"), tmp_path, [(41.7, 46.0)], audio=True)
    assert (
        not got.whole
        and frames(got.path, 41.7 - got.offset, 4.3) == frames(long_films / "good_long.mp4", 41.7, 4.3)
        and len(frames(got.path, 41.7 - got.offset, 4.3, sound=True)) > 100
    )


def test_section_from_a_bad_site(long_films, tmp_path, monkeypatch):
    "A busy site is asked again for the section; one without byte ranges sends the whole; faults are called by the same names."
    monkeypatch.setattr(fetch, "SMALL", 100_000)
    with serve_faults(long_films) as site:
        got = had("busy_long", site.address("busy_long"), tmp_path, [(41.7, 46.0)])
        assert not got.whole and got.attempts == 2
        got = had("rangeless_long", site.address("rangeless_long"), tmp_path, [(41.7, 46.0)])
        assert got.whole and got.sha256 == file_sha256(long_films / "good_long.mp4")
        with pytest.raises(Failed) as e:
            had("half_long", site.address("half_long"), tmp_path, [(41.7, 46.0)])
        assert e.value.kind == "truncated"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["busy_long.mp4", "rangeless_long.mp4"]
