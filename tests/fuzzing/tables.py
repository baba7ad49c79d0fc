"Tables of rows: one's own in CSV, InternVid's in parquet and JSON lines, and a manifest that somebody changed."

import csv
import io
import json
import shutil

from frames_matter.base.profiles import get_profile
from frames_matter.base.text import VIDEO_ID, is_clip_id
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.data.json_lines import json_lines
from frames_matter.data.manifest import load_manifest, verify
from frames_matter.data.own import own_rows, register_own

from . import odd
from .cell import command, is_harmless
from .films import build_is_whole, cell_manifest

# ---- one's own


def rows_are_rows(rows) -> None:
    "Check that rows are what a build may be given."
    assert set(rows.status) <= {"", "rejected"}, set(rows.status)
    good, bad = rows[rows.status == ""], rows[rows.status == "rejected"]
    assert good.clip_id.is_unique and all(map(is_clip_id, good.clip_id)), list(good.clip_id)
    assert all(VIDEO_ID.fullmatch(video) for video in good.youtube_id), list(good.youtube_id)
    assert ((good.start >= 0) & (good.end > good.start)).all() and good.caption.str.strip().ne("").all()
    assert bad.reason.str.len().gt(0).all() and (good.reason == "").all()
    assert all(map(is_harmless, bad.reason)), list(bad.reason)


COLUMNS = ("path", "url", "caption", "start", "end", "source", "split")


def _place(rng, cell):
    "Where a video is, as somebody writes it."
    if rng.random() < 0.5:
        return rng.choice(["../films/", "", "./", f"{cell.corpus}/films/", "..\\films\\", "films//"]) + "x.mkv"
    return odd.address(rng, cell) if rng.random() < 0.5 else odd.text(rng)


def _cell_of(rng, cell, column):
    "A field of a table."
    if rng.random() < 0.25:
        return odd.text(rng)
    if column in ("path", "url"):
        return _place(rng, cell)
    if column in ("start", "end"):
        return rng.choice(["", "0", "0.5", "1", "2", "00:00:01.000", "1,5", "nan", "-1", "1e9", "9" * 30, "٣", "inf"])
    if column == "split":
        return rng.choice(["train", "test", "val", "validation", "alignment", "../../x", ""])
    return rng.choice(["A dog.", "A cat", "a", "b", "", "NA"])


def _table(rng, cell):
    "A header and rows below it; some are good, for else all of it is refused at once."
    names = [n for n in COLUMNS if n in ("path", "caption") or rng.random() < 0.5]
    rng.shuffle(names)
    films = ("x.mkv", "vp9.webm", "b.avi", "front.mp4", "t.ts")
    good = dict(start="0", end="1", split="", url="", source="")
    rows = [[good.get(name, f"films/{film}" if name == "path" else f"Film {film}") for name in names] for film in films]
    if rng.random() < 0.8:
        rows += [[_cell_of(rng, cell, name) for name in names] for _ in range(rng.choice([1, 3, 8]))]
    rng.shuffle(rows)
    if rng.random() < 0.2:
        names[rng.randrange(len(names))] = rng.choice(
            [*COLUMNS, odd.text(rng), "Caption ", "PATH", "\ufeffpath", "text"]
        )
    return names, rows


def _as_csv(rng, names, rows):
    "The bytes of a table, as many programs write it."
    separator = odd.mostly(rng, ",", [";", "\t", "|", ":"], 0.3)
    out = io.StringIO(newline="")
    quoting = rng.choice([csv.QUOTE_MINIMAL] * 4 + [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=rng.choice(["\n", "\r\n", "\r"]))
    writer.writerows([names, *rows])
    text = out.getvalue()
    text = odd.mostly(rng, "", ["\ufeff", f"sep={separator}\n", "\n\n", "# a comment\n"], 0.2) + text
    if rng.random() < 0.1:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(['"', '""', "'", "\x00", "\n", ",,,", "\\", '"\n"']) + text[at:]
    encoding = odd.mostly(rng, "utf-8", ["utf-16", "latin-1", "cp1251", "utf-8-sig", "utf-32"])
    data = text.encode(encoding, "replace")
    return odd.damaged(rng, data) if rng.random() < 0.05 else data


def own_table(rng, cell):
    "A CSV of one's own, read, and now and then built."
    shutil.copytree(cell.corpus / "films", cell.given / "films")
    table = cell.given / odd.mostly(rng, "rows.csv", ["rows.tsv", "rows.txt", "rows", "rows.xlsx", "rows.json"])
    table.write_bytes(_as_csv(rng, *_table(rng, cell)))
    is_built = rng.random() < 0.2
    cell.may_ask = private = is_built and rng.random() < 0.3
    switch = ["-o", "private_addresses=true"] if private else []

    def call():
        if not is_built:
            return rows_are_rows(own_rows(register_own(table, name="rows")))
        command("dataset", "build", "--from", table, "--name", "rows", "-o", "patience=0", *switch)
        build_is_whole("rows")

    return call


# ---- InternVid's


def _internvid_row(rng, n):
    row = dict(
        YoutubeID=f"video{n % 4:06}",
        Start_timestamp="00:00:01.000",
        End_timestamp="00:00:05.000",
        Caption=f"Caption {n}.",
        Aesthetic_Score=5.0,
    )
    for _ in range(rng.choice([0, 0, 1, 2])):
        row[rng.choice([*row])] = odd.value(rng)
    return row


def internvid_lines(rng, cell):
    "JSON lines with InternVid's columns: previewed, chosen of, or read."
    rows = [_internvid_row(rng, n) for n in range(rng.choice([3, 20]))]
    lines = [odd.as_json(rng, row) if rng.random() < 0.1 else json.dumps(row).encode() for row in rows]
    data = rng.choice([b"\n"] * 6 + [b"\r\n", b"\r", b"\n\n"]).join(lines)
    data = odd.damaged(rng, data) if rng.random() < 0.15 else data
    path = cell.given / rng.choice(["rows.jsonl", "rows.json", "rows.ndjson"])
    path.write_bytes(rng.choice([b""] * 6 + [b"\xef\xbb\xbf", b"\xff\xfe"]) + data)
    return _use_of_rows(rng, path)


def _plain(value):
    "What a column of texts or numbers can hold."
    value = value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    return value if isinstance(value, (str, float)) else None


def internvid_parquet(rng, cell):
    "The same in parquet, of odd types, or damaged."
    import polars as pl

    rows = [_internvid_row(rng, n) for n in range(8)]
    names = ["YoutubeID", "Start_timestamp", "End_timestamp", "Caption", "Aesthetic_Score"]
    columns = {n: [_plain(r.get(n)) for r in rows] for n in names}
    series = [
        pl.Series(n, v, dtype=pl.Float64 if n == "Aesthetic_Score" else pl.String, strict=False)
        for n, v in columns.items()
    ]
    table = pl.DataFrame(series)
    name = rng.choice(names)
    odd_columns = [
        lambda: pl.lit(None).alias(name),
        lambda: pl.lit(7).alias(name),
        lambda: pl.lit(b"\xff\xfe").alias(name),
        lambda: pl.lit([1, 2]).implode().first().alias(name),
        lambda: pl.lit(float("nan")).alias(name),
        lambda: pl.struct(pl.lit(1).alias("x")).alias(name),
        lambda: pl.col(name).cast(pl.Categorical, strict=False).alias(name),
    ]
    try:
        table = rng.choice(
            [lambda: table, lambda: table.drop(name), lambda: table.with_columns(rng.choice(odd_columns)())]
        )()
    except pl.exceptions.PolarsError:
        table = table.rename({name: odd.text(rng) or "x"})
    path = cell.given / "rows.parquet"
    table.write_parquet(path)
    if rng.random() < 0.4:
        path.write_bytes(odd.damaged(rng, path.read_bytes()))
    return _use_of_rows(rng, path)


def _use_of_rows(rng, path):
    rule, chosen = rng.choice(["first", "hash"]), rng.random() < 0.7
    words = (
        "dataset",
        "select",
        "-p",
        "internvid",
        "--rows",
        path,
        "--rule",
        rule,
        "--candidates",
        rng.choice([1, 4, 50]),
    )

    def call():
        if chosen or path.suffix == ".parquet":
            return command(*words)
        pieces = list(json_lines(path, rng.choice([1, 3, 100])))
        assert len({tuple(piece.columns) for piece in pieces}) >= 1

    return call


# ---- a manifest


def _spoilt_manifest(rng, cell, data, with_addresses):
    "A clips.csv some of whose fields are others."
    rows = list(csv.reader(io.StringIO(data.decode())))
    for _ in range(rng.choice([1, 1, 2, 5])):
        row = rng.choice(rows if rng.random() < 0.2 else rows[1:])
        at = rng.randrange(len(row))
        row[at] = rng.choice([odd.text(rng), odd.text(rng), "kept", "rejected", "train", "pool", "1.5"])
    if with_addresses and rng.random() < 0.3:
        rng.choice(rows[1:])[-1] = odd.address(rng, cell)
    if rng.random() < 0.2:
        rows.append(list(rng.choice(rows)))
    if rng.random() < 0.1:
        rng.choice(rows).append("more")
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(rows)
    data = out.getvalue().encode("utf-8", "surrogatepass")
    return odd.damaged(rng, data) if rng.random() < 0.1 else data


def manifest(rng, cell):
    "A data set that was built, whose clips.csv somebody changed, or whose clips.csv is built again."
    shutil.copytree(cell.corpus / "home", cell.home, dirs_exist_ok=True)
    own = cell.home / cell_manifest("mine")
    use = rng.choice([_verified, _items, _built_again, _exported, _from_manifest, _reported])
    target = cell.given / "published" / "clips.csv" if use is _from_manifest else own
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(_spoilt_manifest(rng, cell, own.read_bytes(), use is _from_manifest))
    return lambda: use(cell, target)


def _verified(cell, path):
    command("dataset", "verify", "-p", "mine")


def _items(cell, path):
    kept = load_manifest(path)
    for split in kept.split.dropna().unique():
        data = VideoCaptionDataset(path, split, size=16)
        items = [data[i] for i in range(len(data))]
        assert all(item["video"].shape == (8, 3, 16, 16) and item["video"].isfinite().all() for item in items)


def _built_again(cell, path):
    command("dataset", "build", "-p", "mine")
    assert verify(get_profile("mine")) == []


def _exported(cell, path):
    command("dataset", "export", "-p", "mine", "--to", cell.out / "x")


def _from_manifest(cell, path):
    command("dataset", "build", "--from-manifest", path, "--name", "again", "-o", "patience=0")
    build_is_whole("again")


def _reported(cell, path):
    command("report", "-p", "mine")
