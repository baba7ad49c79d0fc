"Folders with captions beside films, and tars of them, as nobody should pack them."

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

from frames_matter.base.profiles import data_dir
from frames_matter.data.own import own_rows, register_own

from . import odd
from .cell import command
from .films import GOOD, build_is_whole
from .tables import rows_are_rows

STEMS = (
    *("a", "a b", "é", "e\u0301", "電影", "a.b", ".hidden", "-x"),
    *("a'b", "a\nb", "a\x1bb", "a" * 200, "CON", "a\\b"),
)
TREE = dict(
    caption="A dog.", start=0, end=1.0, source="one", split="train", text="A cat", captions=["a"], url="http://x"
)


def _caption_file(rng):
    "Ending and bytes of what stands beside a film."
    if rng.random() < 0.6:
        return ".json", odd.as_json(rng, odd.changed(rng, TREE) if rng.random() < 0.8 else odd.value(rng))
    text = odd.text(rng)
    encoding = rng.choice(["utf-8"] * 4 + ["utf-16", "latin-1", "utf-8-sig"])
    data = text.encode(encoding, "replace")
    return rng.choice([".txt", ".cap", ".TXT", ".text"]), rng.choice([data] * 8 + [b"", b"\xff\xfe\x00", b"a" * 2**21])


def _name(rng):
    return rng.choice(STEMS) if rng.random() < 0.5 else f"film{rng.randrange(9)}"


def _odd_entry(rng, cell, folder):
    "One more thing in a folder: a link, a loop, a pipe, a folder called as a film, a table, an archive."
    stem, secret = _name(rng), cell.folder / "above.txt"
    target = rng.choice(
        [secret, "/etc/passwd", "/dev/zero", ".", "..", "nowhere", folder / "good0.mp4", "/proc/self/environ"]
    )
    suffix = rng.choice([".mp4", ".txt", ".json", "", ".srt", ".tar"])
    path = folder / f"{stem}{suffix}"
    if path.exists() or path.is_symlink():
        return
    what = rng.randrange(5)
    if what <= 1:
        path.symlink_to(target)
    elif what == 2:
        os.mkfifo(path)
    elif what == 3:
        path.mkdir()
    else:
        path.write_bytes(rng.choice([b"", b"a", b"\x00" * 100, (cell.corpus / "films" / "x.mkv").read_bytes()]))


def _fill(rng, cell, folder):
    "Films of which the first five are good, and what stands beside the others."
    for n, name in enumerate(GOOD):
        shutil.copy(cell.corpus / "films" / name, folder / f"good{n}{os.path.splitext(name)[1]}")
        (folder / f"good{n}.txt").write_text(f"Good film {n}.")
    for _ in range(rng.choice([1, 3])):
        inner = folder / rng.choice(["", "", "in", "in/é", "..."])
        inner.mkdir(parents=True, exist_ok=True)
        stem, (suffix, data) = _name(rng), _caption_file(rng)
        with_film = rng.random() < 0.85
        if with_film:
            shutil.copy(
                cell.corpus / "films" / rng.choice(GOOD[:3]), inner / f"{stem}{rng.choice(['.mp4', '.MKV', '.webm'])}"
            )
        if not (inner / f"{stem}{suffix}").exists():
            (inner / f"{stem}{suffix}").write_bytes(data)


def folder(rng, cell):
    "A folder of films: read, or built."
    films = cell.given / rng.choice(["films", "fi lms", "é", "-x", "a\x1b"])
    films.mkdir()
    _fill(rng, cell, films)
    for _ in range(rng.choice([0, 1, 2])):
        _odd_entry(rng, cell, films)
    if rng.random() < 0.1:
        os.link(films / "good0.mp4", films / "twin.mp4")
        (films / "twin.txt").write_text("Good film 0.")
    return _read_or_built(rng, films)


def _read_or_built(rng, path):
    is_built = rng.random() < 0.2

    def call():
        if is_built:
            command("dataset", "build", "--from", path, "--name", "rows", "-o", "patience=0")
            return build_is_whole("rows")
        profile = register_own(path, name="rows")
        rows_are_rows(own_rows(profile))
        unpacked = data_dir(profile) / "unpacked"
        odd_ones = [p for p in unpacked.rglob("*") if p.is_symlink() or not p.is_file()]
        assert not odd_ones, odd_ones

    return call


# ---- tars

MEMBERS = (
    *("../../evil.mp4", "/tmp/evil-of-fuzz.mp4", "a/../../evil.mp4", "..\\..\\evil.mp4", "./a.mp4", "a//b.mp4"),
    *("a\x00b.mp4", "a\nb.mp4", "a\x1b[2J.mp4", "é.mp4", "e\u0301.mp4", "a" * 300 + ".mp4", "a.b.c.mp4", "a.mp4.txt"),
    *("good0.mp4", "good0.txt", "good0.json", "in/good0.mp4", "GOOD0.MP4", "x.tar", "._a.mp4", "..mp4", "a/.mp4"),
    *("", ".mp4"),
)
LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE)
TYPES = (*LINKS, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, b"S", b"Z")


def _add(tar, name, data, **about):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, what in about.items():
        setattr(member, key, what)
    tar.addfile(member, io.BytesIO(data))


def _odd_member(rng, cell, tar, film):
    "One more member: elsewhere, a link, a device, with odd sizes or captions."
    stem = rng.choice(MEMBERS) if rng.random() < 0.6 else f"more{rng.randrange(5)}.mp4"
    kind = rng.choice([tarfile.REGTYPE] * 6 + [*TYPES])
    about = dict(type=kind)
    if kind in LINKS:
        about["linkname"] = rng.choice(["/etc/passwd", "../../in/beside.txt", "good0.mp4", stem, str(cell.canary)])
    if rng.random() < 0.1:
        about |= dict(mode=0o6777, uid=2**40, mtime=rng.choice([-1, 2**40]))
    if rng.random() < 0.1:
        about["pax_headers"] = {"path": rng.choice(MEMBERS), "size": rng.choice(["-1", "9" * 20, "x"]), "a\x00": "b"}
    _add(tar, stem, film if kind == tarfile.REGTYPE else b"", **about)
    suffix, data = _caption_file(rng)
    _add(tar, os.path.splitext(stem)[0] + suffix, data)


def tar(rng, cell):
    "A WebDataset: evil members, nested, cut off, packed, or with a record of an earlier unpacking that somebody wrote."
    shards, film = cell.given / "shards", (cell.corpus / "films" / "vp9.webm").read_bytes()
    shards.mkdir()
    for shard in range(rng.choice([1, 1, 2])):
        out = io.BytesIO()
        packing = odd.mostly(rng, "w", ["w:gz", "w:bz2"], 0.04)
        form = rng.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
        with tarfile.open(fileobj=out, mode=packing, format=form, errors="surrogateescape") as opened:
            for n, name in enumerate(GOOD):
                key = f"good{n}" if rng.random() < 0.9 else f"good{shard}{n}"
                _add(opened, f"{key}{os.path.splitext(name)[1]}", (cell.corpus / "films" / name).read_bytes())
                _add(opened, f"{key}.txt", f"Good film {n} of {shard}.".encode())
            for _ in range(rng.choice([0, 1, 3])):
                _odd_member(rng, cell, opened, film)
            if rng.random() < 0.1:
                _add(opened, "inner.tar", out.getvalue())
        data = out.getvalue()
        data = odd.damaged(rng, data) if rng.random() < 0.15 else data
        (shards / f"{rng.choice(['train', 'val', 'a', 'é'])}-{shard}.tar").write_bytes(data)
    pattern = rng.choice([shards, shards / "*.tar", next(iter(sorted(shards.iterdir())))])
    use = _read_or_built(rng, pattern)
    return _with_record(rng, use) if rng.random() < 0.2 else use


def _with_record(rng, use):
    "The same again after the record of unpacked samples was changed."

    def call():
        use()
        for record in data_dir_of_rows().glob("*.json"):
            tree = json.loads(record.read_bytes())
            record.write_bytes(odd.as_json(rng, odd.changed(rng, tree)))
        use()

    return call


def data_dir_of_rows():
    "Where samples are unpacked in the home of a cell."
    return Path("data") / "rows" / "unpacked"
