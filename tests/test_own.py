"Clips of one's own: what is read, what is refused and in which words, and what a tar may not do."

import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import ffmpeg
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import data_dir, draft, get_profile
from frames_matter.cli import run_command
from frames_matter.data.build import build_dataset
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.data.loopback import serve_folder
from frames_matter.data.manifest import load_manifest, read_manifest
from frames_matter.data.own import OWN, own_rows, register_own
from frames_matter.data.own_tars import unpack_sample
from frames_matter.study.lessons import lesson_paths, run_lessons
from frames_matter.video.frames import read_clip

NAMES = ["dog", "boat", "rain", "snow", "wind"]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "Five films of three to seven seconds."
    folder = tmp_path_factory.mktemp("films")
    for i, name in enumerate(NAMES):
        picture = ffmpeg.input(f"testsrc2=s=64x{48 + 2 * i}:r=8:d={3 + i}", f="lavfi").output(
            str(folder / f"{name}.mp4"), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", threads=1
        )
        picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def mine(films, tmp_path):
    "A folder of one's own with the films in it."
    shutil.copytree(films, tmp_path / "mine" / "films")
    return tmp_path / "mine"


def read(path, name="try", unpack=unpack_sample, **fields):
    return own_rows(draft(name, "smoke", **OWN | dict(rows=str(path)) | fields), unpack)


def good(rows):
    return rows[rows.status == ""].reset_index(drop=True)


def csv_of(mine, text, name="my.csv"):
    (mine / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return mine / name


def different(i):
    "What makes a film another film of the same pictures: a part of MP4 that players pass over."
    return b"\0\0\0\x0cfree%04d" % i


FIVE = "path,caption\n" + "".join(f"films/{n}.mp4,There is {n} in it.\n" for n in NAMES)

# --- tables ---


def test_a_table_is_read_however_it_is_written(home, mine, capsys):
    """With a mark of the encoding, in any order, with other columns, by semicolons and with decimal commas, by tabs,
    with the line ends of Windows."""
    plain = read(
        csv_of(mine, "path,start,end,caption\n" + "".join(f'films/{n}.mp4,0.5,2.75,"{n}, and more"\n' for n in NAMES))
    )
    assert (
        (plain.status == "").all()
        and set(plain.start) == {0.5}
        and list(plain.caption) == [f"{n}, and more" for n in NAMES]
    )
    others = [
        "\ufeffpath,start,end,caption\r\n"
        + "".join(f'films/{n}.mp4,0.5,00:00:02.750,"{n}, and more"\r\n' for n in NAMES),
        "Caption , note,END,Path,start\n"
        + "".join(f'"{n}, and more","x, ""y""",2.75,films\\{n}.mp4,0.5\n' for n in NAMES),
    ]
    for text in others:
        assert read(csv_of(mine, text)).equals(plain)
    assert capsys.readouterr().err == "my.csv: column note is not read.\n"
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        text = "path,start,end,caption\n".replace(",", separator) + "".join(
            f"films/{n}.mp4{separator}0,5{separator}2,75{separator}{n}, and more\n" for n in NAMES
        )
        assert read(csv_of(mine, text)).equals(plain) and word in capsys.readouterr().err


def test_rows_are_numbered_as_a_spreadsheet_does(home, mine):
    "Empty lines and captions of several lines count as one row each; what is wrong is said with the row."
    rows = read(
        csv_of(
            mine,
            FIVE + '\nfilms/gone.mp4,"Two\nlines,\nor three"\n' + "films/dog.mp4,A part.,1,2,3\n" + "films/dog.mp4,\n",
            "a.csv",
        )
    )
    assert list(rows.reason[:5]) == [""] * 5 and rows.caption[5] == "Two lines, or three"
    for reason, words in zip(
        rows.reason[5:],
        (
            ("gone.mp4", "folder of the CSV", "row 8 of a.csv"),
            ("5 fields", "double quotes", "row 9 of a.csv"),
            ("no caption", "row 10 of a.csv"),
        ),
        strict=True,
    ):
        assert all(w in reason for w in words) and "\n" not in reason


POSSIBLE_TIMES = {  # of a film of seven seconds, as a table has them -> start and end of the clip
    ",": (0, 7),
    "0:02,0:03.5": (2, 3.5),
    "00:03,4": (3, 4),
    "1:30,1:31": (90, 91),
    "90:00,1:30:01.25": (5400, 5401.25),
    "1,": (1, 7),
    ",2": (0, 2),
    "0:00:01,2": (1, 2),
    "00:00:01.000,00:00:02.5": (1, 2.5),
}
IMPOSSIBLE_TIMES = {  # a part of the reason
    "3,1": "not before",
    "2,2": "not before",
    "-1,2": "no time",
    "nan,2": "no time",
    "1,inf": "no time",
    "1e9,2e9": "no time",
    "one,2": "start 'one' is no time: write seconds (90), M:SS (1:30) or H:MM:SS.mmm",
    "1:75,2": "start '1:75' is no time: write",
    "1:60,2": "start '1:60' is no time: write",
    "1:2:3:4,2": "start '1:2:3:4' is no time: write",
    "1:5,2": "start '1:5' is no time: write",
    "0,1:60:00": "end '1:60:00' is no time: write",
    "-1:30,2": "start '-1:30' is no time: write",
    "1:30,2": "start 90 is not before end 2",
    "0.5,0.6": "shorter than 0.2 s",
    "0,500": "longer than 120 s: give start and end",
}


def csv_of_times(mine, times):
    "A table with a row of the film of seven seconds for each of `times`, and three whole films after them."
    rows = [f"films/wind.mp4,Caption {i}.,{t}\n" for i, t in enumerate(times)]
    rows += [f"films/{n}.mp4,{n}.,,\n" for n in NAMES[:3]]
    return csv_of(mine, "path,caption,start,end\n" + "".join(rows))


def test_times(home, mine):
    "Without times the whole film; impossible ones are rejected, each in its words."
    rows = read(csv_of_times(mine, [*POSSIBLE_TIMES, *IMPOSSIBLE_TIMES]))
    n = len(POSSIBLE_TIMES)
    possible, impossible = rows[:n], rows[n : n + len(IMPOSSIBLE_TIMES)]
    assert (possible.status == "").all()
    assert list(zip(possible.start, possible.end, strict=True)) == list(POSSIBLE_TIMES.values())
    for times, reason in zip(IMPOSSIBLE_TIMES, impossible.reason, strict=True):
        assert IMPOSSIBLE_TIMES[times] in reason, times


def test_the_limit_of_times_can_be_moved(home, mine):
    table = csv_of_times(mine, [",", "0,500"])
    assert read(table).status[1] == "rejected"
    assert read(table, max_seconds=600.0).status[1] == ""


def test_addresses(home, mine):
    "Only http and https, and with times."
    rows = read(
        csv_of(
            mine,
            FIVE
            + "https://example.org/a.mp4,No times.\nftp://example.org/a.mp4,Another way.\n"
            + "file:///etc/passwd,A file.\nhttps://,Nowhere.\nhttp://x y/a.mp4,A gap.\n",
        )
    )
    assert (
        "start and end" in rows.reason[5]
        and all("http" in r for r in rows.reason[6:])
        and (rows.status[5:] == "rejected").all()
    )
    rows = read(
        csv_of(
            mine,
            "url,path,caption,start,end,source\n"
            + "".join(f"https://example.org/v?id={i},,Caption {i}.,0,2,{'walk' if i < 2 else ''}\n" for i in range(4))
            + "https://example.org/,films/dog.mp4,Both.,0,1,\n,,Neither.,0,1,\n",
        )
    )
    assert (
        rows.address[0] == "https://example.org/v?id=0"
        and list(rows.youtube_id[:2]) == ["walk"] * 2
        and rows.youtube_id[2] != rows.youtube_id[3]
    )
    assert "both a path and a url" in rows.reason[4] and "neither a path nor a url" in rows.reason[5]


MISTAKES = {
    "missing caption": (
        "path,description\nfilms/dog.mp4,A dog.\n",
        "no column caption",
        "'path, description'",
        "rename description to caption",
    ),
    "missing path": ("film,caption\nfilms/dog.mp4,A dog.\n", "no column path or url"),
    "two paths": ("video,file,caption\na.mp4,b.mp4,A dog.\n", "no column path or url", "rename video or file to path"),
    "no header": ("films/dog.mp4,A dog.\n", "no column caption and no column path"),
    "empty": ("", "empty", "path,caption"),
    "blank": (" \n\n", "empty"),
    "only header": ("path,caption\n", "nothing below"),
    "twice a column": ("path,caption,Caption\na,b,c\n", "two columns called caption"),
    "workbook": (b"PK\x03\x04" + bytes(100), "workbook", "CSV UTF-8"),
    "old workbook": (b"\xd0\xcf\x11\xe0" + bytes(100), "workbook"),
    "utf-16": (FIVE.encode("utf-16"), "UTF-8"),
    "latin-1": (FIVE.replace("dog in", "Hündchen in").encode("latin-1"), "UTF-8", "line 2"),
    "open quote": ('path,caption\nfilms/dog.mp4,"A dog\n', "cannot be read as CSV", "quotes"),
    "no captions": (
        "path,caption\n" + "".join(f"films/{n}.mp4, \n" for n in NAMES),
        "None of the 5 clips",
        "no caption",
        "row 2 of my.csv",
    ),
    "no files": (FIVE.replace("films/", "filme/"), "None of the 5", "filme/dog.mp4", "folder of the CSV", "row 2"),
    "three clips": ("\n".join(FIVE.splitlines()[:4]), "3 good clips of 3 sources", "at least 4 clips of 3 sources"),
    "two sources": (
        "path,caption,source\n" + "".join(f"films/{n}.mp4,{n}.,{'ab'[i % 2]}\n" for i, n in enumerate(NAMES)),
        "5 good clips of 2 sources",
        "column source",
    ),
    "few and bad": (
        "\n".join(FIVE.splitlines()[:3]) + "\nfilms/x.mp4,X.\n",
        "2 good clips",
        "the first: there is no file",
        "row 4",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_table(home, mine, name):
    "One sentence each, that names the file and says what to do; nothing is registered."
    text, *words = MISTAKES[name]
    with pytest.raises(UserError) as e:
        register_own(csv_of(mine, text), like="smoke")
    assert (
        all(w in str(e.value) for w in words)
        and "my.csv" in str(e.value)
        and "\n" not in str(e.value)
        and len(str(e.value)) < 500
    ), str(e.value)
    assert not (home / "data_manifest").exists()


TIMES = {  # columns beside path and caption -> what is to be done with them
    "start_time,end_time": "rename 'start_time' to start and rename 'end_time' to end",
    "begin,stop": "rename 'begin' to start and rename 'stop' to end",
    "From,To": "rename 'from' to start and rename 'to' to end",
    "start (s),end (s)": "rename 'start (s)' to start and rename 'end (s)' to end",
    "StartSec,EndSec": "rename 'startsec' to start and rename 'endsec' to end",
    "start,end_time": "rename 'end_time' to end",
    "start,duration": "give end instead of 'duration'",
    "in_point,out_point": "rename 'in_point' to start and rename 'out_point' to end",
    "offset,id": "give start and end instead of 'offset'",
    "timestamps,id": "give start and end instead of 'timestamps'",
}


@pytest.mark.parametrize("columns", TIMES)
def test_times_in_columns_of_other_names_are_refused(home, mine, columns):
    "Else whole films would be clips, and captions would stand for other seconds."
    table = csv_of(mine, f"path,caption,{columns}\n" + "".join(f"films/{n}.mp4,{n}.,1,2\n" for n in NAMES))
    with pytest.raises(
        UserError, match=f"my.csv has times in columns that are not read: {re.escape(TIMES[columns])}, "
    ):
        read(table)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("path,caption,note,id", "columns note and id are not read"),
        ("path,caption,start,start_time", "column start_time is not read"),
        ("path,caption,,duration", "columns 3 (without a name) and duration are not read"),
        (
            "video,text,caption2,id",
            "video is read as path; text is read as caption; columns caption2 and id are not read",
        ),
        ("FileName,Text,start,source", "filename is read as path; text is read as caption"),
        ("file,caption,start,text", "file is read as path; column text is not read"),
        ("path,caption,start,source", ""),
    ],
)
def test_which_columns_are_read_is_told(home, mine, capsys, header, told):
    "Every one that is not read by its name, once; what is read under another name is read as if it had its own."
    rows = read(csv_of(mine, f"{header}\n" + "".join(f"films/{n}.mp4,There is {n}.,0,{n}\n" for n in NAMES)))
    assert list(rows.caption) == [f"There is {n}." for n in NAMES] and (rows.status == "").all()
    assert [Path(address).stem for address in rows.address] == NAMES
    assert capsys.readouterr().err == (f"my.csv: {told}.\n" if told else "")


def test_twice_the_same(home, mine):
    shutil.copy(mine / "films" / "dog.mp4", mine / "films" / "copy.mp4")
    again = "films/dog.mp4,There is dog in it.\n./films/../films/dog.mp4,There is  dog in it.\n"
    rows = read(csv_of(mine, FIVE + again + "films/copy.mp4,There is dog in it.\n"))
    assert list(rows.reason[5:]) == [
        "the same clip again (the first: row 2 of my.csv; row 7 of my.csv)",
        "the same clip again (the first: row 2 of my.csv; row 8 of my.csv)",
        "the same clip again, under another name (the same film as films/dog.mp4, row 2 of my.csv; row 9 of my.csv)",
    ]


def test_of_several_captions_of_a_clip_the_first_is_kept(home, mine):
    "As data sets of many captions have them: each other one is told by its row; another span is another clip."
    more = "films/rain.mp4,Another.,,\nfilms/rain.mp4,A third.,,\nfilms/rain.mp4,Its end.,1,\n"
    rows = read(csv_of(mine, FIVE.replace("caption\n", "caption,start,end\n").replace(".\n", ".,,\n") + more))
    assert list(good(rows).caption) == [f"There is {n} in it." for n in NAMES] + ["Its end."]
    assert list(rows.reason[5:7]) == [
        "another caption of the same clip, which keeps its first: give it another start and end, or leave it out "
        f"(the first: row 4 of my.csv; row {n} of my.csv)"
        for n in (7, 8)
    ]


NO_VIDEOS = {  # what lies under a video's name -> a part of the reason
    b"": "it is empty: fetch it again or leave it out",
    b"<!doctype html><p>Sign in": "it is a web page, not a video: fetch the film itself, for example with yt-dlp",
    b"#EXTM3U\n#EXTINF:4,\nfilm.ts\n": "it is a playlist, not a video: fetch the film itself, for example with yt-dlp",
    b"no video": "it cannot be opened as video: convert it to MP4, fetch it again or leave it out",
    "half": "it breaks off before its end: fetch it again or leave it out",
    "sound": "it has no picture in it: leave it out",
}


@pytest.mark.parametrize("kind", ["folder", "tar", "table", "table with times"])
def test_what_is_no_video_is_told_alike_wherever_it_is(home, mine, kind):
    "Each fault by its own name, which is that of `read_clip`; what a build finds later has the same words."
    films = mine / "films"
    for n in NAMES:
        (films / f"{n}.txt").write_text(f"There is {n}.")
    for i, content in enumerate(NO_VIDEOS):
        (films / f"bad{i}.mp4").write_bytes(content if isinstance(content, bytes) else b"")
        (films / f"bad{i}.txt").write_text(f"Bad {i}.")
    (films / "bad4.mp4").write_bytes((films / "wind.mp4").read_bytes()[:-2000])
    sound = ffmpeg.input("sine=d=2", f="lavfi").output(str(films / "bad5.mp4"), acodec="aac")
    sound.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg(), overwrite_output=True)
    bad = [f"bad{i}" for i in range(len(NO_VIDEOS))]
    times = ",0,2" if kind == "table with times" else ",,"
    text = "path,caption,start,end\n" + "".join(f"films/{n}.mp4,{n}.{times}\n" for n in NAMES + bad)
    place = {"folder": films, "tar": mine / "my.tar"}.get(kind) or csv_of(mine, text)
    if kind == "tar":
        tar_of(place, *pairs(films), *pairs(films, bad))
    if kind == "table with times":
        reasons = build_dataset(register_own(place, like="smoke"), progress=False).reason.dropna()
    else:
        reasons = read(place).reason
    for i, said in enumerate(NO_VIDEOS.values()):
        assert sum(reason.startswith(said) for reason in reasons) == 1, said
        with pytest.raises(UserError) as e:
            read_clip(films / f"bad{i}.mp4")
        assert said.removeprefix("it ").replace(": ", "; ") in str(e.value)


# --- folders ---


def test_folder(home, mine):
    """Captions beside the films, in folders too; hidden files are not looked at; what is wrong with one is said of
    that one."""
    films, deep = mine / "films", mine / "films" / "deep er"
    deep.mkdir()
    for n in NAMES:
        (films / f"{n}.txt").write_text(f"\ufeffThere is\n {n} in it.\n")
    (films / "dog.txt").unlink()
    (films / "dog.json").write_text(
        json.dumps(dict(caption="A dog.", start=1, end="00:00:02.500", source="walk", more=[1]))
    )
    names = ("Zürich 1.mkv", "bad.mp4", "list.mp4", "bare.mp4", "long.mp4", "bytes.mp4", ".hidden.mp4", "-o.mp4")
    for i, name in enumerate(names):
        (deep / name).write_bytes((films / "rain.mp4").read_bytes() + different(i))
    (deep / "broken.mp4").write_bytes(b"no video")
    for name, content in {
        "Zürich 1.json": b'{"caption": "A town."}',
        "bad.json": b"{",
        "list.json": b'["A dog."]',
        "long.txt": b"x" * 2**21,
        "bytes.txt": b"\xff\xfe",
        "broken.txt": b"Broken.",
        "-o.txt": b"An option.",
        ".hidden.txt": b"Hidden.",
    }.items():
        (deep / name).write_bytes(content)
    rows = read(films).set_index("caption", drop=False)
    assert (
        len(rows) == 13
        and rows.loc["A dog.", ["start", "end", "youtube_id"]].tolist() == [1.0, 2.5, "walk"]
        and rows.status["A town."] == rows.status["An option."] == rows.status["There is boat in it."] == ""
    )
    reasons = " ".join(rows.reason)
    for words in (
        "not JSON in UTF-8: write it again (bad.json; deep er/bad.mp4)",
        '{"caption": "..."} (deep er/list.mp4)',
        "put bare.txt or bare.json beside it (deep er/bare.mp4)",
        "too long for a caption (deep er/long.mp4)",
        "not text in UTF-8: save it again as UTF-8 (bytes.txt, line 1; deep er/bytes.mp4)",
        "it cannot be opened as video: convert it to MP4, fetch it again or leave it out (deep er/broken.mp4)",
    ):
        assert words in reasons, words


def test_mistakes_in_a_folder(home, mine):
    films = mine / "films"
    with pytest.raises(UserError, match="None of the 5 clips of films.*put boat.txt or boat.json beside it"):
        read(films)
    for n in NAMES:
        (films / f"{n}.txt").write_text(n)
    (films / "dog.json").write_text('{"caption": "A cat."}')
    rows = read(films)
    assert list(good(rows).caption) == sorted(set(NAMES) - {"dog"})
    (told,) = rows.reason[rows.status != ""]
    assert told == "it has two captions, one in its txt and another in its json: delete one of them (dog.mp4)"
    (films / "dog.json").write_text('{"caption": "dog"}')
    shutil.copy(films / "dog.mp4", films / "dog.mkv")
    with pytest.raises(UserError, match="2 videos called dog"):
        read(films)
    (mine / "empty").mkdir()
    with pytest.raises(UserError, match="holds no videos"):
        read(mine / "empty")
    with pytest.raises(UserError, match="nothing at .*shards/\\*.tar"):
        read(mine / "nothing")


# --- names ---


def test_what_a_rejected_row_is_of_stands_in_its_address(home, mine):
    "The path of the file, also where nothing of it could be read; a name that is no text is left out."
    films = mine / "films"
    for n in NAMES:
        (films / f"{n}.txt").write_text(f"There is {n}.")
    for i, name in enumerate(("bare.mp4", "odd.film", "bell\a.mp4")):
        (films / name).write_bytes((films / "rain.mp4").read_bytes() + different(i))
    (films / "lonely.txt").write_text("A caption.")
    (films / "snow.mp4").write_bytes(b"no video")
    rows = read(films)
    told = {"bare.mp4", "odd.film", "lonely.txt", "snow.mp4"}
    assert set(rows.address[rows.status != ""]) == {str(films / name) for name in told} | {""}
    (films / "snow.mp4").write_bytes((films / "rain.mp4").read_bytes() + different(9))
    gone = read(csv_of(mine, FIVE.replace("dog.mp4", "gone.mp4") + "films/lonely.mp4,A.\n"))
    assert list(gone.address[gone.status != ""]) == [str(films / f"{n}.mp4") for n in ("gone", "lonely")]


def test_names_stay_when_the_folder_moves(home, mine, tmp_path):
    "They are of plain letters, short, and different for different clips."
    odd = [
        "ü.mp4",
        "u.mp4",
        "../dog.mp4",
        "a b.mp4",
        "a_b.mp4",
        "-rf.mp4",
        "$(x);y.mp4",
        "x" * 200 + ".mp4",
        "x" * 199 + "y.mp4",
        "犬.mp4",
        "猫.mp4",
    ]
    dog = (mine / "films" / "dog.mp4").read_bytes()
    for i, name in enumerate(odd):
        (mine / "films" / name).write_bytes(dog + different(i))
    rows = read(csv_of(mine, "caption,path\n" + "".join(f"Caption {i}.,films/{name}\n" for i, name in enumerate(odd))))
    assert (rows.status == "").all() and not rows.clip_id.duplicated().any() and not rows.youtube_id.duplicated().any()
    assert (
        rows.clip_id.str.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,98}").all()
        and rows.youtube_id.str.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}").all()
    )
    shutil.move(mine, tmp_path / "elsewhere")
    assert read(tmp_path / "elsewhere" / "my.csv")[["clip_id", "youtube_id"]].equals(rows[["clip_id", "youtube_id"]])


# --- tars ---


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for k, v in fields.items():
        setattr(info, k, v)
    return info, io.BytesIO(content)


def tar_of(path, *members):
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, content)
    return path


def pairs(films, names=NAMES, prefix=""):
    return [
        m
        for n in names
        for m in (
            member(f"{prefix}{n}.mp4", (films / f"{n}.mp4").read_bytes()),
            member(f"{prefix}{n}.txt", f"There is {n}.".encode()),
        )
    ]


def everything(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


LEADING_OUT = ("../../../secret2", "/tmp/absolute", "a/../../b", "c\\..\\d", "line\nbreak", "no\udcfftext")


def links(target):
    "Names that are links or a device -> the fields of such a member; one leads to `target`."
    return {
        "link": dict(type=tarfile.SYMTYPE, linkname=str(target), size=0),
        "hard": dict(type=tarfile.LNKTYPE, linkname="dog.mp4", size=0),
        "device": dict(type=tarfile.CHRTYPE, size=0),
    }


def hostile_samples(video, target):
    "Names that lead out or are no text, links and devices, each with a caption."
    fields_of = dict.fromkeys(LEADING_OUT, {}) | links(target)
    for name, fields in fields_of.items():
        yield member(f"{name}.mp4", video, **fields)
        yield member(f"{name}.txt", b"A caption.")


def unusable_samples(video):
    "A caption that is too long, two videos of one caption, a video without one, and what is no sample."
    return [
        *(member("talk.mp4", video), member("talk.txt", b"x" * 2**21)),
        *(member("twice.v1.mp4", video), member("twice.v2.mp4", video), member("twice.txt", b"A caption.")),
        member("mute.mp4", video),
        *(member("words.txt", b"A caption."), member("folder", type=tarfile.DIRTYPE), member("._dog.mp4", b"mac")),
    ]


@pytest.fixture
def hostile_tar(films, tmp_path):
    "A tar of what may not be unpacked, with good samples at its end; one link in it leads to secret.mp4 beside it."
    video = (films / "dog.mp4").read_bytes()
    (tmp_path / "secret.mp4").write_bytes(video)
    hostile = hostile_samples(video, tmp_path / "secret.mp4")
    return tar_of(tmp_path / "hostile.tar", *hostile, *unusable_samples(video), *pairs(films, prefix="./sub/"))


def test_the_good_samples_of_a_hostile_tar_are_taken(home, hostile_tar):
    assert sorted(good(read(hostile_tar)).caption) == sorted(f"There is {n}." for n in NAMES)


def test_the_bad_samples_of_a_hostile_tar_are_told(home, hostile_tar):
    "One by one, in words that a terminal can show."
    rows = read(hostile_tar)
    reasons = list(rows.reason[rows.status != ""])
    assert len(reasons) == len(LEADING_OUT) + 3 + 4  # links, unusable samples
    assert len(rows) == len(NAMES) + len(reasons)
    assert all("hostile.tar" in r and r.isprintable() for r in reasons)
    assert sum("no path below" in r for r in reasons) == len(LEADING_OUT) == 6
    assert sum("not followed" in r for r in reasons) == 3
    for words in ("too long", "two videos", "no caption", "without a video"):
        assert any(words in r for r in reasons), words


def test_nothing_of_a_hostile_tar_is_written_elsewhere(home, hostile_tar, tmp_path):
    before = everything(tmp_path)
    rows = read(hostile_tar)
    assert {p.split("/")[0] for p in everything(tmp_path) - before} == {"home"}
    folder = data_dir(get_profile("smoke")).parent / "try" / "unpacked"
    assert len([p for p in folder.iterdir() if p.suffix == ".mp4"]) == 5
    assert not any(p.is_symlink() for p in folder.iterdir())
    assert all(Path(a).parent == folder and len(Path(a).stem) == 32 for a in good(rows).address)


def test_a_tar_is_unpacked_once(home, films, tmp_path):
    "What was unpacked is not unpacked again; a changed tar is; a torn unpacking leaves nothing that passes for whole."
    tar = tar_of(tmp_path / "my.tar", *pairs(films))

    def torn(opened, key, *rest):
        if key == "rain":
            raise KeyboardInterrupt
        return unpack_sample(opened, key, *rest)

    with pytest.raises(KeyboardInterrupt):
        read(tar, unpack=torn)
    rows = read(tar)
    assert (rows.status == "").all() and [p for p in everything(home) if "partial" in p] == []
    assert read(tar, unpack=None).equals(rows)
    Path(rows.address[0]).unlink()
    assert read(tar).equals(rows) and Path(rows.address[0]).is_file()
    tar_of(tar, *pairs(films, NAMES[:4]))
    assert len(read(tar)) == 4


def test_shards(home, films, tmp_path):
    "A folder or a pattern of tars; what two of them call by one name are two clips; ids do not depend on the sharding."
    whole = read(tar_of(tmp_path / "whole.tar", *pairs(films)))
    (tmp_path / "shards").mkdir()
    for i, names in enumerate((NAMES[:2], NAMES[2:])):
        tar_of(tmp_path / "shards" / f"s-{i:06}.tar", *pairs(films, names))
    for place in (tmp_path / "shards", tmp_path / "shards" / "s-*.tar"):
        assert set(read(place).clip_id) == set(whole.clip_id)
    others = tmp_path / "others"
    others.mkdir()
    for i, n in enumerate(NAMES):
        (others / f"{n}.mp4").write_bytes((films / f"{n}.mp4").read_bytes() + different(i))
    for i, folder in enumerate((films, others)):
        tar_of(tmp_path / "shards" / f"s-{i:06}.tar", *pairs(folder, NAMES[i : i + 3]))
    rows = read(tmp_path / "shards")
    assert (
        (rows.status == "").all()
        and len(rows) == 6
        and not rows.clip_id.duplicated().any()
        and not rows.address.duplicated().any()
    )


def test_tars_that_are_none(home, films, tmp_path):
    whole = tar_of(tmp_path / "whole.tar", *pairs(films)).read_bytes()
    for name, content, words in (
        ("torn.tar", whole[: len(whole) // 2], "damaged"),
        ("text.tar", b"text" * 1000, "damaged"),
        ("none.tar", b"", "damaged"),
        ("x.tar.gz", b"\x1f\x8b", "compressed"),
        ("x.zip", b"PK\x03\x04", "compressed"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            read(tmp_path / name)
    with pytest.raises(UserError, match="no video with a caption"):
        read(tar_of(tmp_path / "captions.tar", member("a.txt", b"A.")))


def test_tars_of_webdataset(home, films, tmp_path):
    "As its own writer makes them."
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "wds.tar")) as sink:
        for i, n in enumerate(NAMES):
            sink.write(
                {
                    "__key__": f"{i:06}",
                    "mp4": (films / f"{n}.mp4").read_bytes(),
                    "json": dict(caption=f"There is {n}.", source="walk" if i < 2 else None),
                }
            )
    rows = read(tmp_path / "wds.tar")
    assert (
        (rows.status == "").all()
        and list(rows.caption) == [f"There is {n}." for n in NAMES]
        and list(rows.end) == [3, 4, 5, 6, 7]
        and rows.youtube_id.nunique() == 4
    )


# --- profiles ---


def test_registering(home, mine):
    "The same place again goes on, another is refused, and the number of clips follows the table."
    P = register_own(csv_of(mine, FIVE), like="smoke", k=4)
    assert (
        get_profile("my") == P
        and (P.source, P.n_clips, P.n_pool, P.k, P.name) == ("own", 5, 0, 4, "my")
        and P.epochs_first == 1
    )
    csv_of(mine, FIVE + "films/dog.mp4,Another.\n")
    assert register_own(mine / "my.csv", like="smoke").n_clips == 5
    csv_of(mine, "\n".join(FIVE.splitlines()[:5]))
    assert (
        register_own(mine / "my.csv", like="smoke").n_clips == 4
        and get_profile("my").k == 8
        and register_own(mine / "my.csv", like="smoke", n_clips=4, k=2).k == 2
    )
    for n in NAMES:
        (mine / "films" / f"{n}.txt").write_text(n)
    with pytest.raises(UserError, match="taken by .*my.csv"):
        register_own(mine / "films", "my", "smoke")
    with pytest.raises(UserError, match="comes with the package"):
        register_own(mine / "films", "mini", "smoke")
    with pytest.raises(UserError, match="Unknown profile field 'kk'"):
        register_own(mine / "films", "other", "smoke", kk=3)
    with pytest.raises(UserError, match="Unknown profile 'maxi'"):
        register_own(mine / "films", "other", "maxi")
    assert register_own(mine / "films", like="smoke").name == "films" and sorted(
        p.name for p in (home / "data_manifest").iterdir()
    ) == ["films", "my"]


# --- from the command line to the model ---


@pytest.fixture
def command(home, root, monkeypatch, capsys):
    "Run frames-matter in this process, in a home whose notebooks are the checkout's."
    home.mkdir(parents=True)
    (home / "nbs").symlink_to(root / "nbs")
    monkeypatch.setenv("PYTHONPATH", str(root))  # of the kernels

    def run(*words):
        code = run_command([str(w) for w in words])
        return code, *capsys.readouterr()

    return run


PRIVATE = ("-o", "private_addresses=true")  # the site is of this machine


def build_of_disk_and_site(command, mine, url):
    "What is printed by a build of films of this disk and of a site; three of eleven rows are bad."
    rows = [
        *(f"films/{n}.mp4,There is {n} in it.,,," for n in NAMES),
        *(f"{url}/wind.mp4,Part {i} of it.,{i},{i + 1.5},walk" for i in range(3)),
        f"{url}/gone.mp4,Nothing.,0,2,",
        "films/snow.mp4,Too late.,5,20,",
        "films/cat.mp4,A cat.,,,",
    ]
    table = csv_of(mine, "path,caption,start,end,source\n" + "\n".join(rows))
    code, out, err = command("dataset", "build", "--from", table, "--like", "smoke", "--engine", "threads", *PRIVATE)
    assert code == 0, err
    return out


@pytest.fixture
def built(command, mine, films):
    "What a build of films of this disk and of a site printed; the site is there no more."
    with serve_folder(films) as url:
        return build_of_disk_and_site(command, mine, url)


def test_what_a_build_prints_and_shows(built, home):
    assert built.startswith("8 clips kept of 11 rows tried: ")
    for words in ("3 rejected:", "(row 12 of my.csv)", "404", "reproduce --data my"):
        assert words in built
    assert (home / "results" / "my" / "figures" / "dataset.png").is_file()


def test_films_of_disk_and_site_become_clips(built, command):
    "With splits that part no source; what was built is in order, and a model can be fed with it."
    P, manifest = get_profile("my"), load_manifest(get_profile("my"))
    assert (P.source, P.engine, P.n_clips) == ("own", "threads", 10)
    assert set(manifest.split) == {"train", "alignment", "test"}
    assert manifest.groupby("youtube_id").split.nunique().max() == 1
    assert (manifest.youtube_id == "walk").sum() == 3
    item = VideoCaptionDataset(P, "train", k=P.k, size=P.image_size)[0]
    assert tuple(item["video"].shape) == (8, 3, 64, 64)
    assert item["caption"] in set(manifest.caption)
    assert command("dataset", "verify", "-p", "my")[0] == 0
    assert command("dataset", "select", "-p", "my")[0] == 0


def test_what_was_fetched_is_not_fetched_again(command, mine, films):
    asked = []
    with serve_folder(films, requests=asked) as url:
        build_of_disk_and_site(command, mine, url)
        first = asked.copy()
        assert command("dataset", "build", "--from", mine / "my.csv", "--like", "smoke")[0] == 0
    assert 1 <= first.count(("GET", "/wind.mp4")) <= 2  # yt-dlp looks first, then fetches
    assert not any("wind" in path for _, path in asked[len(first) :])


def test_a_name_that_is_taken_by_another_place(built, command, films):
    code, _, err = command("dataset", "build", "--from", films, "--name", "my")
    assert code == 2
    assert "taken by" in err
    assert err.count("\n") == 1


def test_a_rebuild_tells_what_has_rotted(built, command, home):
    published = home / "data_manifest" / "my" / "clips.csv"
    code, out, _ = command("dataset", "build", "--from-manifest", published, "--like", "smoke", "-o", "patience=1")
    assert code == 1
    assert "3 have rotted" in out  # the films that were served
    assert "my-again/rotted.csv" in out


def test_a_summary_names_the_list_of_what_it_groups(built, home, command, mine, monkeypatch):
    "From where the user is; where every row is told, nothing is added."
    assert "clips.csv" not in built
    monkeypatch.chdir(home)
    two = csv_of(mine, FIVE + "films/gone.mp4,A.\nfilms/gone2.mp4,B.\nfilms/dog.mp4,Another.\nfilms/boat.mp4,C.\n")
    _, out, _ = command("dataset", "build", "--from", two, "--name", "two", "--like", "smoke")
    assert "Each of them with its reason: data_manifest/two/clips.csv\n" in out
    manifest = read_manifest(Path("data_manifest/two/clips.csv"))
    assert list(manifest.address[manifest.status == "rejected"])[:2] == [
        str(mine / "films" / name) for name in ("gone.mp4", "gone2.mp4")
    ]


def test_what_is_removed_from_the_folder_of_clips_is_told(command, mine, home):
    table = csv_of(mine, FIVE)
    assert command("dataset", "build", "--from", table, "--name", "five", "--like", "smoke")[0] == 0
    folder = home / "data" / "five" / "clips"
    for name in ("stray.mp4", "aside.mp4"):
        (folder / name).write_bytes(b"mine")
    with open(table, "a") as f:
        f.write("films/dog.mp4,Another.\n")
    code, _, err = command("dataset", "build", "--from", table, "--name", "five", "--like", "smoke")
    assert code == 0 and len(list(folder.iterdir())) == 5
    assert "Removed from data/five/clips 2 files that are no clips of this build, the first: aside.mp4.\n" in err


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "ROWS.JSON", "rows.csv", "rows.txt", "rows.parquet"])
def test_tables_of_other_kinds_are_refused_by_their_names(home, mine, name):
    "By their ending, or by how they begin."
    kind = "parquet" if name.endswith("parquet") else "JSON"
    content = {"parquet": "PAR1", "JSON": '{"path": "films/dog.mp4", "caption": "A dog."}\n'}
    table = csv_of(mine, content[kind], name)
    with pytest.raises(UserError, match=f"{name} is a table in {kind}, which is not read .* CSV with the columns path"):
        read(table)


def test_an_export_for_datasets_is_refused_by_its_name(home, built, command, mine):
    "As a whole and one split of it; a list of clips that is given as a manifest as well."
    folder = home / "folder"
    assert command("dataset", "export", "-p", "my", "--to", folder, "--format", "datasets")[0] == 0
    for place in (folder, folder / "train"):
        code, _, err = command("dataset", "build", "--from", place, "--name", "back", "--like", "smoke")
        assert code == 2 and "is an export of the format datasets" in err and "dataset export -p NAME" in err
    for text in (FIVE, FIVE.replace("path,caption", "video,text"), FIVE.replace(",", ";")):
        code, _, err = command("dataset", "build", "--from-manifest", csv_of(mine, text, "list.csv"))
        assert code == 2 and "list.csv is a list of clips, not a manifest" in err and "--from." in err


def test_what_is_exported_can_be_built(built, command, home):
    assert command("dataset", "export", "-p", "my", "--to", home / "tars")[0] == 0
    assert command("dataset", "build", "--from", home / "tars", "--name", "back", "--like", "smoke")[0] == 0
    exported, back = (load_manifest(get_profile(name)) for name in ("my", "back"))
    assert sorted(back.caption) == sorted(exported.caption)


def test_originals_moved_away(command, home, mine):
    """What was made of films that are gone is kept: lessons go on with it, and a build says what would be lost; a
    clip damaged at its size is made again."""
    table = csv_of(
        mine,
        "path,caption\n"
        + "\n".join([f"films/{n}.mp4,There is {n} in it." for n in NAMES] + ["films/none.mp4,It was never there."]),
    )
    code, out, err = command("dataset", "build", "--from", table, "--like", "smoke")
    assert code == 0 and out.startswith("5 clips kept of 6 rows tried") and "there is no file 'films/none.mp4'" in out
    P, clip = get_profile("my"), Path(load_manifest(get_profile("my")).path[0])
    whole = clip.read_bytes()
    clip.write_bytes(whole[:1000] + bytes(100) + whole[1100:])
    assert command("dataset", "verify", "-p", "my")[0] == 2
    assert (
        command("dataset", "build", "-p", "my")[0] == 0
        and clip.read_bytes() == whole
        and command("dataset", "verify", "-p", "my")[0] == 0
    )
    manifest = (home / "data_manifest" / "my" / "clips.csv").read_bytes()
    (mine / "films" / "dog.mp4").rename(mine / "dog.mp4")
    assert (build_dataset(P, progress=False).status == "kept").sum() == 5 and command("dataset", "verify", "-p", "my")[
        0
    ] == 0
    code, out, err = command("dataset", "build", "-p", "my")
    assert code == 2 and "(row 2 of my.csv)" in err and "put the files back" in err and err.count("\n") == 1
    assert clip.read_bytes() == whole and (home / "data_manifest" / "my" / "clips.csv").read_bytes() == manifest
    table.write_text(table.read_text().replace("films/dog.mp4", "dog.mp4"))
    assert command("dataset", "build", "-p", "my")[0] == 0 and command("dataset", "verify", "-p", "my")[0] == 0


def test_lessons_of_a_handful(command, home, mine):
    "The lessons that train nothing, and the last, which compares, on five clips of which one is held out for testing."
    for n in NAMES:
        (mine / "films" / f"{n}.txt").write_text(f"There is {n} in it.")
    assert command("dataset", "build", "--from", mine / "films", "--like", "smoke", "--name", "few")[0] == 0
    lessons = lesson_paths()
    assert len(run_lessons("few", notebooks=[*lessons[:2], lessons[-1]], progress=False)) == 3
    code, out, err = command("report", "-p", "few")
    assert (
        code == 0
        and "in results/few/README.md" in out
        and "model,published" not in (home / "results" / "few" / "tables" / "alignment.csv").read_text()
        and "reader's own clips" in (home / "results" / "few" / "tables" / "alignment.md").read_text()
    ), err
