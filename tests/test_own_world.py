"Clips of one's own as the world has them: every file taken or told, one film one source, text of any kind."

import json
import os
import shutil
import subprocess
import sys
import tarfile

import ffmpeg
import pandas as pd
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import Profile, draft, get_profile
from frames_matter.base.text import visible
from frames_matter.cli import run_command
from frames_matter.data.candidates import choose_candidates
from frames_matter.data.export import exported_rows
from frames_matter.data.json_lines import json_lines
from frames_matter.data.manifest import load_manifest, verify
from frames_matter.data.own import OWN, own_rows
from frames_matter.data.own_splits import join_by_content, video_of_url
from frames_matter.data.published import published_rows

N = 6


def different(i):
    "What makes a film another film of the same pictures: a part of MP4 that players pass over."
    return b"\0\0\0\x0cfree%04d" % i


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "A film of two seconds."
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    picture = ffmpeg.input("testsrc2=s=64x48:r=8:d=2", f="lavfi").output(
        str(path), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", threads=1
    )
    picture.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())
    return path


@pytest.fixture
def films(film, tmp_path, monkeypatch):
    "A folder of six films that differ, each with its caption, and a home beside it."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "home"))
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(N):
        (folder / f"film{i}.mp4").write_bytes(film.read_bytes() + different(i))
        (folder / f"film{i}.txt").write_text(f"Film {i}.")
    return folder


def read(path, **fields):
    return own_rows(draft("try", "smoke", **OWN | dict(rows=str(path)) | fields))


def csv_of(folder, text, name="my.csv"):
    (folder.parent / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder.parent / name


def tar_of(folder, path):
    with tarfile.open(path, "w") as tar:
        for p in sorted(folder.iterdir()):
            tar.add(p, p.name)
    return path


def good(rows):
    return rows[rows.status == ""]


def reason_of(rows, name):
    (found,) = [reason for reason in rows.reason if reason.endswith((f"({name})", f"({name} in my.tar)"))]
    return found


PLAIN = "".join(f"films/film{i}.mp4,Film {i}.\n" for i in range(N))

# --- nothing silent ---


@pytest.mark.parametrize("ending", ["mpg", "wmv", "ts", "MTS", "m2ts", "flv", "3gp", "ogv", "vob", "mxf", "gif"])
def test_films_of_other_endings_are_rows(films, ending):
    "In a folder and in a tar; what is in them is asked of ffmpeg, not of the name."
    (films / "film0.mp4").rename(films / f"film0.{ending}")
    for place in (films, tar_of(films, films.parent / "my.tar")):
        rows = read(place)
        assert len(rows) == N and (rows.status == "").all()
        assert sorted(rows.caption) == [f"Film {i}." for i in range(N)]


@pytest.mark.parametrize("is_tar", [False, True])
def test_every_file_that_could_be_meant_is_told(films, is_tar):
    "A film without a caption, a caption without a film, endings that nobody listed, subtitles, archives."
    film = (films / "film0.mp4").read_bytes()
    contents = {
        "bare.mp4": film + different(20),
        "lonely.txt": b"A caption.",
        "lonely2.json": b'{"caption": "A caption."}',
        "odd.film": film,
        "named.bin": b"no video",
        "named.txt": b"A caption.",
        "more.srt": b"1\n",
        "more.zip": b"PK",
        "photo.jpg": b"\xff\xd8\xff",
        "noending": film,
    }
    for name, content in contents.items():
        (films / name).write_bytes(content)
    rows = read(tar_of(films, films.parent / "my.tar") if is_tar else films)
    assert len(good(rows)) == N
    said = " ".join(rows.reason)
    assert "no caption: put" in said and said.count("a caption without a video of its name") == 2
    assert said.count("is none of a video") == 2 and said.count("it has no ending") == 1
    assert ("subtitles are not read" in said or is_tar) and "photo" not in said
    if not is_tar:
        assert "unpack it" in reason_of(rows, "more.zip") and "'.film'" in reason_of(rows, "odd.film")
        assert "write a .txt" in reason_of(rows, "more.srt") and "such as .mp4" in reason_of(rows, "noending")


def test_links_hidden_files_and_tars_among_films(films, capsys):
    "Links to folders and nowhere, hidden films, tars beside films and archives beside tars are told."
    (films.parent / "more").mkdir()
    (films / "more").symlink_to(films.parent / "more")
    (films / "gone.mp4").symlink_to(films.parent / "nothing.mp4")
    shutil.copy(films / "film0.mp4", films / ".hidden.mp4")
    (films / "._film0.mp4").write_bytes(b"mac")
    tar_of(films.parent / "more", films / "shard.tar")
    rows = read(films)
    assert len(good(rows)) == N and "1 hidden file is not looked at" in capsys.readouterr().err
    assert "give that folder by itself" in reason_of(rows, "more") and "nowhere" in reason_of(rows, "gone.mp4")
    assert "give a tar by itself" in reason_of(rows, "shard.tar")
    shards = films.parent / "shards"
    shards.mkdir()
    (films / "shard.tar").unlink()
    tar_of(films, shards / "a.tar")
    (shards / "b.tar.gz").write_bytes(b"\x1f\x8b")
    (shards / "export.json").write_text("{}")
    for place in (shards, shards / "*"):
        rows = read(place)
        assert len(good(rows)) == N and "unpack it" in reason_of(rows, "b.tar.gz")


def test_captions_beside_a_film_however_they_are_called(films):
    "Capital endings, the film's whole name, .cap; two of a kind are one too many."
    for i, name in enumerate(("film0.TXT", "film1.mp4.txt", "film2.cap", "film3.Json")):
        (films / f"film{i}.txt").unlink()
        (films / name).write_text('{"caption": "Film 3."}' if i == 3 else f"Film {i}.")
    assert list(read(films).caption) == [f"Film {i}." for i in range(N)]
    (films / "film1.txt").write_text("Film 1.")
    assert "two files of the same kind" in reason_of(read(films), "film1.mp4")


def test_sidecars_do_not_follow_links_out(films):
    "A caption that is a link to a file elsewhere is not read; one that stays in the folder is."
    secret = films.parent / "secret.txt"
    secret.write_text("Nobody's business.")
    (films / "film0.txt").unlink()
    (films / "film0.txt").symlink_to(secret)
    (films / "film1.txt").unlink()
    (films / "film1.txt").symlink_to("film2.txt")
    (films / "film3.txt").unlink()
    os.mkfifo(films / "film3.txt")
    rows = read(films)
    assert "leads out of the folder" in reason_of(rows, "film0.mp4") and "business" not in rows.to_csv()
    assert "no plain file" in reason_of(rows, "film3.mp4") and list(rows.caption).count("Film 2.") == 2


# --- splits that were published ---


def test_published_splits_are_kept(films, capsys):
    "In a tar's JSON, in tars' names, in a table; under others' names; a part of a data set is dealt anew, and told."
    splits = ["train", "train", "train", "val", "test", "test"]
    ours = ["train", "train", "train", "alignment", "test", "test"]
    told = "its splits are kept, 'val' as 'alignment'.\n"
    table = "path,caption,split\n" + "".join(f"films/film{i}.mp4,F{i}.,{s}\n" for i, s in enumerate(splits))
    assert list(read(csv_of(films, table)).split) == ours
    assert capsys.readouterr().err.endswith(told)
    for i, split in enumerate(splits):
        (films / f"film{i}.txt").unlink()
        (films / f"film{i}.json").write_text(json.dumps(dict(caption=f"Film {i}.", split=split)))
    assert list(read(tar_of(films, films.parent / "my.tar")).split) == ours
    assert capsys.readouterr().err.endswith(told)
    shards = films.parent / "shards"
    shards.mkdir()
    for name, part in (("train-000000", (0, 1, 2)), ("validation-000000", (3,)), ("test-000000", (4, 5))):
        folder = films.parent / name
        folder.mkdir()
        for i in part:
            shutil.copy(films / f"film{i}.mp4", folder)
            (folder / f"film{i}.txt").write_text(f"Film {i}.")
        tar_of(folder, shards / f"{name}.tar")
    rows = read(shards)
    assert dict(zip(rows.caption, rows.split, strict=True)) == {f"Film {i}.": s for i, s in enumerate(ours)}
    assert capsys.readouterr().err == "shards: its splits are kept, 'validation' as 'alignment'.\n"
    rows = read(csv_of(films, "path,caption,split\n" + PLAIN.replace(".\n", ".,train\n")))
    assert "split" not in rows and "dealt anew" in capsys.readouterr().err
    for change, words in (
        (",", "no split"),
        (",fold1", "'fold1'"),
    ):
        with pytest.raises(UserError, match=words):
            read(csv_of(films, table.replace(",val", change)))
    with pytest.raises(UserError, match="of one source"):
        read(
            csv_of(films, "path,caption,split,start\n" + "films/film0.mp4,A part.,test,1\n" + table.partition("\n")[2])
        )


# --- one source ---


def test_one_film_is_one_source(films):
    "Under links, hard links, copies and paths that go round; films that differ stay apart."
    film = films / "film0.mp4"
    (films / "link.mp4").symlink_to("film0.mp4")
    os.link(film, films / "hard.mp4")
    shutil.copy(film, films / "copy.mp4")
    (films.parent / "there").symlink_to(films)
    names = ("films/link.mp4", "films/hard.mp4", "films/copy.mp4", "there/film0.mp4", "films/../films/film0.mp4")
    rows = read(csv_of(films, "path,caption\n" + PLAIN + "".join(f"{n},Again {i}.\n" for i, n in enumerate(names[:4]))))
    assert rows.youtube_id.nunique() == N and rows.youtube_id[[0, 6, 7, 8, 9]].nunique() == 1
    assert not rows.clip_id.duplicated().any()


def test_a_row_without_a_source_joins_its_film(films):
    "Whatever the order, and under another name of the file; two names of source are a question."
    (films / "copy.mp4").write_bytes((films / "film0.mp4").read_bytes())
    head = "path,caption,start,end,source\n"
    parts = ["film0.mp4,A.,0,1,", "film0.mp4,B.,0.5,1.5,walk", "copy.mp4,C.,1,2,NaN", "film1.mp4,D.,0,1,None"]
    rest = "".join(f"films/film{i}.mp4,Film {i}.,0,1,\n" for i in range(2, N))
    rows = read(csv_of(films, head + "".join(f"films/{part}\n" for part in parts) + rest))
    assert list(rows.youtube_id[:3]) == ["walk"] * 3 and rows.youtube_id.nunique() == N
    with pytest.raises(UserError, match="row 3 of my.csv and row 4 of my.csv.*'walk' and 'run'; write the same source"):
        read(csv_of(films, head + "".join(f"films/{part}\n" for part in parts).replace("NaN", "run") + rest))


YOUTUBE = [
    "https://www.youtube.com/watch?v={}",
    "https://youtu.be/{}?t=5",
    "https://www.youtube.com/watch?v={}&t=42s",
    "https://m.youtube.com/watch?list=PL1&v={}",
    "https://www.youtube.com/shorts/{}",
    "https://www.youtube.com/embed/{}?start=3",
    "http://youtube.com/live/{}/",
    "https://www.youtube-nocookie.com/embed/{}",
    "https://music.youtube.com/watch?v={}#t=10",
]


def test_one_video_by_many_addresses(films):
    ids = ("AAAAAAAAAAA", "BBBBBBBBBBB", "-_CCCCCCCC9")
    lines = [f"{url.format(i)},Caption {n}.,{n},{n + 2}" for i in ids for n, url in enumerate(YOUTUBE)]
    rows = read(csv_of(films, "url,caption,start,end\n" + "\n".join(lines)))
    assert (rows.status == "").all() and list(rows.youtube_id.unique()) == list(ids)
    same = (
        "https://EXAMPLE.org/a/b.mp4",
        "http://www.example.org:80/a//b.mp4#t=3",
        "https://example.org/a/b.mp4?utm_source=x",
    )
    assert len({video_of_url(url) for url in same}) == 1
    apart = (
        "https://example.org/v?id=1",
        "https://example.org/v?id=2",
        "https://youtube.com.evil.org/watch?v=AAAAAAAAAAA",
    )
    assert len({video_of_url(url) for url in apart}) == 3


def test_content_joins_what_was_fetched():
    assert join_by_content(["a", "b", "c", "b", "d", "e"], ["1", "2", "3", "1", None, None]) == list("aacade")
    names = [f"v{i}" for i in range(9)]
    assert join_by_content(names, names) == names


# --- text of the world ---


@pytest.mark.parametrize(
    "text",
    [
        ("path,caption\n" + PLAIN).replace("\n", "\r"),
        "sep=;\n" + ("path,caption\n" + PLAIN).replace(",", ";"),
        "\ufeffsep=|\r\n" + ("path,caption\n" + PLAIN).replace(",", "|").replace("\n", "\r\n"),
        '"sep=\t"\n' + ("path,caption\n" + PLAIN).replace(",", "\t"),
        "\ufeff" + ("path,caption,url,source,start\n" + PLAIN.replace(".\n", ".,NaN,NULL,\n")),
    ],
)
def test_tables_of_spreadsheets(films, text):
    rows = read(csv_of(films, text))
    assert list(rows.caption) == [f"Film {i}." for i in range(N)] and (rows.status == "").all()
    assert rows.youtube_id.nunique() == N


@pytest.mark.parametrize("text", ["sep=;", "sep=;\t", "sep=;\n\n", "sep=\n"])
def test_a_declaration_and_nothing_below(films, text):
    with pytest.raises(UserError, match="no column caption"):
        read(csv_of(films, text))


def test_words_for_nothing_are_nothing(films):
    "A source NaN is no source; a caption NULL is no caption; in JSON too."
    rows = read(
        csv_of(films, "path,caption,source\n" + PLAIN.replace(".\n", ".,nan\n") + "films/film0.mp4,NULL,None\n")
    )
    assert rows.youtube_id.nunique() == N
    assert rows.reason[N].startswith("no caption but 'NULL', which programs take for none: write what is to be seen in")
    for i in range(3):
        (films / f"film{i}.txt").unlink()
    (films / "film0.json").write_text('{"text": "x", "source": NaN}')
    (films / "film1.json").write_text('{"caption": ["y"], "source": NaN}')
    (films / "film2.json").write_text('{"caption": ["a", "b"]}')
    rows = read(films)
    assert list(rows.caption[:2]) == ["x", "y"] and good(rows).youtube_id.nunique() == 5
    assert "list of 2: keep one" in reason_of(rows, "film2.mp4")


@pytest.mark.parametrize("word", ["NA", "None", "null", "nan", "N/A"])
def test_a_caption_that_is_a_word_for_none_is_told(word, films):
    "In a table, quoted or not, in a text and in JSON, in the same words; empty ones, and words in a sentence, are not."
    told = f"no caption but {word!r}, which programs take for none: write what is to be seen in more words"
    end = f'films/film0.mp4,{word},0,1\nfilms/film1.mp4,"{word}",0,1\nfilms/film2.mp4,"",0,1\n'
    end += f"films/film3.mp4,{word} is said.,0,1\n"
    rows = read(csv_of(films, "path,caption,start,end\n" + PLAIN.replace(".\n", ".,,\n") + end))
    assert [reason.partition(" (")[0] for reason in rows.reason[N:]] == [
        told,
        told,
        "no caption: write what is to be seen",
        "",
    ]
    (films / "film0.txt").write_text(f"{word}\n")
    (films / "film1.txt").unlink()
    (films / "film1.json").write_text(json.dumps({"caption": word}))
    (films / "film3.json").write_text('{"caption": null}')
    rows = read(films)
    assert [reason.partition(" (")[0] for reason in rows.reason] == [told, told] + [""] * 4
    assert rows.caption[3] == "Film 3."


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
@pytest.mark.parametrize("is_tar", [False, True])
def test_a_caption_of_another_encoding_names_its_file(is_tar, encoding, films):
    "A text's line too, as a table does; JSON likewise."
    (films / "film0.txt").write_bytes("A line.\nEin Hündchen läuft.".encode(encoding))
    (films / "film1.txt").unlink()
    (films / "film1.json").write_bytes('{"caption": "Ein Hündchen."}'.encode(encoding))
    rows = read(tar_of(films, films.parent / "my.tar") if is_tar else films)
    line = 1 if encoding == "utf-16" else 2
    text, about = rows.reason[rows.status != ""]
    assert text.startswith(
        f"what stands beside it is not text in UTF-8: save it again as UTF-8 (film0.txt, line {line}; film0"
    )
    assert about.startswith("what stands beside it is not JSON in UTF-8: write it again (film1.json; film1")


def test_what_may_not_be_read_is_told(films, monkeypatch):
    "A film and a caption, in a folder and in a table, with times and without; the others are taken."
    forbidden, look = {films / "film0.mp4", films / "film1.txt"}, open

    def open_unless_forbidden(path, *args, **kwargs):
        if path in forbidden or path in set(map(str, forbidden)):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", open_unless_forbidden)
    rows = read(films)
    assert reason_of(rows, "film0.mp4") == "it cannot be read: see to its permissions (film0.mp4)"
    (caption,) = [reason for reason in rows.reason if "film1.mp4" in reason]
    assert caption == "what stands beside it cannot be read: see to its permissions (film1.txt; film1.mp4)"
    assert len(good(rows)) == N - 2
    rows = read(csv_of(films, "path,caption,start,end\n" + PLAIN.replace(".\n", ".,,\n") + "films/film0.mp4,A.,0,1\n"))
    told = ["it cannot be read: see to its permissions"] + [""] * 5 + ["it cannot be read: see to its permissions"]
    assert [reason.partition(" (")[0] for reason in rows.reason] == told


# --- copies ---


@pytest.mark.parametrize("is_tar", [False, True])
def test_a_film_that_is_there_twice_is_told_and_kept_once(is_tar, films):
    "Under another name, with the same caption and with another; a part of it is another clip of the same source."
    for name, text in {"film9": "Film 0.", "film8": "A copy."}.items():
        shutil.copy(films / "film0.mp4", films / f"{name}.mp4")
        (films / f"{name}.txt").write_text(text)
    shutil.copy(films / "film0.mp4", films / "part.mp4")
    (films / "part.json").write_text('{"caption": "A part.", "start": 1}')
    rows = read(tar_of(films, films.parent / "my.tar") if is_tar else films)
    assert sorted(good(rows).caption) == ["A part."] + [f"Film {i}." for i in range(N)]
    assert good(rows).youtube_id.nunique() == N
    copy, same = rows.reason[rows.status != ""]
    assert copy.startswith("a copy of another film, with another caption: ") and "(the same film as film0" in copy
    assert same.startswith("the same clip again, under another name (the same film as film0")


# --- told once ---


def test_how_a_table_is_read_is_told_once(films, capsys):
    "And what is not looked at, in the one build that reads them more than once."
    table = csv_of(films, ("path,caption\n" + PLAIN).replace(",", ";"))
    assert run_command(["dataset", "build", "--from", str(table), "--like", "smoke"]) == 0
    assert capsys.readouterr().err.count("is separated by semicolons") == 1
    shutil.copy(films / "film0.mp4", films / ".hidden.mp4")
    assert run_command(["dataset", "build", "--from", str(films), "--like", "smoke"]) == 0
    assert capsys.readouterr().err.count("hidden file is not looked at") == 1


def test_letters_composed_otherwise(films):
    "The table says one letter and the disk two, in files and folders; a caption in a folder and a tar likewise."
    (films / "Mu\u0308nchen").mkdir()
    (films / "film0.mp4").rename(films / "Mu\u0308nchen" / "Zu\u0308rich.mp4")
    (films / "film0.txt").rename(films / "Mu\u0308nchen" / "Z\u00fcrich.txt")
    rows = read(csv_of(films, "path,caption\n" + PLAIN.replace("film0", "M\u00fcnchen/Z\u00fcrich")))
    assert (rows.status == "").all() and (read(films).status == "").all()
    flat = films.parent / "flat"
    flat.mkdir()
    for p in [*films.glob("film*"), *(films / "Mu\u0308nchen").iterdir()]:
        shutil.copy(p, flat)
    assert (read(tar_of(flat, flat.parent / "my.tar")).status == "").all()
    assert "no file" in read(csv_of(films, "path,caption\n" + PLAIN.replace("film0", "Z\u00fcri"))).reason[0]


def test_names_that_are_no_utf8(films):
    "Without a caption and with one, a reason that any file can hold; odd spaces of a Mac are letters."
    raw = os.fsencode(films)
    shutil.copy(films / "film0.mp4", raw + b"/Z\xfcrich.mp4")
    shutil.copy(films / "film0.mp4", raw + b"/B\xe9n.mp4")
    (films / os.fsdecode(b"B\xe9n.txt")).write_text("A man.")
    (films / "film0.mp4").rename(films / "Screen 1\u202fPM.mp4")
    (films / "film0.txt").rename(films / "Screen 1\u202fPM.txt")
    rows = read(films)
    rows.to_csv().encode()
    assert len(good(rows)) == N and sum("no caption" in r for r in rows.reason) == 1
    assert sum("not plain text" in r for r in rows.reason) == 1


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_a_console_that_cannot_show_it(films, root, encoding):
    "Build and select in a process whose console is not UTF-8; terminals are shown letters, not commands."
    (films / "film0.txt").write_text("\u72ac \U0001f600 \x1b[2J\x07.", encoding="utf-8")
    env = os.environ | dict(PYTHONUTF8="0", PYTHONIOENCODING=encoding, PYTHONPATH=str(root))
    for words in (["build", "--from", str(films), "--like", "smoke"], ["select", "-p", "films"]):
        done = subprocess.run(
            [sys.executable, "-m", "frames_matter", "dataset", *words], env=env, cwd=films.parent, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert b"\x1b" not in done.stdout + done.stderr and b"\x07" not in done.stdout
    assert b"\\u72ac \\U0001f600" in done.stdout


def test_control_characters_in_errors(capsys):
    assert run_command(["dataset", "build", "--from", "\x1b]0;title\x07\u202e.csv"]) == 2
    err = capsys.readouterr().err
    assert err.rstrip("\n").isprintable() and "\\x1b]0;" in err
    assert visible("Zürich \U0001f600 \u0928\u093f 犬\u00a0") == "Zürich \U0001f600 \u0928\u093f 犬\u00a0"


# --- tables of InternVid's kind ---


def jsonl(path, n=20, **last):
    row = dict(Start_timestamp="00:00:01.000", End_timestamp="00:00:05.000")
    rows = [dict(YoutubeID=f"vid{i:08}", **row, Caption=f"Caption {i}", Aesthetic_Score=5.0) for i in range(n)]
    rows[3] |= last
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("last", [float("nan"), float("inf"), float("-inf"), None])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_json_as_python_and_windows_write_it(tmp_path, last, mark):
    "A number that is none costs its row the score, not the table its rows."
    table = jsonl(tmp_path / "t.jsonl", Aesthetic_Score=last, Caption='She says "a": NaN, and waits')
    table.write_text(mark + table.read_text(), encoding="utf-8")
    chosen, reasons = choose_candidates([table], get_profile("internvid", min_score=4, candidates=50))
    assert len(chosen) >= 19 and (reasons[""] == 19 or last == float("inf"))
    chosen, _ = choose_candidates([table], get_profile("internvid", min_score=0, candidates=50))
    assert len(chosen) == 20 and 'She says "a": NaN, and waits' in list(chosen.Caption)
    assert sum(map(len, json_lines(table))) == 20


def test_other_scores(tmp_path):
    "InternVid-10M-FLT's column is read where no score is asked for, and else told; so is a column that is not there."
    table = jsonl(tmp_path / "umt.jsonl")
    table.write_text(table.read_text().replace("Aesthetic_Score", "UMT_Score"))
    P = get_profile("internvid", min_score=0, candidates=50)
    assert len(choose_candidates([table], P)[0]) == 20 and len(next(json_lines(table, needs_score=False))) == 20
    for read_it in (
        lambda: choose_candidates([table], get_profile("internvid", min_score=4)),
        lambda: [*json_lines(table)],
    ):
        with pytest.raises(UserError, match="it has UMT_Score, another measure.*-o min_score=0"):
            read_it()
    table.write_text(table.read_text().replace("Caption", "Text"))
    with pytest.raises(UserError, match="no column Caption"):
        choose_candidates([table], P)


@pytest.mark.parametrize("content", ["utf-16", "cr"])
def test_json_lines_that_are_refused(tmp_path, content):
    table = jsonl(tmp_path / "t.jsonl")
    text = table.read_text()
    table.write_bytes(text.encode("utf-16") if content == "utf-16" else text.replace("\n", "\r").encode())
    with pytest.raises(UserError, match="save it"):
        choose_candidates([table], get_profile("internvid", candidates=50))


# --- names that become paths ---

ROW = dict(clip_id="abc_1.000_3.000", youtube_id="abc", start=1, end=3, caption="A dog.", split="train", status="kept")


@pytest.mark.parametrize(
    "change",
    [
        dict(clip_id="../../x"),
        dict(clip_id="/etc/passwd"),
        dict(clip_id="a\\b"),
        dict(clip_id=None),
        dict(clip_id="a\nb"),
        dict(split="../out"),
        dict(split="a/b"),
        dict(split="x" * 300),
    ],
)
def test_names_of_a_manifest_are_checked(tmp_path, monkeypatch, change):
    "Wherever it is read; a rebuild leaves such rows out."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    folder = tmp_path / "data_manifest" / "smoke"
    folder.mkdir(parents=True)
    rows = [ROW, ROW | dict(youtube_id="other", clip_id="other_1.000_3.000") | change]
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    P = get_profile("smoke")
    for read_it in (lambda: load_manifest(P), lambda: exported_rows(P), lambda: verify(P)):
        with pytest.raises(UserError, match="no name that a build writes"):
            read_it()
    taken = published_rows(Profile("again", rows=str(folder / "clips.csv"), source="manifest"))
    assert list(taken.status) == ["", "rejected"]


def test_a_published_manifest_parts_no_source(tmp_path, monkeypatch):
    "A rebuild asks; verify tells."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    folder = tmp_path / "data_manifest" / "smoke"
    folder.mkdir(parents=True)
    rows = [ROW, ROW | dict(clip_id="abc_5.000_7.000", start=5, end=7, split="test")]
    pd.DataFrame(rows).assign(sha256="0").to_csv(folder / "clips.csv", index=False)
    with pytest.raises(UserError, match="abc in train and in test"):
        published_rows(Profile("again", rows=str(folder / "clips.csv"), source="manifest"))
    assert "abc: its clips are in train and in test" in verify(get_profile("smoke"))
