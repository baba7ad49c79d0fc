"Films cut, flipped, spliced, disguised, or of impossible sizes: read, cut, and built from a folder."

import shutil
import subprocess
from pathlib import Path

import numpy as np

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.base.text import is_clip_id
from frames_matter.data.cut import check_clip, cut_clip
from frames_matter.data.manifest import read_manifest, verify
from frames_matter.data.row_checks import Rejected
from frames_matter.video.decoding import timeline_of
from frames_matter.video.frames import check_decodes, clip_facts, read_clip, read_frames
from frames_matter.video.sampling import SAMPLERS

from . import odd
from .cell import command

REAL = Path(__file__).parent.parent / "films"  # after public bug reports
X264 = "-c:v libx264 -preset ultrafast -bf 2 -g 12"
MADE = {  # name -> how ffmpeg writes it
    "sound.mp4": f"{X264} -c:a aac -shortest",
    "front.mp4": f"{X264} -movflags +faststart -an",
    "fragments.mp4": f"{X264} -movflags frag_keyframe+empty_moov -an",
    "hevc.mp4": "-c:v libx265 -preset ultrafast -x265-params log-level=error -an",
    "av1.mp4": "-c:v libsvtav1 -preset 12 -an",
    "prores.mov": "-c:v prores_ks -an",
    "quick.mov": f"{X264} -c:a aac -timecode 01:00:00:00 -shortest",
    "old.3gp": "-c:v h263 -s 176x144 -an",
    "x.mkv": f"{X264} -c:a libvorbis -shortest",
    "lossless.mkv": "-c:v ffv1 -an",
    "vp9.webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -an",
    "vp8.webm": "-c:v libvpx -deadline realtime -cpu-used 8 -c:a libvorbis -shortest",
    "b.avi": "-c:v mpeg4 -bf 2 -an",
    "motion.avi": "-c:v mjpeg -c:a pcm_s16le -shortest",
    "t.ts": f"{X264} -c:a aac -shortest",
    "t.m2ts": f"{X264} -an",
    "p.mpg": "-c:v mpeg2video -r 25 -an",
    "p.vob": "-f vob -c:v mpeg2video -r 25 -an",
    "f.flv": "-c:v flv1 -an",
    "theora.ogv": "-c:v libtheora -an",
    "m.mxf": "-c:v mpeg2video -r 25 -an",
    "w.wmv": "-c:v wmv2 -an",
    "n.nut": "-c:v mpeg4 -an",
    "g.gif": "-an",
    "y.y4m": "-an",
    "raw.h264": f"{X264} -f h264 -an",
    "raw.h265": "-c:v libx265 -preset ultrafast -x265-params log-level=error -f hevc -an",
    "pictures.mjpeg": "-c:v mjpeg -an",
    "still.mp4": f"{X264} -frames:v 1 -an",
    "alone.mp4": "-vn -c:a aac",
}


def make_films(folder: Path) -> None:
    "Small films in many containers, and those after bug reports."
    folder.mkdir(parents=True)
    for name, how in MADE.items():
        sources = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=12:d=2", "-f", "lavfi", "-i", "sine=d=2"]
        words = [*sources, "-pix_fmt", "yuv420p", *how.split(), str(folder / name)]
        subprocess.run([find_ffmpeg(), "-v", "error", "-nostdin", *words], check=True, capture_output=True)
    for path in REAL.iterdir():
        if path.suffix != ".md":
            shutil.copy(path, folder)


def _whole(rng, cell):
    "A film of the corpus, of the small ones rather."
    return rng.choice(sorted((cell.corpus / "films").iterdir()))


# ---- what is done with a film, and what must come of it


def _facts_are_facts(facts):
    assert facts["frames"] >= 1 and facts["width"] >= 1 and facts["height"] >= 1, facts
    assert all(np.isfinite(list(facts.values()))) and facts["seconds"] > 0 and facts["fps"] > 0, facts


def _clip(rng, path):
    strategy, k, size = rng.choice([*SAMPLERS]), rng.choice([1, 3, 8, 40]), rng.choice([8, 32, 65])
    reader = "decord" if rng.random() < 0.1 else "av"
    frames = read_clip(path, strategy, k, size, rng.randrange(5), reader=reader)
    assert frames.shape == (k, size, size, 3) and frames.dtype == np.uint8, (frames.shape, frames.dtype)


def _frames(rng, path):
    every = read_frames(path, size=rng.choice([None, 16]))
    assert every.ndim == 4 and len(every) >= 1 and every.shape[3] == 3 and every.dtype == np.uint8, every.shape
    some = read_frames(path, [-1, 0], size=None)
    assert len(some) == 2, some.shape


def _facts(rng, path):
    _facts_are_facts(clip_facts(path))


def _decodes(rng, path):
    _facts_are_facts(facts := check_decodes(path))
    assert len(read_frames(path, size=8)) == facts["frames"]


def _timeline(rng, path):
    line = timeline_of(path, count=rng.random() < 0.5)
    assert (np.diff(line.times) > 0).all() and np.isfinite(line.times).all() and line.end > line.ticks[-1]
    assert np.isfinite([line.fps, line.seconds, line.length]).all() and line.seconds > 0, line


def _cut(rng, path):
    start, end = rng.choice([(0, 1), (0.5, 1.5), (0, 2), (0.25, 0.3), (1, 30), (3, 4), (0, 1e5)])
    target = Path("cut") / "clip.mp4"
    try:
        cut_clip(path, target, start, end, audio=rng.random() < 0.3)
    finally:
        left = [p.name for p in Path("cut").glob("*")] if Path("cut").is_dir() else []
        assert left in ([], ["clip.mp4"]), left
    _facts_are_facts({k: v for k, v in check_clip(target).items() if k != "sha256"})


USES = (_clip, _clip, _frames, _facts, _decodes, _timeline, _cut)


def _use(rng, path):
    "One of the things that are done with a film; what is rejected with a reason is refused."
    use = rng.choice(USES)

    def call():
        try:
            use(rng, path)
        except Rejected as e:
            raise UserError(f"{str(e)[0].upper()}{str(e)[1:]}.") from e

    return call


# ---- inputs

SUFFIXES = (
    *(".mp4", ".mkv", ".avi", ".ts", ".mpg", ".flv", ".webm", ".wmv"),
    *(".gif", ".h264", ".y4m", ".ogv", ".mov"),
)
NAMES = (*("a", "a b", "-i", "a%03d", "é", "e\u0301", "電影", "a:b"), *("concat:a|b", "[a]", "a'b", "file:a", "a\nb"))


def _written(rng, cell, data, suffix):
    "A film's bytes under some name."
    if rng.random() < 0.1:
        suffix = rng.choice(SUFFIXES)
    path = cell.given / f"{rng.choice(NAMES) if rng.random() < 0.3 else 'film'}{suffix}"
    path.write_bytes(data)
    return path


def damaged_film(rng, cell):
    "Cut, flipped, spliced, doubled."
    whole, other = _whole(rng, cell), _whole(rng, cell)
    return _use(rng, _written(rng, cell, odd.damaged(rng, whole.read_bytes(), other.read_bytes()), whole.suffix))


MARKS = (  # before numbers that say how a file is to be read: MP4's boxes, AVI's and Matroska's
    *(b"mvhd", b"tkhd", b"mdhd", b"elst", b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"stss", b"stsd", b"trun"),
    *(b"avc1", b"hvc1", b"avcC", b"hvcC", b"mp4v", b"av01", b"moov", b"trak", b"moof", b"mdat", b"colr", b"pasp"),
    *(b"avih", b"strh", b"strf", b"idx1", b"movi", b"indx", b"LIST", b"RIFF", b"tfhd"),
    *(b"\x2a\xd7\xb1", b"\x44\x89", b"\xb0\x81", b"\xba\x81", b"\x1f\x43\xb6\x75", b"\xe7", b"\xa3", b"\x23\xe3\x83"),
    *(b"\x00\x00\x01\xb3", b"\x00\x00\x01\xba", b"\x00\x00\x01\x67", b"\x00\x00\x01\x68", b"FLV\x01", b"GIF89a"),
    *(b"YUV4MPEG2", b"OggS", b"nut/", b"\x06\x0e\x2b\x34", b"\x30\x26\xb2\x75", b"\x47\x40"),
)
NUMBERS = (0, 1, 2, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 0x40000000, 25, 0x00640064)


def other_header(rng, cell):
    "Sizes, counts and times in a header that say something else: huge, none, negative."
    whole = _whole(rng, cell)
    data = bytearray(whole.read_bytes())
    for _ in range(rng.choice([1, 1, 3])):
        marks = [mark for mark in MARKS if mark in data[: 2**20]]
        mark = rng.choice(marks) if marks else data[:4]
        at = data.find(mark, data.find(mark) + 1 if rng.random() < 0.3 else 0)
        at = max(at, 0) + len(mark) + rng.choice([-8, 0, 0, 4, 4, 8, 12, 16, 20, 24, 28, 74, 76, rng.randrange(100)])
        number = rng.choice(NUMBERS).to_bytes(4, rng.choice(["big", "little"]))
        packed = rng.choice([number, number[:2], number[2:]])
        data[max(at, 0) : max(at, 0) + len(packed)] = packed
    return _use(rng, _written(rng, cell, bytes(data), whole.suffix))


def _lists(cell):
    "What names other files, or is no film at all."
    url, film = cell.url, next((cell.corpus / "films").glob("x.mkv"))
    dash = f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" \
mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet \
mimeType="video/mp4"><Representation id="1" bandwidth="1" codecs="avc1.4d401e"><BaseURL>{url}/a.mp4</BaseURL>\
<SegmentBase indexRange="0-100"/></Representation></AdaptationSet></Period></MPD>'
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    return (
        dash,
        hls.format(f"{url}/a.ts"),
        hls.format(film),
        hls.format(f"concat:{film}|{url}/a"),
        f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n',
        f'#EXTM3U\n#EXT-X-MAP:URI="{url}/init"\n#EXTINF:2,\n{url}/b\n',
        f"ffconcat version 1.0\nfile '{film}'\n",
        f"ffconcat version 1.0\nfile {url}/a.mp4\noption protocol_whitelist file,http,tcp\n",
        ";FFMETADATA1\ntitle=a\n",
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {cell.port} RTP/AVP 96\n",
        f'<playlist xmlns="http://xspf.org/ns/0/"><trackList><track><location>{url}/a</location></track></trackList>',
        f"[playlist]\nFile1={url}/a.mp4\nNumberOfEntries=1\n",
        f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{url}/a.png"/></svg>',
        f'<SmoothStreamingMedia MajorVersion="2" Duration="1"><StreamIndex Type="video" Url="{url}/a"/>',
        f"<html><video src='{url}/a.mp4'></video></html>",
        f"ffmpeg -i {url}/a.mp4\n",
        f"import('{film}')\nffvideosource('{film}')\n",
        f"<wpl><media src='{url}/a'/></wpl>",
        f"rtsptext\nrtsp://127.0.0.1:{cell.port}/a\n",
        f"Segment {url}/a 0 9\n1\n00:00:00,000 --> 00:00:01,000\na\n",
        "WEBVTT\n\n00:00.000 --> 00:01.000\na\n",
        "\x00" * 10_000,
        "",
    )


def disguised_list(rng, cell):
    "A playlist, manifest or script that is called a film; nothing that it names may be opened."
    content = rng.choice(_lists(cell)).encode()
    if rng.random() < 0.2:
        content = (cell.corpus / "films" / "front.mp4").read_bytes()[:40] + content
    if rng.random() < 0.1:
        content = odd.damaged(rng, content)
    return _use(rng, _written(rng, cell, content, rng.choice(SUFFIXES)))


# ---- builds


def build_is_whole(name: str, printed: str = "") -> None:
    "Check that a build that ended well is what it says: files, manifest, ledger."
    profile = get_profile(name)
    rows = read_manifest(cell_manifest(name))
    assert set(rows.status) <= {"kept", "rejected"} and (rows.status == "kept").sum() >= 1, rows.status
    kept, others = rows[rows.status == "kept"], rows[rows.status == "rejected"]
    assert others.reason.notna().all() and kept.reason.isna().all(), "a reason too many, or too few"
    assert kept.clip_id.is_unique and all(map(is_clip_id, kept.clip_id)), "names"
    assert set(kept.split) <= {"train", "alignment", "test", "pool"} and kept.caption.str.len().gt(0).all()
    assert verify(profile) == [], verify(profile)
    left = [p.name for p in data_dir(profile).rglob("*.partial*")]
    assert not left, left


def cell_manifest(name: str) -> Path:
    "Where the manifest of a profile lies in the home of a cell."
    return Path("data_manifest") / name / "clips.csv"


GOOD = ("front.mp4", "x.mkv", "vp9.webm", "b.avi", "t.ts")


def built_folder(rng, cell):
    "A folder of films, some of which are whole: built, and held against what the build says."
    for n, name in enumerate(GOOD):
        shutil.copy(cell.corpus / "films" / name, cell.given / f"good{n}{Path(name).suffix}")
        (cell.given / f"good{n}.txt").write_text(f"Good film {n}.")
    for n in range(rng.choice([1, 2, 3])):
        whole, other = _whole(rng, cell), _whole(rng, cell)
        how = rng.randrange(3)
        data = odd.damaged(rng, whole.read_bytes(), other.read_bytes())
        if how == 0:
            data = rng.choice(_lists(cell)).encode()
        (cell.given / f"odd{n}{whole.suffix}").write_bytes(data)
        (cell.given / f"odd{n}.txt").write_text(f"Odd film {n}.")
    audio = ["-o", "audio=true"] if rng.random() < 0.3 else []

    def call():
        code, printed = command("dataset", "build", "--from", cell.given, "--name", "films", *audio)
        assert code == 0, printed
        build_is_whole("films")
        rows = read_manifest(cell_manifest("films"))
        kept = rows[rows.status == "kept"].address.map(lambda p: Path(p).stem)
        assert {f"good{n}" for n in range(len(GOOD))} <= set(kept), f"a whole film is missing: {sorted(kept)}"

    return call
