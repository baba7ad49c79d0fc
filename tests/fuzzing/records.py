"Records that the package itself wrote and somebody changed, overrides on the command line, targets of an export."

import contextlib
import json
import os
import shutil
import sqlite3

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import PROFILES, get_profile, results_dir
from frames_matter.data.manifest import verify
from frames_matter.report.reader import load_runs
from frames_matter.study.store import finished, read_records, store

from . import odd
from .cell import command
from .films import build_is_whole, cell_manifest

FIELDS = sorted(set(vars(PROFILES["mini"])) - {"name"})


def _built(cell):
    "A home in which a data set, `mine`, was built."
    shutil.copytree(cell.corpus / "home", cell.home, dirs_exist_ok=True)


# ---- profiles


def _odd_fields(rng, fields):
    "Fields of a profile, some of which are other fields, or hold other things."
    for _ in range(rng.choice([1, 1, 3])):
        usual = ["../../evil", "/tmp/evil-of-fuzz", 10**18, [0, 0], 2, "a"]
        field = rng.choice(FIELDS)
        fields[field] = _of_the_type(rng, field) if rng.random() < 0.7 else rng.choice([*usual, odd.value(rng)])
    return fields


def _of_the_type(rng, field):
    "A value of a field's type, which may be far from what it means."
    usual = getattr(PROFILES["mini"], field)
    if isinstance(usual, bool):
        return rng.choice([True, False])
    if isinstance(usual, int):
        return rng.choice([0, 1, 2, 3, 5, -1, 64, 10**3, 10**6, 10**9, 2**31, 2**63, 10**40])
    if isinstance(usual, float):
        return rng.choice([0, 0.0, 0.5, 1, 2.0, -1, 9.5, 1e-9, 1e6, 1e300, 10**400])
    if isinstance(usual, tuple):
        return rng.choice([[], [0], [1, 2], [0, 0], [-1], ["sound"], ["published"], ["x"], [None], [[0]], [10**20]])
    return odd.text(rng)


def profile(rng, cell):
    "A profile.json that is damaged, or names other things."
    _built(cell)
    path = cell.home / "data_manifest" / "mine" / "profile.json"
    tree = json.loads(path.read_bytes())
    if rng.random() < 0.3:
        data = odd.as_json(rng, odd.changed(rng, tree))
    else:
        data = json.dumps(tree | dict(fields=_odd_fields(rng, tree["fields"]))).encode()
    path.write_bytes(odd.damaged(rng, data) if rng.random() < 0.05 else data)
    words = rng.choice(
        [["dataset", "verify"], ["report"], ["dataset", "select"], ["dataset", "export", "--to", cell.out / "x"]]
    )

    def call():
        results = results_dir(get_profile("mine")).resolve()
        assert results.parent == (cell.home / "results").resolve(), results
        command(*words, "-p", "mine")

    return call


def override(rng, cell):
    "Fields of a profile on the command line."
    _built(cell)
    words = []
    for _ in range(rng.choice([1, 1, 2])):
        field = rng.choice(FIELDS) if rng.random() < 0.9 else odd.text(rng)
        what = _of_the_type(rng, field) if field in FIELDS and rng.random() < 0.7 else odd.value(rng)
        text = what if isinstance(what, str) else json.dumps(what)
        text = odd.mostly(rng, text, ["NaN", "-Infinity", "[" * 3000, "[0,0]", '["a"]', "1e999", "../../evil"])
        words += ["-o", f"{field}={text}".replace("\x00", "")]
    words = [word.encode("utf-8", "replace").decode() for word in words]
    if rng.random() < 0.3:
        return lambda: command("dataset", "select", "-p", "smoke", *words)

    def call():
        before = cell_manifest("mine").read_bytes()
        try:
            command("dataset", "build", "-p", "mine", *words)
        except UserError:
            assert cell_manifest("mine").read_bytes() == before and verify(get_profile("mine")) == []
            raise
        build_is_whole("mine")

    return call


# ---- finished runs

RUN = dict(
    spec=dict(phase="zero_shot", architecture="viclip", loss="infonce", sampling="uniform", protocol="sound", seed=0),
    spec_hash="0" * 16,
    run_by="x",
    metrics={"t2v_r1": 1.0, "loss": 0.5, "n": 3},
    curves={"train_loss": [1.0, 0.5]},
    n_queries=4,
    seconds=1.0,
    finished="2026-01-01T00:00:00",
)


def runs(rng, cell):
    "A file of finished runs, some of whose lines are others: read, added to, reported."
    real = (cell.corpus / "runs.jsonl").read_bytes().splitlines()
    own = json.dumps(RUN).encode()
    lines = [rng.choice(real) if rng.random() < 0.7 else own for _ in range(rng.choice([1, 4, 20]))]
    for at in rng.sample(range(len(lines)), rng.choice([0, 1, 1])):
        if rng.random() < 0.6:
            lines[at] = json.dumps(odd.within_types(rng, json.loads(lines[at]))).encode()
        else:
            lines[at] = odd.as_json(rng, odd.changed(rng, json.loads(lines[at])))
    data = b"\n".join(lines) + rng.choice([b"\n", b""])
    data = odd.damaged(rng, data) if rng.random() < 0.05 else data
    path = cell.home / "results" / "mini" / "runs.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    use = rng.choice([_reported, _reported, _stored, _read])
    return lambda: use(path)


def _reported(path):
    code, _ = command("report", "-p", "mini")
    assert code == 0
    before = path.read_bytes()
    command("report", "-p", "mini")
    assert path.read_bytes() == before


def _stored(path):
    profile, before = get_profile("mini"), read_records(path)
    new = RUN | dict(spec_hash="f" * 16)
    store(profile, new)
    others = [_whose(record) for record in before if _whose(record) != _whose(new)]
    assert sorted(map(_whose, read_records(path))) == sorted([*others, _whose(new)])
    finished(profile)


def _whose(record):
    return record["spec_hash"], record.get("run_by", "")


def _read(path):
    load_runs("mini")


# ---- the ledger


def ledger(rng, cell):
    "A ledger of a build that is damaged, of other tables, or holds other values."
    _built(cell)
    path = cell.home / "data" / "mine" / "ledger.sqlite"
    if rng.random() < 0.5:
        _spoil_rows(rng, cell, path)
    else:
        path.write_bytes(rng.choice([odd.damaged(rng, path.read_bytes())] * 4 + [b"", b"SQLite format 3\x00", b"no"]))
    if rng.random() < 0.3:
        (cell.home / "data_manifest" / "mine" / "clips.csv").unlink()
    words = rng.choice([["verify"], ["build"], ["build", "-o", "n_clips=4"], ["export", "--to", cell.out / "x"]])
    return lambda: command("dataset", words[0], "-p", "mine", *words[1:])


def _spoil_rows(rng, cell, path):
    "Change fields of a ledger as a person with a tool would."
    with sqlite3.connect(path) as db:
        for _ in range(rng.choice([1, 2, 4])):
            table = rng.choice(["rows", "rows", "sources", "facts"])
            columns = [about[1] for about in db.execute(f"PRAGMA table_info({table})")] or ["gone"]
            column, what = rng.choice(columns), odd.value(rng)
            what = what if isinstance(what, (str, float)) or what is None else rng.choice([-1, 7, 2**62])
            what = what.encode("utf-8", "replace").decode() if isinstance(what, str) else what
            try:
                db.execute(f'UPDATE {table} SET "{column}" = ? WHERE rowid % 2', (what,))
            except sqlite3.DatabaseError:
                what = rng.choice([f"DROP TABLE {table}", "PRAGMA user_version = 9", f"DELETE FROM {table}"])
                with contextlib.suppress(sqlite3.DatabaseError):
                    db.execute(what)
    db.close()


# ---- exports


def export(rng, cell):
    "An export to a place that may not do, of clips that may be others by now."
    _built(cell)
    named = odd.text(rng).replace("\x00", "").replace("..", "").lstrip("/~")
    target = odd.mostly(rng, cell.out / named, ["", ".", "..", cell.home, "/", "/proc/x"], 0.2)
    where = rng.randrange(12)
    place = cell.out / "x"
    if where == 0:
        place.write_text("a file")
    elif where == 1:
        place.symlink_to(rng.choice([cell.folder / "in", "/tmp", "nowhere", "x"]))
    elif where == 2:
        place.mkdir()
        (place / rng.choice(["export.json", "mine.txt"])).write_bytes(odd.as_json(rng, odd.value(rng)))
    clips = sorted((cell.home / "data" / "mine" / "clips").glob("*.mp4"))
    if rng.random() < 0.3:
        clip = rng.choice(clips)
        rng.choice([clip.unlink, lambda: clip.write_bytes(odd.damaged(rng, clip.read_bytes()))])()
    if where in (0, 1, 2):
        target = place
    target = str(target).encode("utf-8", "replace").decode()
    form = odd.mostly(rng, rng.choice(["webdataset", "datasets"]), [odd.text(rng).replace("\x00", "")])
    size = odd.mostly(rng, "256", ["0.01", "-1", "0", "nan", "inf", "1e-9", "1e-320", "a"], 0.3)

    def call():
        command("dataset", "export", "-p", "mine", "--to", target, "--format", form, "--shard-mb", size)
        assert os.path.isfile(os.path.join(target, "export.json"))

    return call
