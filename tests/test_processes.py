"What `process_map` promises across processes."

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frames_matter.base.processes import process_map

PARENT = """
import time
from frames_matter.base.processes import process_map
from job import pid
if __name__ == "__main__":
    for p in process_map(pid, [1], workers=2):
        print(p, flush=True)
        time.sleep(60)
"""


def is_running(process):
    "Whether a process is there and has not ended; one that has ended may wait to be reaped."
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def test_results_come_in_order():
    assert list(process_map(abs, [-2, 1, -3], workers=2)) == list(process_map(abs, [-2, 1, -3], workers=1)) == [2, 1, 3]


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / "job.py").write_text("import os\ndef pid(_): return os.getpid()\n")
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)  # it lives
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.1)
