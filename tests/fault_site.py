"""A video site on loopback where everything that can go wrong does, and a table of how each fault must end.

    with serve_faults(make_films(folder)) as site:
        site.template           # a profile's url_template: pages /watch?v=ID that lead to files
        site.address("stall")   # the file itself
        site.asked, site.sent   # (method, path) of every request; bytes sent, by id

What happens to a video is told by the letters that its id begins with, so `stall`, `stall1` and `stall0000001` are
three videos of one fault. The film that FAULTS names is served, or <id>.mp4 if there is one. `rows()` are rows of a
table that must be rejected before anything is fetched. `frames-matter bench faults` tells how each fault ends.
"""

import contextlib
import json
import re
import socket
import struct
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.data import loopback
from frames_matter.data.politeness import Manners

# in which every fault ends within seconds
MANNERS = Manners(patience=60, attempts=3, first_wait=0.01, longest_wait=0.02, stall=0.5)
SPAN = (1.0, 5.0)  # of a film of eight seconds: what a row asks for


@dataclass(frozen=True)
class Fault:
    what: str  # the site does, or is the matter with the file
    kind: str = ""  # of the failed fetch, as `frames_matter.data.failures.FAILURE_KINDS` has it; "": the file is had
    word: str = ""  # in the reason of a rejected row; "": the clip is kept
    attempts: int = 1  # of the fetch; 0: as many as there may be
    film: str = "good"  # what is served, a name in FILMS

    @property
    def ends(self):
        return "rejected" if self.word else "kept"


FAULTS = {
    "good": Fault("serves the file"),
    "page": Fault("leads to a page with a player"),
    "hops": Fault("redirects twice"),
    "rangeless": Fault("serves no byte ranges"),
    "forbidden": Fault("answers 403", "forbidden", "403"),
    "missing": Fault("answers 404", "gone", "404"),
    "removed": Fault("answers 410", "gone", "410"),
    "limited": Fault("answers 429 with Retry-After once", attempts=2),
    "flooded": Fault("answers 429 for ever", "rate_limited", "429", 0),
    "broken": Fault("answers 500 for ever", "server_error", "500", 0),
    "busy": Fault("answers 503 once", attempts=2),
    "refused": Fault("leads to a port where nobody listens", "no_answer", "no answer", 0),
    "reset": Fault("hangs up before it answers", "no_answer", "no answer", 0),
    "drip": Fault("sends slowly, to the end"),
    "crawl": Fault("sends some bytes a second", "no_answer", "no answer", 0),
    "mute": Fault("takes the call and says nothing", "no_answer", "no answer", 0),
    "stall": Fault("falls silent in the middle", "no_answer", "no answer", 0),
    "half": Fault("hangs up in the middle, always", "truncated", "broke off", 0),
    "torn": Fault("hangs up in the middle once", attempts=2),
    "overlong": Fault("announces more bytes than it sends", "truncated", "broke off", 0),
    "overshort": Fault("announces fewer bytes than it sends", "damaged", "damaged"),
    "cutoff": Fault("serves a file whose end is missing", "damaged", "damaged", film="cutoff"),
    "html": Fault("sends a page as video/mp4", "not_video", "a page"),
    "signin": Fault("sends a page that asks to sign in", "not_video", "no video"),
    "json": Fault("sends JSON", "not_video", "not a video"),
    "void": Fault("sends nothing", "empty", "nothing came"),
    "moov": Fault("serves a file with noise for an index", word="not cut", film="moov"),
    "sound": Fault("serves sound alone", word="not cut", film="sound"),
    "still": Fault("serves one single frame", word="cut", film="still"),
    "brief": Fault("serves a film that ends before the row does", word="were asked for", film="brief"),
    "av": Fault("serves AV1", film="av"),
    "vp": Fault("serves VP9 in WebM", film="vp"),
    "hevc": Fault("serves H.265", film="hevc"),
    "deep": Fault("serves H.264 of 10 bits", film="deep"),
    "odd": Fault("serves odd sizes, 131 x 73", film="odd"),
    "rotated": Fault("serves a film that is to be shown turned", film="rotated"),
}


def row(youtube_id, start="00:00:01.000", end="00:00:05.000", caption=None, score=5.0):
    "A row of InternVid's table."
    return dict(
        YoutubeID=youtube_id,
        Start_timestamp=start,
        End_timestamp=end,
        Caption=caption or f"A film called {str(youtube_id)[:20]}.",
        Aesthetic_Score=score,
        CLIP_Score=None,
    )


HOSTILE_IDS = (
    *("../../escaped", "/etc/passwd", "..", ".", "good/../../x", "good\\x"),  # paths
    *("-o/tmp/x", "--exec=touch x"),  # options
    *("a;touch x", "$(touch x)", "`touch x`"),  # shell
    *("a b", "a\nb", "a\x00b", "good%2F..", "ü" * 5, "\u202egood"),  # characters that no id has
    *("", "x" * 10_000, None),  # of no length that an id has
)
IMPOSSIBLE_TIMES = (  # start, end, a word of the reason
    ("00:00:05.000", "00:00:01.000", "ends before"),
    ("00:00:01.000", "00:00:01.000", "ends before"),
    ("", "00:00:04.000", "no start"),
    ("00:00:01.000", "", "no end"),
    ("later", "00:00:04.000", "timestamp"),
    ("00:99:00.000", "00:99:04.000", "timestamp"),
    ("-00:00:01.000", "00:00:04.000", "timestamp"),
    ("00:00:01.000", "00:00:61.000", "timestamp"),
    ("00:00:00.000", "00:00:60.000", "longer"),
    ("99:00:00.000", "999:00:00.000", "longer"),
    ("nan", "inf", "timestamp"),
    ("00:00:01,000", "00:00:05,000", "timestamp"),
    ("٠٠:٠٠:٠١.٠٠٠", "00:00:05.000", "timestamp"),
)


def rows():  # list of (row, a word of the reason it is rejected for; "" for the first, which is good)
    "Rows that are rejected before anything is fetched; the last repeats the first."
    return [
        (row("good"), ""),
        *((row(youtube_id), "id") for youtube_id in HOSTILE_IDS),
        *((row("good", start, end), word) for start, end, word in IMPOSSIBLE_TIMES),
        (row("good", caption=" "), "caption"),
        (row("good") | {"Caption": None}, "caption"),
        (row("good", score=None), "score"),
        (row("good", score="n/a"), "score"),
        (row("good", score=1.0), "score"),
        (row("good", caption="Another caption."), "same clip"),
    ]


def _encode(*output, source="testsrc=s=128x72:r=10:d=8"):
    "Arguments of ffmpeg that make a film."
    return ("-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *output)


H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "40", "-threads", "1")
HEVC = (
    *("-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1"),
    *("-x265-params", "log-level=error:pools=1:keyint=40"),
)
FILMS = {  # name -> suffix, arguments of ffmpeg
    "good": ("mp4", _encode(*H264)),
    "still": ("mp4", _encode(*H264, "-frames:v", "1")),
    "brief": ("mp4", _encode(*H264, source="testsrc=s=128x72:r=10:d=3")),
    "av": ("mp4", _encode("-c:v", "libsvtav1", "-preset", "12", "-g", "40", "-svtav1-params", "lp=1")),
    "vp": ("webm", _encode("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "40")),
    "hevc": ("mp4", _encode(*HEVC, source="testsrc=s=128x72:r=25:d=8")),
    "deep": ("mp4", (*_encode(*H264), "-pix_fmt", "yuv420p10le")),
    "odd": ("mp4", (*_encode(*H264, source="testsrc=s=131x73:r=10:d=8"), "-pix_fmt", "yuv444p")),
    "sound": ("mp4", ("-f", "lavfi", "-i", "sine=d=8", "-c:a", "aac")),
}


def _ffmpeg(*arguments):
    command = [find_ffmpeg(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # SVT-AV1 is talkative


def make_films(folder, names=tuple(FAULTS)):
    "Make the films that faults of these names serve, <film>.<suffix>."
    folder = Path(folder)
    wanted = {FAULTS[name].film for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    for name in {"good"} | wanted & set(FILMS):
        _ffmpeg(*FILMS[name][1], folder / f"{name}.{FILMS[name][0]}")
    good = (folder / "good.mp4").read_bytes()
    if "cutoff" in wanted:
        (folder / "cutoff.mp4").write_bytes(good[: len(good) * 3 // 5])
    if "moov" in wanted:
        at = good.index(b"moov") + 12
        noise = bytes(i * 37 % 251 for i in range(len(good) - at))  # the index is the file's end
        (folder / "moov.mp4").write_bytes(good[:at] + noise)
    if "rotated" in wanted:
        _ffmpeg("-display_rotation", "90", "-i", folder / "good.mp4", "-c", "copy", folder / "rotated.mp4")
    return folder


def fault_of(name):
    return re.match(r"[a-z]*", name)[0]


PLAYER = (
    "<!doctype html><html><head><title>A video</title></head><body>"
    '<video width="320"><source src="{file}" type="video/mp4"></video></body></html>'
)


class _Site(loopback.FolderHandler):
    def setup(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)  # what is counted as sent must have gone
        super().setup()

    def answer(self, body):
        "Find the video and its fault; `/watch?v=ID` is its page, `/ID` or `/ID.mp4` the file."
        self.server.requests.append((self.command, self.path))
        address = urlsplit(self.path)
        is_page = address.path == "/watch"
        self.name = parse_qs(address.query)["v"][0] if is_page else Path(address.path).name.partition(".")[0]
        fault = fault_of(self.name)
        self.file = self._film(fault)
        if is_page and fault not in ("forbidden", "missing", "removed", "signin"):
            return self._watch(fault, body)
        if fault not in FAULTS:
            return self.send_head(404)
        with self.server.lock:
            self.server.tries[self.name] += 1
            self.tried = self.server.tries[self.name]
        with contextlib.suppress(ConnectionError):
            getattr(self, f"_{fault}", self._file)(body)

    def _film(self, fault):
        "The film of this very video if there is one, else the fault's."
        film = FAULTS[fault].film if fault in FAULTS else "good"
        own = self.server.folder / f"{self.name}.{FILMS.get(film, ['mp4'])[0]}"
        return own if own.is_file() else own.with_stem(film)

    def _watch(self, fault, body):
        "A page of a site: one with a player, a detour, or straight on to the file."
        file = f"/files/{self.name}{self.file.suffix}"
        if fault == "page":
            self._text(PLAYER.format(file=file), body)
        elif fault == "hops" and "hop=" not in self.path:
            self.send_head(307, Location=f"/watch?v={self.name}&hop=1")
        else:
            self.send_head(302, Location=file)

    def _file(self, body):
        self.send_file(self.file, body)

    def send_bytes(self, f, n):
        while n > 0 and (piece := f.read(min(n, 1 << 13))):
            self.wfile.write(piece)
            n -= len(piece)
            with self.server.lock:
                self.server.sent[self.name] += len(piece)

    def _text(self, text, body, kind="text/html; charset=utf-8"):
        self.send_head(200, len(text.encode()), kind)
        if body:
            self.wfile.write(text.encode())

    def _some(self, body, fraction=0.5, announced=0):
        "Announce the whole file, whatever was asked for, and send a part of it."
        whole = self.file.read_bytes()
        self.send_head(200, announced or len(whole), "video/mp4")
        if body:
            self.wfile.write(whole[: int(fraction * len(whole))])
        self.close_connection = True

    def _slowly(self, body, n, pause):
        self.send_head(200, self.file.stat().st_size, "video/mp4")
        with open(self.file, "rb") as f:
            while body and (piece := f.read(n)) and not self.server.over.wait(pause):
                self.wfile.write(piece)

    def _ranged(self):
        return self.headers.get("Range", "bytes=0-") != "bytes=0-"

    def _forbidden(self, body):
        self.send_head(403)

    def _missing(self, body):
        self.send_head(404)

    def _removed(self, body):
        self.send_head(410)

    def _limited(self, body):
        return self.send_head(429, **{"Retry-After": 1}) if self.tried == 1 else self._file(body)

    def _flooded(self, body):
        self.send_head(429)

    def _broken(self, body):
        self.send_head(500)

    def _busy(self, body):
        return self.send_head(503) if self.tried == 1 else self._file(body)

    def _refused(self, body):
        self.send_head(302, Location=f"http://127.0.0.1:{self.server.closed}/{self.name}.mp4")

    def _reset(self, body):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no farewell
        self.close_connection = True

    def _drip(self, body):
        self._slowly(body, 1 << 11, 0.05)

    def _crawl(self, body):
        self._slowly(body, 10, 0.1)

    def _stall(self, body):
        self._some(body)
        if body:
            self.server.over.wait(60)

    def _mute(self, body):
        self.server.over.wait(60)

    def _rangeless(self, body):
        self._some(body, 1)

    def _half(self, body):
        self._some(body)

    def _torn(self, body):
        return self._file(body) if self._ranged() else self._some(body)

    def _overlong(self, body):
        self._some(body, 1, self.file.stat().st_size + 1000)

    def _overshort(self, body):
        self._some(body, 1, self.file.stat().st_size * 3 // 4)

    def _html(self, body):
        self._text("<!doctype html><title>This video is not available in your country</title>", body, "video/mp4")

    def _signin(self, body):
        self._text("<!doctype html><html><body><p>Sign in to confirm that you are not a robot.</p></body></html>", body)

    def _json(self, body):
        self._text(json.dumps({"error": "no such video"}), body, "application/json")

    def _void(self, body):
        self.send_head(200, 0, "video/mp4")


@dataclass
class Site:
    url: str
    asked: list = field(default_factory=list)  # (method, path) of every request
    sent: Counter = field(default_factory=Counter)  # bytes by id, of files served well

    @property
    def template(self):
        return f"{self.url}/watch?v={{id}}"

    def address(self, name):
        return f"{self.url}/{name}.{FILMS.get(FAULTS[fault_of(name)].film, ['mp4'])[0]}"


@contextlib.contextmanager
def serve_faults(folder):  # yields a Site
    "Serve films, faults included."
    site, over = Site(""), threading.Event()
    counts = dict(requests=site.asked, sent=site.sent, tries=Counter(), lock=threading.Lock())
    with socket.socket() as closed:  # bound, so that nobody else is given its port, and not listening
        closed.bind(("127.0.0.1", 0))
        state = dict(folder=Path(folder).resolve(), over=over, closed=closed.getsockname()[1], **counts)
        with loopback.serve(_Site, **state) as site.url:
            try:
                yield site
            finally:
                over.set()
