"A slice of `frames-matter bench fuzz`: inputs of every kind, and that what is not right would be seen."

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing.cell import Watch, command, run_input

from frames_matter.base.errors import UserError

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="processes are watched by Linux's means"),
    pytest.mark.slow,
]


def test_inputs_of_every_kind_are_answered_or_refused(root):
    "Four of each kind; the command fails if anything else comes of one."
    words = [sys.executable, str(root / "bench" / "fuzz.py"), "--inputs", "92", "--seed", "5"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert "92 inputs in" in done.stdout and " 0 findings" in done.stdout, done.stdout


def answers(rng, cell):
    return lambda: None


def refuses(rng, cell):
    return lambda: command("dataset", "verify", "-p", "nowhere")


def raises(rng, cell):
    return lambda: {}["a"]


def says_what_a_terminal_obeys(rng, cell):
    def call():
        error = UserError("")
        error.args = ("\x1b[2J.",)
        raise error

    return call


def writes_outside(rng, cell):
    return lambda: (cell.home / ".." / "beside.txt").write_text("touched")


def writes_by_another_program(rng, cell):
    return lambda: subprocess.run([sys.executable, "-c", f"open({str(cell.folder / 'x')!r}, 'w')"], check=True)


def asks(rng, cell):
    return lambda: socket.create_connection(("127.0.0.1", cell.port)).close()


def dies(rng, cell):
    return lambda: os.kill(os.getpid(), signal.SIGKILL)


def leaves(rng, cell):
    return lambda: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) and None


def runs(rng, cell):
    return lambda: os.system("true") and None


def writes_a_password(rng, cell):
    return lambda: (cell.home / "clips.csv").write_text("http://user:pa55w0rd@x/") and None


SEEN = {
    answers: "right",
    refuses: "refused",
    raises: "KeyError",
    says_what_a_terminal_obeys: "terminal obeys",
    writes_outside: "changed in/beside.txt",
    writes_by_another_program: "changed x",
    asks: "asked an address",
    dies: "ended by signal 9",
    leaves: "left a process: ",
    runs: "ran ",
    writes_a_password: "wrote a password into clips.csv",
}


@pytest.mark.parametrize("make", SEEN, ids=lambda make: make.__name__)
def test_what_is_not_right_is_seen(make, tmp_path):
    assert SEEN[make] in run_input(make, "an input", tmp_path, Watch()).told


def test_an_input_follows_from_its_name(tmp_path):
    "So that one that was told can be had again."
    made = []

    def kept(rng, cell):
        path = Path(tmp_path, f"{len(list(tmp_path.iterdir()))}.json")
        path.write_text(json.dumps([rng.random() for _ in range(3)]))
        return lambda: None

    for name in ("tar/7/0", "tar/7/0", "tar/7/1"):
        run_input(kept, name, tmp_path, Watch())
    made = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert made[0] == made[1] != made[2] and made[0][0] == random.Random("tar/7/0").random()
