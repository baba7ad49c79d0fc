"""A process and a home for one input, with all around it watched: what came of it, and what it left.

An input may be answered rightly or be refused in a sentence. All else is a finding: another error, a signal, a hang, a
file written or a process left outside its home, an address asked that the input may not have asked, code run.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import resource
import select
import signal
import socket
import stat
import sys
import tempfile
import time
import traceback
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from frames_matter.base.errors import UserError
from frames_matter.cli import run_command

SECONDS = 100  # of one input; decord's own process is stopped after 60
MEGABYTES = 1200  # beyond what is loaded before the first input
SECRET = "pa55w0rd"  # in addresses; it must not be written down
FINE = ("right", "refused")


class Watch:
    "A socket on loopback at which nobody may ask: inputs name it."

    def __init__(self):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(16)
        self._socket.setblocking(False)
        self.port = self._socket.getsockname()[1]

    def was_asked(self) -> bool:
        "Whether somebody asked since the last time."
        asked = False
        with contextlib.suppress(BlockingIOError):
            while connection := self._socket.accept()[0]:
                connection.close()
                asked = True
        return asked


@dataclass
class Cell:
    """Where an input is made and used.

    Attributes
    ----------
    folder
        All that is watched.
    corpus
        Whole films, a data set that was built, and other things to be spoilt.
    port
        Of loopback, at which nobody may ask.
    may_ask
        Whether this input may: it names the address as a video's, and says that it is to be had.
    """

    folder: Path
    corpus: Path
    port: int
    may_ask: bool = field(default=False)

    def __post_init__(self):
        self.home, self.given, self.out, self.tmp = (self.folder / n for n in ("in/home", "in/given", "out", "tmp"))
        self.canary = self.folder / "ran"  # what code in an input would make

    @property
    def url(self) -> str:
        "An address at which nobody may ask."
        return f"http://127.0.0.1:{self.port}"

    def lay_out(self):
        "Make the folders, and what is not to be touched around them."
        for folder in (self.home, self.given, self.out, self.tmp):
            folder.mkdir(parents=True)
        for place in ("in/beside.txt", "in/data/evil/clips/a.mp4", "in/results/evil/runs.jsonl", "above.txt"):
            (self.folder / place).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / place).write_text("not to be touched")
        (self.folder / "in/data_manifest/evil").mkdir(parents=True)

    def around(self) -> dict:
        "What lies around the home: path -> what it is."
        own = {str(p) for p in (self.home, self.out, self.tmp)}
        found = {}
        for top, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if os.path.join(top, name) not in own]
            for path in (os.path.join(top, name) for name in (*folders, *names)):
                found[path] = _state_of(path)
        return found


def _state_of(path):
    "What a file is; of a folder, that it is there."
    about = os.lstat(path)
    if not stat.S_ISREG(about.st_mode):
        return about.st_mode
    return about.st_mode, about.st_mtime_ns, about.st_size, about.st_size < 2**20 and _hash_of(path)


def _hash_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).digest()


# ---- in the process of an input

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.chmod": 1}
_PROGRAMS = re.compile(r"(python|ffmpeg|ffprobe|node|deno|bun|uname|ldconfig|gcc|ld|git)[-\w.]*")


class Strays:
    "What Python code in this process does beyond its home."

    def __init__(self, cell: Cell):
        self.found: list[str] = []
        self._own = tuple(os.path.realpath(p) + "/" for p in (cell.home, cell.out, cell.tmp)) + ("/dev/",)
        sys.addaudithook(self._see)

    def _see(self, event, args):
        if event == "open" and isinstance(args[0], (str, bytes)) and (args[2] or 0) & _WRITING:
            self._written(args[0], event)
        elif event in _CHANGES and all(fd in (-1, None) for fd in args[_CHANGES[event] :] if isinstance(fd, int)):
            self._written(args[_CHANGES[event] - 1], event)
        elif event == "socket.connect" and args[1] and isinstance(args[1], tuple):
            if not str(args[1][0]).startswith(("127.", "::1", "localhost")):
                self.found.append(f"asked {args[1][0]}")
        elif event in ("os.system", "os.exec", "os.posix_spawn", "pty.spawn"):
            self.found.append(f"ran {args[0]!r}")
        elif event == "subprocess.Popen" and not _PROGRAMS.fullmatch(os.path.basename(str(args[0]))):
            self.found.append(f"started {args[0]!r}")

    def _written(self, path, event):
        path = os.path.realpath(os.fsdecode(path))
        if not f"{path}/".startswith(self._own):
            self.found.append(f"{event} of {path}")


def is_harmless(text: str, also: str = "") -> bool:
    "Whether a terminal obeys nothing in a text."
    turns = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in turns for c in text if c not in also)


def fault_of_sentence(told: str) -> str:
    "What is wrong with what a user is told; '' for a sentence."
    faults = {
        "is no single line": "\n" in told,
        "holds what a terminal obeys": not is_harmless(told, also="\n"),
        "does not end as a sentence": not told.endswith((".", "`")),
        "holds an address of memory": re.search(r"0x[0-9a-f]{8,}", told),
        f"is of {len(told)} characters": len(told) > 5000,
        "holds a password": SECRET in told,
    }
    return ", ".join(fault for fault, is_so in faults.items() if is_so)


def command(*words: object) -> tuple[int, str]:
    "Run a command line: its exit code, 0 or 1, and what it printed; a `UserError` of its sentence if it refused."
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command([str(word) for word in words])
    said, told = (stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err))
    assert "Traceback" not in said + told, f"printed a traceback: {(said + told)[-300:]}"
    assert is_harmless(said + told, also="\n\t\r"), f"printed what a terminal obeys: {ascii((said + told)[:200])}"
    assert code in (0, 1, 2), f"exit code {code}"
    if code == 2:
        last = told.rstrip("\n").rpartition("\n")[2]
        assert last.startswith("frames-matter: "), f"no sentence: {ascii(told[-200:])}"
        raise UserError(last.removeprefix("frames-matter: "))
    return code, said


def judged(call: Callable[[], None]) -> tuple[str, str]:
    "What comes of a call: right, refused, or what should not have been; and what was said."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call()
        return "right", ""
    except UserError as e:
        fault = fault_of_sentence(str(e))
        return f"its sentence {fault}" if fault else "refused", str(e)[:400]
    except BaseException as e:  # a panic of a library in Rust is no Exception
        own = [f for f in traceback.extract_tb(e.__traceback__) if "frames_matter" in f.filename]
        where = f" ({Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name})" if own else ""
        return f"{type(e).__name__}{where}", str(e)[:400]


def _secrets_below(folder):
    "Files in which a password stands."
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return [p.relative_to(folder).as_posix() for p in files if SECRET.encode() in p.read_bytes()]


def _in_child(make, rng, cell, say, go):
    "Make the input, wait, use it, tell."
    os.setsid()
    os.chdir(cell.home)
    os.environ |= dict(FRAMES_MATTER_HOME=str(cell.home), HOME=str(cell.tmp), TMPDIR=str(cell.tmp), HF_HUB_OFFLINE="1")
    os.environ |= dict(MPLCONFIGDIR=str(cell.tmp), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode, tempfile.tempdir = True, str(cell.tmp)
    log = os.open(cell.folder / "out" / "log.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        call = make(rng, cell)
    except BaseException:
        os.write(say, json.dumps(["not made", traceback.format_exc()[-600:]]).encode())
        return
    os.write(say, b"%d\n" % cell.may_ask)
    os.read(go, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**31, 2**31))
    strays = Strays(cell)
    told, text = judged(call)
    found = list(strays.found)
    if secrets := _secrets_below(cell.home):
        found.append(f"wrote a password into {', '.join(secrets)}")
    os.write(say, json.dumps([told, "; ".join(found)[:1000], text]).encode())


# ---- in the process that watches


@dataclass(frozen=True)
class Outcome:
    "What came of an input, the words, and how many seconds and megabytes it took."

    told: str
    said: str
    seconds: float
    megabytes: float

    @property
    def is_fine(self) -> bool:
        "Whether it was answered rightly or refused in a sentence."
        return self.told in FINE


def run_input(make: Callable, name: str, corpus: Path, watch: Watch) -> Outcome:
    """What comes of one input.

    Parameters
    ----------
    make : callable
        Makes the input of a generator of random numbers in a cell, and returns what uses it: a callable that raises an
        AssertionError where what comes back is wrong.
    name : str
        Of the input, of which all chance follows.
    corpus : Path
        As of the `Cell`.
    watch : Watch
        At which nobody may ask.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        cell = Cell(Path(folder).resolve(), corpus, watch.port)
        cell.lay_out()
        said, say = os.pipe()
        go, start = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _in_child(make, random.Random(name), cell, say, go)
            finally:
                os._exit(0)
        for end in (say, go):
            os.close(end)
        with open(said, "rb", buffering=0) as answers, open(start, "wb", buffering=0) as starter:
            outcome = _watched(child, answers, starter, cell, watch)
        return outcome


def _watched(child, answers, starter, cell, watch):
    "Let a child begin, and see what it says, does and leaves."
    first = _answer(answers, child, 120)
    if first not in (b"0\n", b"1\n"):
        _end_group(child)
        os.waitpid(child, 0)
        return Outcome("the input was not made", first.decode(errors="replace"), 0, 0)
    before, begun = cell.around(), time.monotonic()
    watch.was_asked()
    starter.write(b"!")
    answer = _answer(answers, child, SECONDS)
    seconds, found = time.monotonic() - begun, []
    if answer is None:
        os.killpg(child, signal.SIGKILL)
        found.append(f"hung for {SECONDS} s")
    _, status, usage = os.wait4(child, 0)
    told, said = ("", "") if answer is None else _told(answer, status)
    found += [told] if told else []
    if left := _end_group(child):
        found.append(f"left a process: {left}")
    if watch.was_asked() and first == b"0\n":
        found.append("asked an address on loopback")
    after = cell.around()
    if changed := sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p)):
        found.append(f"changed {', '.join(os.path.relpath(p, cell.folder) for p in changed[:5])}")
    megabytes = usage.ru_maxrss / 1024
    if megabytes > loaded_megabytes() + MEGABYTES:
        found.append(f"took {megabytes:.0f} MB")
    bad = [one for one in found if one not in FINE]
    return Outcome("; ".join(bad) or found[0], said, seconds, megabytes)


def loaded_megabytes() -> float:
    "Of this process, from which each input's is forked."
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _answer(answers, child, seconds):
    "What a child says next; b'' if it ended, None if it takes too long."
    ready, _, _ = select.select([answers], [], [], seconds)
    return answers.read(2**16) if ready else None


def _told(answer, status):
    "What a child said of its input, or how it ended; and the words."
    if os.WIFSIGNALED(status):
        return f"ended by signal {os.WTERMSIG(status)}", ""
    if not answer:
        return f"ended with {status} and said nothing", ""
    told, strays, said = json.loads(answer)
    return f"{told}; {strays}" if strays else told, said


def _end_group(child):
    "End what a child left behind a second after its end; its command lines."
    end = time.monotonic() + 1
    while (left := living_of_group(child)) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return ", ".join(left.values())


def living_of_group(group: int) -> dict[int, str]:
    "The processes of a group that live, and their command lines."
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone by now
            state, _, process_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
    return found
