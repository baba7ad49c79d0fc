"What the ledger promises when processes are killed, come second, or tell the same thing twice."

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.files import file_sha256
from frames_matter.data.ledger import STATES, Ledger, Watch, read_facts, read_states, watching


def row(i, video=None, **more):
    return (
        dict(
            clip_id=f"clip{i}",
            youtube_id=video or f"video{i}",
            start=float(i),
            end=i + 4.0,
            caption=f"Number {i}.",
            aesthetic_score=None,
            status="",
            reason="",
        )
        | more
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def child(code, path, **options):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, signal, sys, time\nfrom frames_matter.data.ledger import Ledger\nledger = Ledger(sys.argv[1])\n"
            + code,
            str(path),
        ],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_the_lock_goes_with_its_process(path):
    "While the process lives nobody else gets the ledger, and is told who has it; killed, it holds nothing."
    holder = child("print('held', flush=True)\ntime.sleep(60)", path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"Process {holder.pid} .* since .*wait"):
        Ledger(path)
    assert int(read_facts(path)["holder"].split('"pid": ')[1].split(",")[0]) == holder.pid, (
        "who only reads is not kept out"
    )
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Ledger(path) as ledger:
        assert ledger.begin("one", path.parent)


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_killed_between_two_events(path):
    "What was recorded before a kill is there after it; what was under way is not, and is to be done."
    dead = child(
        """
ledger.begin("one", ".")
ledger.add(dict(clip_id=f"clip{i}", youtube_id=f"v{i}", start=0.0, end=4.0, caption="", aesthetic_score=None, status="", reason="") for i in range(500))
ledger.take("study", 500)
for i in range(300): ledger.record(dict(rows=[i], state="rejected", kind="gone", reason="not fetched", passing=False, attempts=1, source=dict(name=f"v{i}")))
with ledger._event() as db:
    db.execute("UPDATE rows SET state = 'checked'")
    os.kill(os.getpid(), signal.SIGKILL)
""",
        path,
    )
    assert dead.wait() == -signal.SIGKILL, dead.stderr.read()
    with Ledger(path) as ledger:
        assert not ledger.begin("one", path.parent) and ledger.take("study", 500) == 500
        assert sorted(int(source[1:]) for source, *_ in ledger.todo()) == list(range(300, 500))
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_events_in_any_number_and_order(path, tmp_path):
    "A job that is run again tells its events again: whatever is mixed in, a checked clip stays checked, and is counted once."
    (tmp_path / "clip0.mp4").write_bytes(b"clip")
    facts = dict(sha256=file_sha256(tmp_path / "clip0.mp4"), bytes=4)
    job = [
        dict(
            rows=[0],
            state="fetched",
            attempts=1,
            source=dict(
                name="video0",
                path="none",
                offset=0.0,
                whole=True,
                spans=[(0, 4)],
                sha256="",
                bytes=1,
                attempts=1,
                seconds=0.1,
            ),
        ),
        dict(rows=[0], state="cut", **facts),
        dict(rows=[0], state="checked", **facts),
    ]
    fault = dict(rows=[0], state="rejected", kind="no_answer", reason="not fetched", passing=True, attempts=3)
    for seed in range(20):
        events = [*job, *job, *job[: random.Random(seed).randrange(3)], *[fault] * (seed % 2)]
        with Ledger(path) as ledger:
            ledger.begin(str(seed), tmp_path)
            ledger.add([row(0)])
            ledger.take("study", 1)
            fresh = [(e["state"], ledger.record(e)) for e in events]
            assert sum(n for state, n in fresh if state == "checked") == 1 and ledger.kept("study") == [(0, "video0")]
            assert not list(ledger.todo()) and all(n == 0 for _, n in fresh[3:])


def test_rounds_do_not_depend_on_the_order_of_events(path):
    "Whichever rows end first, the same are tried: a round holds as many as are missing, and the pool avoids the study's videos."
    rows = [
        row(i, video=f"video{i % 7}", **({} if i % 5 else dict(status="rejected", reason="no caption")))
        for i in range(60)
    ]
    outcomes = set()
    for seed in range(5):
        with Ledger(path) as ledger:
            ledger.begin(str(seed), path.parent)
            ledger.add(rows)
            for part, wanted in (("study", 12), ("pool", 10)):
                while len(ledger.kept(part)) < wanted and ledger.take(part, wanted - len(ledger.kept(part))):
                    todo = [r["position"] for _, rows_of, _ in ledger.todo() for r in rows_of]
                    random.Random(seed).shuffle(todo)
                    for p in todo:
                        ledger.record(
                            dict(
                                rows=[p],
                                state="checked" if p % 3 and p % 7 < 4 else "rejected",
                                kind="gone",
                                reason="not fetched",
                            )
                        )
            outcomes.add(
                (
                    tuple(ledger.kept("study")),
                    tuple(ledger.kept("pool")),
                    tuple(read_states(path, "position", "part", "state")),
                )
            )
    ((study, pool, _),) = outcomes
    assert len(study) == 12 and not {video for _, video in study} & {video for _, video in pool}


def test_a_round_is_read_as_it_is_asked_for(path):
    "Sources come once each, in order, though their rows end while the round is read."
    with Ledger(path) as ledger:
        ledger.begin("one", path.parent)
        ledger.add(row(i, video=f"video{i % 250}") for i in range(1000))
        ledger.take("study", 1000)
        seen = []
        for source, rows, spans in ledger.todo():
            seen.append(source)
            assert len(rows) == len(spans) == 4
            for r in rows:
                ledger.record(dict(rows=[r["position"]], state="checked"))
        assert seen == [f"video{i}" for i in range(250)] and len(ledger.kept("study")) == 1000
        assert ledger.take("study", 5) == 0 and ledger.take("pool", 5) == 0


def test_every_end_has_its_time(path):
    with Ledger(path) as ledger:
        ledger.begin("one", path.parent)
        ledger.add([row(0), row(0), row(1)])
        ledger.take("study", 3)
        for state in STATES[1:4]:
            ledger.record(dict(rows=[0], state=state, attempts=state == "fetched"))
        with pytest.raises((UserError, sqlite3.Error)):
            ledger.record(dict(rows=[2], state="perhaps"))
        times = list(read_states(path, "selected_at", "fetched_at", "cut_at", "checked_at", "rejected_at", "attempts"))
    assert (
        all(t is not None for t in times[0][:4])
        and list(times[0][:4]) == sorted(times[0][:4])
        and times[0][4:] == (None, 1)
    )
    assert times[1][:4] == (None,) * 4 and times[1][4] and abs(times[0][3] - time.time()) < 60


@pytest.mark.parametrize(
    "content",
    [b"not a database at all, but long enough to be read as one" * 50, b"SQLite format 3\x00" + b"\xff" * 5000],
)
def test_a_file_that_is_no_ledger(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="ledger.sqlite.*delete") as e:
        Ledger(path)
    assert "\n" not in str(e.value)
    path.unlink()
    with Ledger(path) as ledger:
        assert ledger.begin("one", path.parent), "the lock was kept by the one that failed"


def test_watching(capfd):
    "On a terminal one line is rewritten and then gone; elsewhere nothing is said."
    with watching(10) as watch:
        for kind in ("gone", "gone", "no_answer", "damaged", "duration", None):
            watch.see("checked" if kind is None else "rejected", kind, "reason")
    assert capfd.readouterr() == ("", "")
    line = watch.line(2.0)
    assert line == "1 of 10 clips, 5 rejected (gone 2, no answer 1, damaged 1, others 1), 0.5 a second, 0:18 left"
    assert Watch(3).line(1.0) == "0 of 3 clips"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_watching_on_a_terminal(path):
    master, slave = os.openpty()
    code = "from frames_matter.data.ledger import watching\nwith watching(3) as watch:\n    watch.see('checked')\n    watch.see('rejected', 'row', 'no caption')\n    time.sleep(0.3)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", "import time\n" + code],
        stderr=slave,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TERM": "xterm", "COLUMNS": "120"},
    )
    assert process.wait() == 0 and process.stdout.read() == b""
    os.close(slave)
    said = os.read(master, 10**5).decode()
    assert "1 of 3 clips, 1 rejected (no caption 1)" in said, said
