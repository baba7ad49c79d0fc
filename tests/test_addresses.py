"""What a fetch asks, and what is opened of what came: nothing that the one who runs it did not mean to be asked.

Sites on loopback stand for a private network: the first is the one that may be asked, `other` one that may not.
"""

import contextlib
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from fault_site import MANNERS, SPAN, row

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import as_arguments, find_ffmpeg, only_files
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.data.build import BuildTools, build_dataset
from frames_matter.data.failures import Failed, check_container
from frames_matter.data.fetch import fetch_source
from frames_matter.data.fetch_and_cut import Job, make_clips
from frames_matter.data.loopback import FolderHandler, Handler, serve, serve_folder
from frames_matter.data.politeness import Hosts, Manners
from frames_matter.data.ytdlp import downloader_for, error_chain, failure_of, kind_of_failure

MINE, OTHER = "127.0.0.1", "127.0.0.2"  # a site that may be asked, one that may not


class Pages(FolderHandler):
    "Answers with the server's pages (path -> kind, text), redirects (path -> address), else the folder's files."

    def answer(self, body):
        path = self.path.partition("?")[0]
        if path in self.server.redirects:
            self.server.requests.append((self.command, self.path))
            return self.send_head(302, Location=self.server.redirects[path])
        if path not in self.server.pages:
            return super().answer(body)
        self.server.requests.append((self.command, self.path))
        kind, text = self.server.pages[path]
        self.send_head(200, len(text.encode()), kind)
        if body:
            self.wfile.write(text.encode())


class World:
    "Two sites with the same films; `asked` is what the first was asked, `leaked` what the other was."

    def __init__(self, films):
        self.asked, self.leaked, self.pages, self.redirects = [], [], {}, {}
        self.films = films

    def __enter__(self):
        state = dict(folder=self.films.resolve(), pages=self.pages, redirects=self.redirects)
        self.sites = (
            serve(Pages, MINE, requests=self.asked, **state),
            serve(Pages, OTHER, requests=self.leaked, **state),
        )
        try:
            self.url, self.other = (site.__enter__() for site in self.sites)
        except UserError:
            pytest.skip("this system has one loopback address")
        return self

    def __exit__(self, *error):
        for site in self.sites:
            site.__exit__(*error)


@pytest.fixture
def world(films):
    with World(films) as world:
        yield world


def fetch(address, folder, hosts=(MINE,), manners=MANNERS, **options):
    "A fetch that may ask the first site and no other private one."
    return fetch_source("x", address, [SPAN], folder, manners, Hosts(), private_hosts=hosts, **options)


def refusal(*arguments, **options):
    with pytest.raises(Failed) as e:
        fetch(*arguments, **options)
    assert "127.0.0" not in str(e.value) and "\n" not in str(e.value) and " object at " not in str(e.value)
    return e.value


# --- private addresses ---


def test_a_site_that_may_be_asked(world, tmp_path):
    "Its own redirects too."
    world.redirects["/hop"] = f"{world.url}/good.mp4"
    assert fetch(f"{world.url}/hop", tmp_path).whole
    assert fetch(f"{world.other}/good.mp4", tmp_path, hosts=None).whole, "the caller names the address"


FORMS = (
    "127.0.0.2",
    "127.2",
    "0x7f000002",
    "2130706434",
    "0177.0.0.2",
    "[::ffff:127.0.0.2]",
    "[::ffff:7f00:2]",
    "a@127.0.0.2",
)


@pytest.mark.parametrize("form", FORMS)
def test_a_private_address_however_it_is_written(world, tmp_path, form):
    port = world.other.rpartition(":")[2]
    failure = refusal(f"http://{form}:{port}/good.mp4", tmp_path)
    assert failure.kind == "private" and "private network" in str(failure) and failure.attempts == 1
    world.redirects["/hop"] = f"http://{form}:{port}/good.mp4"
    assert refusal(f"{world.url}/hop", tmp_path).kind == "private"
    assert world.leaked == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["10.0.0.1", "192.168.0.1", "169.254.169.254", "[fe80::1]", "[fc00::1]", "0.0.0.0"])
def test_a_network_that_nobody_is_asked_in(host, tmp_path):
    assert refusal(f"http://{host}:9/good.mp4", tmp_path, hosts=()).kind == "private"


MPD = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" minBufferTime="PT1S"
mediaPresentationDuration="PT8S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet
mimeType="video/mp4"><Representation id="1" bandwidth="100000" width="64" height="36" codecs="avc1.42c00a"
><BaseURL>{other}/good.mp4</BaseURL><SegmentBase indexRange="0-100"/></Representation></AdaptationSet></Period></MPD>"""
HLS_KIND = "application/vnd.apple.mpegurl"
HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\n{other}/good.mp4\n#EXT-X-ENDLIST\n"
KEYED = HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{other}/key"\n#EXTINF').replace("{other}/good", "/good")
ENCRYPTED = HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="{other}/key"\n#EXTINF')
LEADS = {
    "page": ("text/html", "<video src='{other}/good.mp4'></video>"),
    "json": ("text/html", "<title>x</title><script type='application/ld+json'>{\"@context\": \"https://schema.org\", "
             "\"@type\": \"VideoObject\", \"name\": \"x\", \"contentUrl\": \"{other}/good.mp4\"}</script>"),
    "jump": ("text/html", '<meta http-equiv="refresh" content="0; url={other}/good.mp4">'),
    "feed": ("application/rss+xml", "<rss version='2.0'><channel><item><link>{other}/good.mp4</link></item></channel>"
             "</rss>"),
    "hls": (HLS_KIND, HLS),
    "keyed": (HLS_KIND, KEYED),
    "encrypted": (HLS_KIND, ENCRYPTED),
    "master": (HLS_KIND, "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{other}/list.m3u8\n"),
    "dash": ("application/dash+xml", MPD),
    "smil": ("application/smil", "<smil><body><video src='{other}/good.mp4'/></body></smil>"),
    "xspf": ("application/xspf+xml", "<playlist xmlns='http://xspf.org/ns/0/'><trackList><track><location>"
             "{other}/good.mp4</location></track></trackList></playlist>"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEADS)
def test_what_leads_to_a_private_address(name, world, tmp_path):
    kind, text = LEADS[name]
    world.pages[f"/{name}"] = kind, text.replace("{other}", world.other)
    world.pages["/list.m3u8"] = HLS_KIND, HLS.replace("{other}", world.other)
    failure = refusal(f"{world.url}/{name}", tmp_path / "in")
    assert world.asked and world.leaked == [] and not any((tmp_path / "in").iterdir())
    if name != "encrypted":  # which yt-dlp leaves to ffmpeg, and ffmpeg may ask nobody
        assert failure.kind == "private"
        with contextlib.suppress(Failed):
            fetch(f"{world.url}/{name}", tmp_path / "in", hosts=(MINE, OTHER))
        assert world.leaked, "it leads there where it may"


def test_a_name_that_leads_elsewhere_the_second_time(world, tmp_path, monkeypatch):
    looked_up = []

    def look_up(host, port, *rest, real=socket.getaddrinfo, **more):
        if host != "films.example":
            return real(host, port, *rest, **more)
        looked_up.append(host)
        return real("8.8.8.8" if len(looked_up) == 1 else OTHER, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    port = world.other.rpartition(":")[2]
    assert refusal(f"http://films.example:{port}/good.mp4", tmp_path).kind == "private"
    assert len(looked_up) > 1 and world.leaked == []


def test_a_name_with_one_private_address_among_others(world, tmp_path, monkeypatch):
    def look_up(host, port, *rest, real=socket.getaddrinfo, **more):
        hosts = ("8.8.8.8", OTHER) if host == "films.example" else (host,)
        return [found for one in hosts for found in real(one, port, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    port = world.other.rpartition(":")[2]
    assert refusal(f"http://films.example:{port}/good.mp4", tmp_path).kind == "private"
    assert world.leaked == []


class Proxy(Handler):
    "Answers whatever it is asked for with the film, and notes it."

    def answer(self, body):
        self.server.asked.append(self.path)
        film = self.server.film.read_bytes()
        self.send_head(200, len(film), "video/mp4")
        if body:
            self.wfile.write(film)


def test_a_proxy_may_be_private_and_what_it_is_asked_for_not(films, tmp_path, monkeypatch):
    asked = []
    with serve(Proxy, asked=asked, film=films / "good.mp4") as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        assert fetch("http://films.invalid/good.mp4", tmp_path, hosts=()).whole
        assert set(asked) == {"http://films.invalid/good.mp4"}
        asked.clear()
        assert refusal("http://10.0.0.1/good.mp4", tmp_path, hosts=()).kind == "private"
        assert asked == []


def build_of(source, rows, home, **fields):
    "The manifest of rows (address, split) that are a source's."
    home.mkdir(parents=True, exist_ok=True)
    one = dict(
        caption="A film.", split="train", status="kept", start=1.0, end=5.0, frames=40, seconds=4.0, sha256="0" * 64
    )
    named = [dict(clip_id=f"a{i}_1.0_5.0", youtube_id=f"a{i}", address=a) for i, a in enumerate(rows)]
    table = pd.DataFrame([one | names for names in named])
    if source == "own":
        table = table[["address", "caption", "start", "end"]].rename(columns={"address": "path"})
    table.to_csv(home / "rows.csv", index=False)
    profile = get_profile("smoke", source=source, rows="rows.csv", n_clips=len(rows), n_pool=0, min_score=0.0, **fields)
    return build_dataset(profile, progress=False, tools=BuildTools(manners=MANNERS))


@pytest.mark.parametrize("switch", [False, True])
def test_rows_of_a_published_manifest_never_may(world, films, tmp_path, monkeypatch, switch):
    "Though a host of the template may, and whatever the profile says."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    shutil.copy(films / "good.mp4", tmp_path / "here.mp4")
    port = world.url.rpartition(":")[2]
    rows = [f"{world.other}/good.mp4", f"{world.url}/good.mp4", f"http://localhost:{port}/good.mp4", "here.mp4"]
    template = f"{world.url}/{{id}}.mp4"
    manifest = build_of("manifest", rows, tmp_path, url_template=template, private_addresses=switch)
    assert list(manifest.status) == ["rejected"] * 3 + ["kept"]
    assert all("private network" in reason for reason in manifest.reason[:3])
    assert world.leaked == world.asked == []


def test_rows_of_ones_own_may_with_a_switch(world, films, tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    for i in range(4):
        other = b"\0\0\0\x0cfree%04d" % i  # a part that players pass over: four films, not copies of one
        (tmp_path / f"here{i}.mp4").write_bytes((films / "good.mp4").read_bytes() + other)
    rows = [f"{world.url}/good.mp4", *(str(tmp_path / f"here{i}.mp4") for i in range(4))]
    manifest = build_of("own", rows, tmp_path)
    assert list(manifest.status)[0] == "rejected" and "-o private_addresses=true" in manifest.reason[0]
    assert world.asked == []
    again = build_dataset(get_profile("smoke", source="own", rows="rows.csv", n_clips=5, n_pool=0, min_score=0.0,
                                      private_addresses=True), progress=False, again=True)  # fmt: skip
    assert list(again.status)[0] == "kept" and world.asked, "what was refused is tried again once it may be"


def test_a_table_on_the_hub_may_go_where_its_template_says_and_no_further(world, films, tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    names = [f"good{i}0000000" for i in range(4)]
    for name in names:
        world.redirects[f"/{name}.mp4"] = f"{world.url}/good.mp4"
    world.redirects["/away0000000.mp4"] = f"{world.other}/good.mp4"
    profile = get_profile("smoke", source="hub", url_template=f"{world.url}/{{id}}.mp4", n_clips=5, n_pool=0,
                          private_addresses=True)  # fmt: skip
    data_dir(profile).mkdir(parents=True)
    table = "".join(json.dumps(row(name)) + "\n" for name in ["away0000000", *names])
    (data_dir(profile) / "metadata.jsonl").write_text(table)
    manifest = build_dataset(profile, progress=False, tools=BuildTools(manners=MANNERS))
    assert list(manifest.status) == ["rejected", *["kept"] * 4]
    assert "private network" in manifest.reason[0] and world.leaked == []


# --- pages of many videos ---

ITEM = "<item><title>{i}</title><link>{url}/good.mp4?{i}</link></item>"
RSS = "<?xml version='1.0'?><rss version='2.0'><channel><title>t</title>{items}</channel></rss>"


@pytest.mark.parametrize("n", [2, 100, 5000])
def test_a_page_of_many_videos_is_refused_by_the_page_alone(n, world, tmp_path):
    items = "".join(ITEM.format(i=i, url=world.url) for i in range(n))
    world.pages["/feed"] = "application/rss+xml", RSS.format(items=items)
    failure = refusal(f"{world.url}/feed", tmp_path)
    assert failure.kind == "not_video" and "several videos, not one" in str(failure)
    assert len(world.asked) == 1


@pytest.mark.parametrize("n", [1, 3])
def test_a_page_of_players(n, world, tmp_path):
    players = "".join(f"<video src='{world.url}/good.mp4?{i}'></video>" for i in range(n))
    world.pages["/page"] = "text/html", f"<!doctype html><title>t</title>{players}"
    if n == 1:
        assert fetch(f"{world.url}/page", tmp_path).whole
        return
    assert "several videos, not one" in str(refusal(f"{world.url}/page", tmp_path))
    assert {path for _, path in world.asked} == {"/page"}


def test_a_feed_of_one_video_and_one_of_itself(world, tmp_path):
    world.pages["/one"] = "application/rss+xml", RSS.format(items=ITEM.format(i=0, url=world.url))
    assert fetch(f"{world.url}/one", tmp_path).whole
    world.pages["/self"] = "application/rss+xml", RSS.format(items=f"<item><link>{world.url}/self</link></item>")
    assert refusal(f"{world.url}/self", tmp_path).kind == "not_video"
    assert sum(path == "/self" for _, path in world.asked) < 10
    world.pages["/none"] = "application/rss+xml", RSS.format(items="")
    assert refusal(f"{world.url}/none", tmp_path).kind == "not_video"


NOT_YET = [
    *("Premieres in 5 hours", "Premieres in 24 minutes", "Premieres in a few moments", "Premiere will begin shortly"),
    *("This live event will begin in 5 hours.", "This live event will begin in a few moments.", "Premieres 12/1/26"),
    *("This live event has not started yet", "The stream has not yet begun", "This video has not been released yet"),
    *("This video is not available yet", "This episode will be available on 3 December 2026", "Coming soon"),
    *(
        "The channel is not currently live",
        "someone is offline",
        "Starts in 3 days",
        "Airs on Friday",
        "Upcoming event",
    ),
    *(
        "The video will be available in 2 days",
        "Live stream is scheduled for 18:00",
        "We're still processing this video",
    ),
]
GONE = [
    *(
        "Private video",
        "Video unavailable",
        "This video has been removed by the uploader",
        "This video is not available",
    ),
    *("The uploader has not made this video available in your country", "This live stream recording is not available."),
    *(
        "This live event has ended and the recording is unavailable",
        "This video was deleted",
        "Account closed: removed",
    ),
]


def kind_said(text):
    from yt_dlp.utils import ExtractorError

    return kind_of_failure(error_chain(ExtractorError(text, expected=True)))


def test_a_premiere_is_passing_and_not_gone():
    assert [text for text in NOT_YET if kind_said(text) != "not_yet"] == []
    assert [text for text in GONE if kind_said(text) != "gone"] == []
    failure = Failed("not fetched: Premieres in 5 hours", "not_yet")
    assert failure.passing and not failure.transient, "asked again by a later run, not at once"


@pytest.mark.parametrize("facts", [{"live_status": "is_upcoming"}, {"is_live": True}, {"live_status": "post_live"}])
def test_what_is_not_there_to_its_end(facts, world, tmp_path, monkeypatch):
    downloader = downloader_for(world.url, tmp_path, MANNERS, 480, False)
    monkeypatch.setattr(downloader, "extract_info", lambda *a, **k: {"url": "x", "protocol": "https"} | facts)
    with pytest.raises(Failed) as e:
        downloader.find(world.url)
    assert e.value.kind == "not_yet" and e.value.passing


@pytest.mark.parametrize("protocol", ["rtmp", "mms", "rtsp", "websocket_frag", "mhtml", "https+rtmp"])
def test_what_other_programs_would_fetch(protocol, world, tmp_path, monkeypatch):
    downloader = downloader_for(world.url, tmp_path, MANNERS, 480, False)
    monkeypatch.setattr(downloader, "extract_info", lambda *a, **k: {"url": "x", "protocol": protocol})
    with pytest.raises(Failed, match="other programs"):
        downloader.find(world.url)


def test_reasons_hold_no_addresses_of_memory(world):
    text = "HTTPSConnectionPool(host='x', port=443): <urllib3.connection.HTTPSConnection object at 0x7f3b2c>: Failed"
    failure = failure_of(ValueError(text), downloader_for(world.url, Path(), MANNERS, 480, False).seen, ".")
    assert str(failure) == "not fetched: Failed"


# --- what is opened of what came ---

CONCAT = "ffconcat version 1.0\nfile {other}/good.mp4\n"
LISTS = {
    "dash": MPD,
    "hls": HLS,
    "bom": "\ufeff" + HLS,
    "concat": CONCAT,
    "pls": "[playlist]\nFile1={other}/good.mp4\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.2\nc=IN IP4 127.0.0.2\nm=video 5004 RTP/AVP 96\n",
    "smil": "<smil><body><video src='{other}/good.mp4'/></body></smil>",
    "asx": "<asx version='3.0'><entry><ref href='{other}/good.mp4'/></entry></asx>",
    "xspf": "<?xml version='1.0'?><playlist version='1'><track>{other}/good.mp4</track></playlist>",
    "smooth": "<?xml version='1.0'?><SmoothStreamingMedia/>",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_that_calls_itself_a_video(name, world, tmp_path):
    "Here and on a site that sends it as a video."
    (path := tmp_path / "video.mp4").write_text(LISTS[name].replace("{other}", world.other))
    with pytest.raises(Failed, match="a playlist, not a video") as e:
        check_container(path)
    assert e.value.kind == "not_video"
    assert refusal(str(path), tmp_path / "in").kind == "not_video"
    world.pages["/video.mp4"] = "video/mp4", path.read_text()
    refusal(f"{world.url}/video.mp4", tmp_path / "in")
    assert world.leaked == []


@pytest.mark.parametrize("name", LISTS)
def test_ffmpeg_and_pyav_open_no_list(name, world, tmp_path):
    av = pytest.importorskip("av")
    (path := tmp_path / "video.mp4").write_text(LISTS[name].replace("{other}", world.other))
    command = [find_ffmpeg(), "-v", "error", *as_arguments(only_files()), "-i", path, "-f", "null", "-"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode
    with pytest.raises((OSError, av.error.FFmpegError)):
        av.open(str(path), options=only_files())
    assert world.leaked == []


def test_ffmpeg_opens_no_other_address(world, films):
    av = pytest.importorskip("av")
    for address in (f"{world.other}/good.mp4", f"concat:{films / 'good.mp4'}|{films / 'good.mp4'}", "subfile:,,x"):
        with pytest.raises((OSError, av.error.FFmpegError)):
            av.open(address, options=only_files())
    assert world.leaked == []
    with av.open(str(films / "good.mp4"), options=only_files()) as film:
        assert next(film.decode(video=0)).width


ENCODED = {
    **dict.fromkeys(("mp4", "mov", "mkv", "avi", "mpg", "vob", "ts", "m2ts", "flv", "wmv", "nut", "gif", "m2v"), ()),
    **{"webm": ("-c:v", "libvpx"), "ogv": ("-c:v", "libtheora"), "mxf": (), "wtv": (), "rm": ()},
    **{"y4m": ("-pix_fmt", "yuv420p"), "h264": (), "hevc": ("-c:v", "libx265")},
    **{"3gp": ("-c:v", "libx264"), "ivf": ("-c:v", "libvpx"), "dv": ("-s", "720x576", "-pix_fmt", "yuv420p")},
}  # fmt: skip


@pytest.mark.parametrize("ending", ENCODED)
def test_films_of_every_container(ending, tmp_path):
    path = tmp_path / f"film.{ending}"
    made = ["-f", "lavfi", "-i", "testsrc=s=176x144:d=1:r=25", *ENCODED[ending], str(path)]
    subprocess.run([find_ffmpeg(), "-v", "error", *made], check=True)
    check_container(path)
    command = [find_ffmpeg(), "-v", "error", *as_arguments(only_files()), "-i", path, "-f", "null", "-"]
    assert subprocess.run(command, capture_output=True).returncode == 0


# --- how much ---


class Endless(Handler):
    "Sends the server's beginning, and then zeros without end, as a video or whatever the path says."

    def answer(self, body):
        kind = {"page": "text/html", "feed": "application/rss+xml"}.get(self.path[1:], "video/mp4")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.path == "/announced":
            self.send_header("Content-Length", str(10**13))
        self.end_headers()
        self.close_connection = True
        sent = self.server.beginning
        while body and len(self.server.sent) < 3000:
            self.server.sent.append(len(sent))
            try:
                self.wfile.write(sent)
            except OSError:
                return
            sent = bytes(1 << 18)


FTYP = (16).to_bytes(4, "big") + b"ftypisom" + bytes(4) + (1 << 31).to_bytes(4, "big") + b"mdat"


@pytest.mark.parametrize(
    "beginning, path, kind",
    [
        (b"", "film", "not_video"),
        (FTYP, "film", "too_large"),
        (FTYP, "announced", "too_large"),
        (b"<!doctype html>", "page", "too_large"),
        (b"<?xml version='1.0'?><rss>", "feed", "too_large"),
    ],
)
def test_an_answer_without_end(beginning, path, kind, tmp_path):
    "Is given up while it comes; zeros at their first block; and nothing of it stays."
    sent, most = [], 20_000_000
    manners = Manners(attempts=2, max_bytes=most, stall=20)
    with serve(Endless, beginning=beginning, sent=sent) as url:
        failure = refusal(f"{url}/{path}", tmp_path, manners=manners)
    assert failure.kind == kind and failure.attempts == 1
    assert kind != "too_large" or "20 MB" in str(failure)
    assert sum(sent) < 2 * most + 10_000_000
    assert list(tmp_path.iterdir()) == []


def test_the_limit_is_of_what_comes_not_of_the_whole(site, films, tmp_path):
    size = (films / "good.mp4").stat().st_size
    assert fetch(site.address("good"), tmp_path, manners=Manners(max_bytes=4 * size)).whole
    failure = refusal(site.address("good"), tmp_path, manners=Manners(max_bytes=size // 2))
    assert failure.kind == "too_large" and failure.passing


def test_of_rejected_rows_no_file_stays(films, tmp_path):
    "A film that no clip came of is removed; one that is used in place is not; one that gave a clip stays."
    rows = tuple(
        dict(position=i, clip_id=f"c{i}", start=float(s), end=s + 4.0, state="selected") for i, s in enumerate((1, 90))
    )
    with serve_folder(films) as url:
        for wanted, stays in ((rows[1:], False), (rows, True)):
            job = Job("film", f"{url}/good.mp4", wanted, (), str(tmp_path), MANNERS, private_hosts=(MINE,))
            events = list(make_clips(job))
            assert events[-1]["state"] == "rejected"
            assert (tmp_path / "sources" / "film.mp4").exists() == stays
    here = shutil.copy(films / "good.mp4", tmp_path / "mine.mp4")
    assert list(make_clips(Job("mine", str(here), rows[1:], (), str(tmp_path))))[-1]["state"] == "rejected"
    assert here.exists()
