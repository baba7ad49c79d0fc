"""Odd films: the frames that a player would show, cut to the frame, and what is damaged told."""

import dataclasses
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import ffmpeg
import numpy as np
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.data.cut import Unfit, check_clip, cut_clip
from frames_matter.data.fetch_and_cut import Job, make_clips
from frames_matter.video import decoding
from frames_matter.video.decoding import Misjudged, frames_at, timeline_of
from frames_matter.video.decord_reader import decord_frames_at
from frames_matter.video.frames import VideoFile, check_decodes, clip_facts, read_clip, read_frames
from frames_matter.video.sampling import sample_indices

FILMS = Path(__file__).parent / "films"
UNIFORM = [0, 37, 74, 111, 148, 185, 222, 259]  # of 300 frames
SHOWN = {  # name -> how many frames a player shows, and the numbers that eight of them show
    "drops.mkv": (281, [0, 35, 70, 118, 153, 188, 229, 264]),
    "gap1s.mkv": (269, [0, 33, 66, 99, 163, 196, 229, 262]),
    "vfr_slow_then_fast.mkv": (114, [0, 210, 364, 378, 392, 406, 420, 434]),
    "vfr_slow_then_fast.webm": (114, [0, 210, 364, 378, 392, 406, 420, 434]),
    "dark.mkv": (225, [0, 28, 56, 84, 112, 140, 186, 242]),
    "copycut.mp4": (92, [135, 146, 157, 168, 179, 190, 201, 212]),
} | dict.fromkeys(
    (
        *("h264.avi", "xvid_bf.avi", "src.flv", "mpg.mpg", "src.ts", "wmv.wmv", "opengop.mp4"),
        *("chapters.mkv", "chapters.mp4", "late_video.mp4", "jitter.mp4"),
    ),
    (300, UNIFORM),
)
LENGTHS = {  # seconds from the file's beginning to the end of its last frame
    "vfr_slow_then_fast.mkv": 15.0,
    "vfr_slow_then_fast.webm": 15.0,
    "copycut.mp4": 92 / 30,
    "late_video.mp4": 10.4,
}
BEGINS_LATE = {"late_video.mp4": 0.4, "xvid_bf.avi": 1 / 30, "h264.avi": 1 / 30}  # the first frame's time


def numbers(frames):
    "The numbers that frames show as stripes."
    grey = frames.mean(-1)
    return [sum(int(f[:, 16 * bit + 4 : 16 * bit + 12].mean() > 125) << bit for bit in range(10)) for f in grey]


@pytest.fixture(scope="module")
def all_shown():
    "The numbers that all frames of a film show, by the film's name."
    kept = {}

    def of(name):
        if name not in kept:
            kept[name] = numbers(read_frames(FILMS / name))
        return kept[name]

    return of


def test_every_film_is_expected():
    assert {p.name for p in FILMS.iterdir()} - {"README.md"} == set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_frames_are_those_that_a_player_shows(name, all_shown):
    n, expected = SHOWN[name]
    assert len(all_shown(name)) == n and all_shown(name) == sorted(all_shown(name))
    assert numbers(read_clip(FILMS / name, size=160)) == expected
    assert numbers(read_frames(FILMS / name, [n - 1, 0, n // 2, -1], 160)) == [
        all_shown(name)[i] for i in (n - 1, 0, n // 2, -1)
    ]


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("strategy", ["weighted", "keyframes", "random_segments", "motion"])
def test_every_strategy_gets_the_frames_it_chose(name, strategy, all_shown):
    video = VideoFile(FILMS / name, 160, count=True)
    got = numbers(read_clip(FILMS / name, strategy, size=160, seed=3))
    if strategy == "motion":
        assert got == sorted(got) and set(got) <= set(all_shown(name))
    else:
        assert got == [all_shown(name)[i] for i in sample_indices(strategy, len(video), 8, 3)]


@pytest.mark.parametrize("name", SHOWN)
def test_length_and_rate_are_of_the_timestamps(name):
    facts, timeline = clip_facts(FILMS / name), timeline_of(FILMS / name)
    assert facts["frames"] == SHOWN[name][0] and facts == check_decodes(FILMS / name)
    assert timeline.length == pytest.approx(LENGTHS.get(name, 10.0), abs=0.1)
    assert facts["fps"] == pytest.approx(facts["frames"] / facts["seconds"], abs=0.01)
    assert timeline.times[0] == pytest.approx(BEGINS_LATE.get(name, 0), abs=0.05)


SPANS = {"whole": (0, None), "beginning": (0, 2), "middle": (3.3, 5.5), "end": (-1, None)}


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("name", SHOWN)
def test_a_cut_has_each_frame_of_its_span_once(name, span, all_shown, tmp_path):
    timeline, (start, end) = timeline_of(FILMS / name), SPANS[span]
    end = end or round(timeline.length, 3)
    start = start if start >= 0 else end - 1
    if end > timeline.length:
        pytest.skip("the film is shorter")
    cut_clip(FILMS / name, tmp_path / "clip.mp4", start, end)
    facts = check_clip(tmp_path / "clip.mp4")
    times = VideoFile(FILMS / name, count=True).timeline.times
    expected = [shown for shown, time in zip(all_shown(name), times, strict=True) if start - 1e-6 <= time < end - 1e-6]
    assert numbers(read_frames(tmp_path / "clip.mp4")) == expected and facts["frames"] == len(expected)
    if span == "whole":
        assert len(expected) == SHOWN[name][0]


def test_frames_keep_their_times_in_a_cut(tmp_path):
    "No clock is guessed: neither the recorder's pauses nor the phone's jitter is evened out."
    for name in ("vfr_slow_then_fast.mkv", "jitter.mp4", "gap1s.mkv"):
        times = timeline_of(FILMS / name).times
        cut_clip(FILMS / name, tmp_path / "clip.mp4", 1, 9)
        inside = times[(times >= 1) & (times < 9)]
        assert np.allclose(timeline_of(tmp_path / "clip.mp4").times, inside - inside[0], atol=2e-5)


def test_a_slip_of_the_clock_does_not_stop_it(tmp_path):
    "A phone gives two frames one time; the others keep theirs, which no steady rate gives."
    path = tmp_path / "slip.mkv"
    film = ffmpeg.input("testsrc=s=64x48:r=10:d=6", f="lavfi").filter("setpts", "if(eq(N,7),6,if(lt(N,30),N,2*N-30))")
    film = film.output(str(path), vcodec="ffv1", pix_fmt="yuv420p", fps_mode="passthrough", enc_time_base="1:10")
    film.global_args("-v", "error").run(cmd=find_ffmpeg())
    expected = np.array([n if n < 30 else 2 * n - 30 for n in range(60)]) / 10
    expected[7] = 0.601
    for count in (False, True):
        assert np.allclose(timeline_of(path, count).times, expected)
    assert len(read_frames(path)) == 60
    cut_clip(path, tmp_path / "clip.mp4", 0.5, 0.7)
    assert check_clip(tmp_path / "clip.mp4")["frames"] == 3


def test_a_cut_has_one_stream_and_no_chapters(tmp_path):
    for name in ("chapters.mkv", "chapters.mp4", "late_video.mp4"):
        cut_clip(FILMS / name, tmp_path / "clip.mp4", 0, 3)
        said = subprocess.run([find_ffmpeg(), "-i", tmp_path / "clip.mp4"], capture_output=True, text=True).stderr
        assert said.count("Stream #") == 1 and "Chapter" not in said


def test_what_is_not_in_a_film_is_not_cut(tmp_path):
    for start, end, why in ((9, 12, "1.00 s of video where 3.00 s"), (20, 24, "ends before the clip begins")):
        with pytest.raises(Unfit, match=why) as told:
            cut_clip(FILMS / "opengop.mp4", tmp_path / "clip.mp4", start, end)
        assert told.value.kind == "duration" and not list(tmp_path.iterdir())


def test_a_reason_names_the_file_and_the_part(tmp_path):
    row = dict(position=0, clip_id="c", start=9, end=12, state="selected")
    job = Job("film", str(FILMS / "opengop.mp4"), (row,), ((9, 12),), str(tmp_path))
    reason = list(make_clips(job))[-1]["reason"]
    why = "1.00 s of video where 3.00 s were asked for; opengop.mp4, 9 to 12 s"
    assert reason == f"not cut: the video ends too early ({why})"
    gone = dataclasses.replace(job, address=str(tmp_path / "gone.mp4"))
    assert list(make_clips(gone))[-1]["reason"] == "not fetched: the file is not there any more (gone.mp4)"


def test_a_source_that_is_gone_is_told(tmp_path):
    with pytest.raises(Unfit, match="cannot be read .No such file") as told:
        cut_clip(tmp_path / "gone.mp4", tmp_path / "clip.mp4", 0, 1)
    assert told.value.kind == "damaged" and not list(tmp_path.iterdir())


# --- containers and codecs ---

N_MADE = 75  # frames, 25 a second
ENCODED = {  # name of the file -> how ffmpeg encodes it
    "b_frames.mp4": "-c:v libx264 -bf 3 -g 40",
    "fragmented.mp4": "-c:v libx264 -g 30 -movflags frag_keyframe+empty_moov",
    "timecode.mov": "-c:v libx264 -timecode 01:00:00:00",
    "long_gop.ts": "-c:v libx264 -bf 2 -g 250",
    "disc.m2ts": "-c:v libx264 -g 30",
    "hevc.mkv": "-c:v libx265 -x265-params log-level=error",
    "hevc_open.ts": "-c:v libx265 -x265-params open-gop=1:keyint=30:log-level=error",
    "b_frames.vob": "-c:v mpeg2video -bf 2 -g 15 -b:v 3M",
    "mpeg1.mpeg": "-c:v mpeg1video -bf 2 -b:v 3M",
    "mjpeg.avi": "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p",
    "prores.mov": "-c:v prores_ks -pix_fmt yuv422p10le",
    "lossless.mkv": "-c:v ffv1 -pix_fmt yuv444p",
    "hidden_frames.vp8.webm": "-c:v libvpx -b:v 1M -auto-alt-ref 1 -lag-in-frames 10 -deadline realtime",
    "hidden_frames.vp9.webm": "-c:v libvpx-vp9 -b:v 1M -auto-alt-ref 1 -lag-in-frames 12 -cpu-used 5",
    "picture.gif": "-pix_fmt rgb8",
    "no_container.h264": "-c:v libx264 -bf 2 -f h264",
}


def made(path, options):
    "A film of numbered frames; skips where this machine's ffmpeg has no such encoder."
    frames = np.zeros((N_MADE, 64, 160, 3), np.uint8)
    for n in range(N_MADE):
        for bit in range(10):
            frames[n, :, 16 * bit : 16 * bit + 16] = 230 * (n >> bit & 1)
    raw = ["-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "160x64", "-r", "25", "-i", "-"]
    kind = [] if "pix_fmt" in options else ["-pix_fmt", "yuv420p"]
    command = [find_ffmpeg(), *raw, *kind, *options.split(), str(path)]
    done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
    if b"Unknown encoder" in done.stderr:
        pytest.skip(done.stderr.decode().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("name", ENCODED)
def test_whatever_it_is_kept_in_frames_come_as_shown(name, tmp_path):
    path = made(tmp_path / name, ENCODED[name])
    assert numbers(read_frames(path)) == list(range(N_MADE))
    begin = timeline_of(path).times[0]
    assert timeline_of(path).length - begin == pytest.approx(3, abs=0.01)
    cut_clip(path, tmp_path / "clip.mp4", begin + 1, begin + 2)
    assert numbers(read_frames(tmp_path / "clip.mp4")) == list(range(25, 50))


# --- damage ---


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "avi"])
def damaged(request, tmp_path_factory):
    "Ten seconds with bytes overwritten in their middle, header and length whole."
    path = tmp_path_factory.mktemp("damaged") / f"film.{request.param}"
    film = ffmpeg.input("testsrc2=s=320x240:r=25:d=10", f="lavfi")
    film = film.output(str(path), vcodec="libx264", g=25, pix_fmt="yuv420p").global_args("-v", "error")
    film.run(cmd=find_ffmpeg())
    data = bytearray(path.read_bytes())
    for place in range(6):
        at = int(len(data) * (0.4 + 0.03 * place))
        data[at : at + 3000] = bytes(3000)
    path.write_bytes(data)
    return path


def test_damage_is_told(damaged, tmp_path):
    with pytest.raises(UserError, match="cannot be decoded to its end"):
        read_frames(damaged)
    with pytest.raises(UserError, match="cannot be decoded to its end"):
        check_decodes(damaged)
    with pytest.raises(Unfit, match="damaged") as told:
        cut_clip(damaged, tmp_path / "clip.mp4", 2, 8)
    assert told.value.kind == "damaged" and not list(tmp_path.iterdir())


def test_what_lies_before_the_damage_is_cut(damaged, tmp_path):
    if damaged.suffix == ".avi":
        pytest.skip("the times of B-frames in an AVI have to be counted to its end")
    cut_clip(damaged, tmp_path / "clip.mp4", 0.4, 2.4)
    assert check_clip(tmp_path / "clip.mp4")["frames"] == 50


@pytest.mark.parametrize("name", ["src.ts", "copycut.mp4", "drops.mkv", "xvid_bf.avi", "mpg.mpg"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_film_that_breaks_off_gives_its_own_frames_or_a_sentence(name, part, all_shown, tmp_path):
    data = (FILMS / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(part * len(data))])
    try:
        got = numbers(read_frames(path))
    except UserError:
        return
    whole = all_shown(name)  # the last frames may refer to one that is not there any more
    assert got == sorted(got) and set(got) <= set(whole) and got[:-3] == whole[: max(0, len(got) - 3)]


def test_damage_behind_the_last_frame_taken_is_not_looked_for(tmp_path):
    "As the help says: a transport stream that breaks off can be read to there, and is no whole film."
    whole, broken = tmp_path / "whole.ts", tmp_path / "broken.ts"
    film = ffmpeg.input("testsrc2=s=160x64:r=25:d=5", f="lavfi").output(str(whole), vcodec="libx264", pix_fmt="yuv420p")
    film.global_args("-v", "error").run(cmd=find_ffmpeg())
    broken.write_bytes(whole.read_bytes()[: int(0.63 * whole.stat().st_size)])
    step = clip_facts(broken)["frames"] // 8
    expected = read_frames(whole, [step * i for i in range(8)], size=64)
    assert (read_clip(broken, "uniform", size=64) == expected).all()
    for read in (check_decodes, lambda path: read_frames(path, [-1])):
        with pytest.raises(UserError, match="cannot be decoded to its end"):
            read(broken)


def test_a_folder_is_no_video(tmp_path):
    (tmp_path / "films.mp4").mkdir()
    for read in (read_clip, read_frames, clip_facts, check_decodes):
        for folder in (tmp_path, tmp_path / "films.mp4", "/"):
            with pytest.raises(UserError) as e:
                read(folder)
            assert str(e.value) == f"{folder} is a folder and no video; give the path of one file."
        with pytest.raises(UserError, match="No video at .*none.mp4; look how it is spelt"):
            read(tmp_path / "none.mp4")


@pytest.mark.parametrize("part", [0.5, 0.6, 0.999])
def test_an_mp4_that_breaks_off_is_told_wherever_its_index_stands(part, tmp_path):
    "With the index in front it can be opened, and would pass for a shorter film."
    whole = tmp_path / "whole.mp4"
    film = ffmpeg.input("testsrc2=s=160x64:r=30:d=5", f="lavfi")
    film = film.output(str(whole), vcodec="libx264", pix_fmt="yuv420p", movflags="+faststart")
    film.global_args("-v", "error").run(cmd=find_ffmpeg())
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    for read in (read_clip, read_frames, clip_facts, check_decodes):
        with pytest.raises(UserError, match="breaks off"):
            read(broken)
    with pytest.raises(Unfit, match="damaged"):
        cut_clip(broken, tmp_path / "clip.mp4", 0, 1)


BROKEN_OFF = {  # name of the file -> how ffmpeg encodes it
    "film.mkv": "-c:v libx264 -c:a aac",
    "film.webm": "-c:v libvpx -b:v 1M -deadline realtime -cpu-used 8 -c:a libopus",
    "film.flv": "-c:v flv -c:a mp3",
    "film.avi": "-c:v mpeg4 -c:a mp3",
    "b_frames.avi": "-c:v libx264 -bf 2 -c:a mp3",
    "recorded.mkv": "-c:v libx264 -c:a aac -live 1",  # its head tells no length: it may have ended there
}


@pytest.mark.parametrize("name", BROKEN_OFF)
def test_a_film_that_ends_before_its_head_says_is_told(name, tmp_path):
    whole, broken = tmp_path / name, tmp_path / f"broken_{name}"
    sound = "-f lavfi -i sine=d=9"  # longer than the picture, which is no sign of a loss
    command = f"-v error -f lavfi -i testsrc2=s=160x64:r=25:d=6 {sound} {BROKEN_OFF[name]} -pix_fmt yuv420p"
    subprocess.run([find_ffmpeg(), *command.split(), str(whole)], check=True)
    assert len(read_frames(whole)) == check_decodes(whole)["frames"] == pytest.approx(150, abs=1)
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    if name == "recorded.mkv":
        assert 60 < len(timeline_of(broken)) < 140
        return
    for read in (read_clip, clip_facts, check_decodes):
        with pytest.raises(UserError, match="breaks off|cannot be decoded to its end"):
            read(broken)


def test_a_last_frame_may_be_shown_for_long(tmp_path):
    "A slide show's head tells a length that its packets do not."
    path = tmp_path / "slides.mkv"
    film = ffmpeg.input("testsrc=s=64x48:r=1/3:d=12", f="lavfi").output(str(path), vcodec="ffv1", pix_fmt="yuv420p")
    film.global_args("-v", "error").run(cmd=find_ffmpeg())
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, as a float of eight bytes
    assert struct.unpack(">d", data[at : at + 8]) == (12_000.0,)
    for milliseconds, is_whole in ((14_900.0, True), (15_100.0, False)):
        path.write_bytes(data[:at] + struct.pack(">d", milliseconds) + data[at + 8 :])
        if is_whole:
            assert len(read_frames(path)) == 4
        else:
            with pytest.raises(UserError, match="breaks off"):
                read_frames(path)


def test_an_encrypted_film_is_told(tmp_path):
    path, key = tmp_path / "film.mp4", "00112233445566778899aabbccddeeff"
    film = ffmpeg.input("testsrc=s=64x48:r=10:d=1", f="lavfi")
    locked = dict(encryption_scheme="cenc-aes-ctr", encryption_key=key, encryption_kid=key)
    film.output(str(path), vcodec="libx264", **locked).global_args("-v", "error").run(cmd=find_ffmpeg())
    with pytest.raises(UserError, match="is encrypted; leave it out"):
        read_frames(path)


def test_a_stream_that_comes_to_light_on_the_way_stops_nothing():
    "PyAV raises this after the last packet, for a stream that it did not know at the beginning."

    class Opened:
        def demux(self, *streams):
            yield from (1, 2, 3)
            [][0]

    assert list(decoding._packets_of(Opened())) == [1, 2, 3]


def test_what_is_no_path_is_told():
    for path in (["clip.mp4"], 3, None):
        with pytest.raises(UserError, match="named by its path"):
            read_clip(path)


# --- frames that are left out ---


@pytest.mark.parametrize("name", ["opengop.mp4", "late_video.mp4", "gap1s.mkv"])
def test_frames_that_others_need_are_decoded(name, all_shown):
    "Each frame by itself, whatever is left out before it, and with a list that leaves out too much."
    timeline = timeline_of(FILMS / name)
    assert 0.2 < timeline.is_spare.mean() < 0.8
    for number in range(0, 60, 7):
        (picture,) = frames_at(FILMS / name, timeline, [number])
        assert numbers(picture[None]) == all_shown(name)[number : number + 1]
    lying = dataclasses.replace(timeline, is_spare=np.ones(len(timeline), bool))
    with pytest.raises(Misjudged):
        list(frames_at(FILMS / name, lying, [len(timeline) - 1]))


# --- readers ---


def test_decord_gives_the_same_frames_or_says_that_it_cannot():
    "The same pictures; its conversion of colours rounds otherwise, by up to three levels of 256."
    for name in SHOWN:
        timeline = timeline_of(FILMS / name)
        chosen = sorted(set(sample_indices("weighted", len(timeline), 8, 1).tolist()))
        try:
            by_decord = list(decord_frames_at(FILMS / name, timeline, chosen))
        except UserError as e:
            assert "cannot be read by decord" in str(e) and "take the reader av" in str(e)
            assert name in ("copycut.mp4", "h264.avi", "xvid_bf.avi", "src.flv", "mpg.mpg", "src.ts", "wmv.wmv"), name
        else:
            apart = np.stack(by_decord).astype(int) - read_frames(FILMS / name, chosen)
            assert np.abs(apart).max() <= 3, name


def test_a_reader_that_hangs_is_stopped():
    path = FILMS / "opengop.mp4"
    with pytest.raises(UserError, match="no answer in 0.001 s"):
        list(decord_frames_at(path, timeline_of(path), [0], patience=0.001))


def test_decord_that_gives_up_says_so_in_words(tmp_path):
    "Nothing of its C++ sources: a file whose middle was overwritten."
    data = bytearray((FILMS / "opengop.mp4").read_bytes())
    timeline = timeline_of(FILMS / "opengop.mp4")
    data[len(data) // 4 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 4)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(data)
    with pytest.raises(UserError) as told:
        list(decord_frames_at(path, timeline, range(len(timeline))))
    assert str(told.value) == (
        f"{path} cannot be read by decord (it gives up on what is in the file); take the reader av."
    )


def test_a_reader_that_dies_takes_nothing_along(tmp_path, monkeypatch):
    "decord's process is killed before it answers, as by its own abort where memory is short."
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    path = FILMS / "opengop.mp4"
    with pytest.raises(UserError, match="its process ended with 1"):
        list(decord_frames_at(path, timeline_of(path), [0]))


# --- size ---

READ_AND_WEIGH = """
import re, sys
from frames_matter.video.frames import read_clip, check_decodes
print(check_decodes(sys.argv[1])["frames"], {s: read_clip(sys.argv[1], s, size=64).shape for s in sys.argv[2:]})
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read off /proc")
def test_a_clip_of_4k_is_read_in_a_gigabyte(tmp_path):
    path = tmp_path / "4k.mp4"
    film = ffmpeg.input("testsrc=s=3840x2160:r=60:d=2", f="lavfi")
    film = film.output(str(path), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p").global_args("-v", "error")
    film.run(cmd=find_ffmpeg())
    strategies = ["uniform", "mean", "dropout", "motion"]
    command = [sys.executable, "-c", READ_AND_WEIGH, path, *strategies]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    said, kilobytes = done.stdout.splitlines()
    assert said.startswith("120 ") and said.count("(8, 64, 64, 3)") == len(strategies)
    assert int(kilobytes) < 2**20


def test_colours_are_those_of_other_readers(tmp_path):
    "Edges of colour too, where a sample stands for four pixels: within three levels of decord and of FFmpeg's own."
    path, size = tmp_path / "film.mp4", (160, 120)
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size[0]}x{size[1]}:rate=10:duration=2"]
    subprocess.run([find_ffmpeg(), "-v", "error", *source, "-pix_fmt", "yuv420p", str(path)], check=True)
    ours = read_frames(path, [0, 7, 19]).astype(int)
    by_decord = np.stack(list(decord_frames_at(path, timeline_of(path), [0, 7, 19])))
    raw = [find_ffmpeg(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    by_ffmpeg = np.frombuffer(subprocess.run(raw, check=True, capture_output=True).stdout, np.uint8)
    by_ffmpeg = by_ffmpeg.reshape(-1, *size[::-1], 3)[[0, 7, 19]]
    assert np.abs(ours - by_decord).max() <= 3
    assert np.abs(ours - by_ffmpeg).max() <= 3
