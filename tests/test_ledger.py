"What the ledger promises when processes are killed, come second, or tell the same thing twice."

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from frames_matter.base.bars import progress_bar
from frames_matter.base.errors import UserError
from frames_matter.base.files import file_sha256
from frames_matter.data.ledger import STATES, Ledger, read_facts, read_states
from frames_matter.data.progress import Progress, progress_line

needs_signals = pytest.mark.skipif(os.name == "nt", reason="kills by signal")


def row(i, video=None, **more):
    "A row as `select_rows` gives it."
    where = dict(clip_id=f"clip{i}", youtube_id=video or f"video{i}", start=float(i), end=i + 4.0)
    return where | dict(caption=f"Number {i}.", aesthetic_score=None, status="", reason="") | more


def take_all(path, rows, identity="one", n=None):
    "A ledger whose rows are the study's first round."
    ledger = Ledger(path)
    ledger.begin(identity, path.parent)
    ledger.add(rows)
    ledger.take("study", n or len(rows))
    return ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


CHILD = """
import os, signal, sys, time
from frames_matter.data.ledger import Ledger
ledger = Ledger(sys.argv[1])
"""


def environment(**more):
    return os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | more


def child(code, path):
    "A process that has the ledger and runs this code."
    command = [sys.executable, "-c", CHILD + code, str(path)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@needs_signals
def test_the_lock_goes_with_its_process(path):
    "While the process lives nobody else gets the ledger, and is told who has it; killed, it holds nothing."
    holder = child("print('held', flush=True)\ntime.sleep(60)", path)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"Process {holder.pid} .* since .*wait"):
        Ledger(path)
    told = read_facts(path)["holder"]
    assert int(told.split('"pid": ')[1].split(",")[0]) == holder.pid, "who only reads is not kept out"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with Ledger(path) as ledger:
        assert ledger.begin("one", path.parent)


KILLED_WITHIN_AN_EVENT = """
facts = dict(start=0.0, end=4.0, caption="", aesthetic_score=None, status="", reason="")
rows = [dict(clip_id=f"clip{i}", youtube_id=f"v{i}") | facts for i in range(500)]
ledger.begin("one", ".")
ledger.add(rows)
ledger.take("study", 500)
gone = dict(state="rejected", kind="gone", reason="not fetched", passing=False, attempts=1)
for i in range(300):
    ledger.record(dict(rows=[i], source=dict(name=f"v{i}")) | gone)
with ledger.transaction() as db:
    db.execute("UPDATE rows SET state = 'checked'")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@needs_signals
def test_killed_between_two_events(path):
    "What was recorded before a kill is there after it; what was under way is not, and is to be done."
    dead = child(KILLED_WITHIN_AN_EVENT, path)
    assert dead.wait() == -signal.SIGKILL, dead.stderr.read()
    with Ledger(path) as ledger:
        assert not ledger.begin("one", path.parent)
        assert ledger.take("study", 500) == 500
        assert sorted(int(source[1:]) for source, *_ in ledger.todo()) == list(range(300, 500))
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_events_in_any_number_and_order(path, tmp_path):
    "A job run again tells its events again: whatever is mixed in, a checked clip stays checked and is counted once."
    (tmp_path / "clip0.mp4").write_bytes(b"clip")
    facts = dict(sha256=file_sha256(tmp_path / "clip0.mp4"), bytes=4)
    place = dict(name="video0", path="none", offset=0.0, whole=True, spans=[(0, 4)])
    source = place | dict(sha256="", bytes=1, attempts=1, seconds=0.1)
    job = [
        dict(rows=[0], state="fetched", attempts=1, source=source),
        dict(rows=[0], state="cut", **facts),
        dict(rows=[0], state="checked", **facts),
    ]
    fault = dict(rows=[0], state="rejected", kind="no_answer", reason="not fetched", passing=True, attempts=3)
    for seed in range(20):
        events = [*job, *job, *job[: random.Random(seed).randrange(3)], *[fault] * (seed % 2)]
        with take_all(path, [row(0)], identity=str(seed)) as ledger:
            fresh = [(event["state"], ledger.record(event)) for event in events]
            assert sum(n for state, n in fresh if state == "checked") == 1
            assert ledger.kept("study") == [(0, "video0")]
            assert not list(ledger.todo())
            assert all(n == 0 for _, n in fresh[3:])


def build_in_rounds(ledger, wanted, seed):
    "Rounds until there are as many as wanted of each part, or no rows; which row ends first depends on the seed."
    for part, n in wanted.items():
        while len(ledger.kept(part)) < n and ledger.take(part, n - len(ledger.kept(part))):
            positions = [row["position"] for _, rows, _ in ledger.todo() for row in rows]
            random.Random(seed).shuffle(positions)
            for position in positions:
                state = "checked" if position % 3 and position % 7 < 4 else "rejected"
                ledger.record(dict(rows=[position], state=state, kind="gone", reason="not fetched"))


def test_rounds_do_not_depend_on_the_order_of_events(path):
    "Whichever rows end first, the same are tried: a round holds as many as are missing."
    no_caption = dict(status="rejected", reason="no caption")
    rows = [row(i, video=f"video{i % 7}", **({} if i % 5 else no_caption)) for i in range(60)]
    outcomes = set()
    for seed in range(5):
        with Ledger(path) as ledger:
            ledger.begin(str(seed), path.parent)
            ledger.add(rows)
            build_in_rounds(ledger, dict(study=12, pool=10), seed)
            states = tuple(read_states(path, "position", "part", "state"))
            outcomes.add((tuple(ledger.kept("study")), tuple(ledger.kept("pool")), states))
    ((study, pool, _),) = outcomes
    assert len(study) == 12
    assert not {video for _, video in study} & {video for _, video in pool}, "the pool avoids the study's videos"


def test_a_round_is_read_as_it_is_asked_for(path):
    "Sources come once each, in order, though their rows end while the round is read."
    with take_all(path, [row(i, video=f"video{i % 250}") for i in range(1000)]) as ledger:
        seen = []
        for source, rows, spans in ledger.todo():
            seen.append(source)
            assert len(rows) == len(spans) == 4
            for r in rows:
                ledger.record(dict(rows=[r["position"]], state="checked"))
        assert seen == [f"video{i}" for i in range(250)]
        assert len(ledger.kept("study")) == 1000
        assert ledger.take("study", 5) == 0
        assert ledger.take("pool", 5) == 0


def test_every_end_has_its_time(path):
    with take_all(path, [row(0), row(0), row(1)]) as ledger:
        for state in STATES[1:4]:
            ledger.record(dict(rows=[0], state=state, attempts=state == "fetched"))
        with pytest.raises((UserError, sqlite3.Error)):
            ledger.record(dict(rows=[2], state="perhaps"))
        columns = ("selected_at", "fetched_at", "cut_at", "checked_at", "rejected_at", "attempts")
        (*good_end, rejected_at, attempts), second, _ = read_states(path, *columns)
    assert all(at is not None for at in good_end)
    assert good_end == sorted(good_end)
    assert abs(good_end[-1] - time.time()) < 60
    assert rejected_at is None
    assert attempts == 1
    assert second[:4] == (None,) * 4
    assert second[4], "the second of the same clip was rejected"


DAMAGED = [b"not a database at all, but long enough to be read as one" * 50, b"SQLite format 3\x00" + b"\xff" * 5000]


@pytest.mark.parametrize("content", DAMAGED, ids=["another file", "damaged"])
def test_a_file_that_is_no_ledger(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match="ledger.sqlite.*delete") as e:
        Ledger(path)
    assert "\n" not in str(e.value)
    path.unlink()
    with Ledger(path) as ledger:
        assert ledger.begin("one", path.parent), "the lock was kept by the one that failed"


def test_a_ledger_of_another_form(path):
    "It is not written to, and not read."
    with Ledger(path) as ledger:
        ledger.set_fact("identity", "one")
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    assert read_facts(path) == {}
    with pytest.raises(UserError, match="of form 99"):
        Ledger(path)


def test_progress_without_a_terminal(capfd):
    "Nothing is said of what takes seconds."
    with progress_line(10) as progress:
        for kind in ("gone", "gone", "no_answer", "damaged", "duration"):
            progress.count("rejected", kind, "reason")
        progress.count("checked")
    assert capfd.readouterr() == ("", "")
    line = "1 of 10 clips, 5 rejected (gone 2, no answer 1, damaged 1, others 1), 0.5 a second, 0:18 left"
    assert progress.line(2.0) == line
    assert Progress(3).line(1.0) == "0 of 3 clips"


def told_in_a_log(monkeypatch, capfd, total, seconds, make, count):
    "The lines of work without a terminal, of which each step takes so many seconds, and when they were said."
    clock, lines = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with make(total) as bar:
        for _ in range(total):
            clock[0] += seconds
            count(bar)
            lines += [(clock[0], line) for line in capfd.readouterr().err.splitlines()]
    return lines


BARS = {
    "clips": (progress_line, lambda progress: progress.count("checked")),
    "runs": (lambda total: progress_bar(total=total, label="runs"), lambda bar: bar.update()),
}


@pytest.mark.parametrize("what", BARS)
@pytest.mark.parametrize(
    ("total", "seconds", "times"),
    [
        (20, 6.0, [12.0 * i for i in range(1, 11)]),  # each tenth of the way
        (100, 2.0, [20.0 * i for i in range(1, 11)]),
        (100, 30.0, [60.0 * i for i in range(1, 51)]),  # each minute, where that is sooner
        (3, 200.0, [200.0, 400.0, 600.0]),
        (1000, 0.0625, [10.0 * i for i in range(1, 7)]),  # never two within ten seconds
        (1000, 0.009, []),
    ],
)
def test_progress_in_a_log(what, total, seconds, times, monkeypatch, capfd):
    "A line at each tenth of the way or each minute, whichever comes first: how many of how many, and the time left."
    told = told_in_a_log(monkeypatch, capfd, total, seconds, *BARS[what])
    assert [round(when, 6) for when, _ in told] == times
    for when, line in told:
        done = round(when / seconds)
        left = int((total - done) * seconds + 1e-6)
        assert line.startswith({"clips": f"{done} of {total} clips, ", "runs": f"runs: {done} of {total}, "}[what])
        found = re.search(r"(\d+):(\d\d) left$", line)
        assert abs(60 * int(found[1]) + int(found[2]) - left) <= 1, line


def test_no_progress_is_told_where_none_is_wanted(monkeypatch, capfd):
    for make, count in (
        (lambda total: progress_line(total, show=False), lambda progress: progress.count("checked")),
        (lambda total: progress_bar(total=total, label="runs", show=False), lambda bar: bar.update()),
    ):
        assert told_in_a_log(monkeypatch, capfd, 10, 100.0, make, count) == []


def test_a_bar_counts_from_what_was_done_before(monkeypatch, capfd):
    "The pace is that of this run."
    told = told_in_a_log(
        monkeypatch,
        capfd,
        2,
        30.0,
        lambda total: progress_bar(total=12, done=8, label="runs"),
        lambda bar: bar.update(2),
    )
    assert told == [(30.0, "runs: 10 of 12, 0:30 left"), (60.0, "runs: 12 of 12, 0:00 left")]


ON_A_TERMINAL = """
import time
from frames_matter.data.progress import progress_line
with progress_line(3) as progress:
    progress.count('checked')
    progress.count('rejected', 'row', 'no caption')
    time.sleep(0.3)
"""


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_progress_on_a_terminal():
    "One line is rewritten and then gone."
    master, slave = os.openpty()
    terminal = environment(TERM="xterm", COLUMNS="120")
    command = [sys.executable, "-c", ON_A_TERMINAL]
    process = subprocess.Popen(command, stderr=slave, stdout=subprocess.PIPE, env=terminal)
    assert process.wait() == 0
    assert process.stdout.read() == b""
    os.close(slave)
    written = os.read(master, 10**5).decode()
    assert "1 of 3 clips, 1 rejected (no caption 1)" in written


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_a_bar_on_a_terminal():
    "It is tqdm's."
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    counting = "from frames_matter.base.bars import progress_bar; list(progress_bar(range(3), label='runs'))"
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    terminal = environment(TERM="xterm")
    assert subprocess.run([sys.executable, "-c", counting], stderr=slave, env=terminal).returncode == 0
    os.close(slave)
    written = os.read(master, 10**5).decode()
    assert "runs:" in written and "3/3" in written and "\r" in written
