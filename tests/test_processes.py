"What `process_map` promises across processes."

import os
import signal
import subprocess
import sys
import time

import pytest

from frames_matter.base.processes import process_map


def test_results_come_in_order():
    assert list(process_map(abs, [-2, 1, -3], workers=2)) == list(process_map(abs, [-2, 1, -3], workers=1)) == [2, 1, 3]


@pytest.mark.skipif(os.name == "nt", reason="kills by signal")
def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / "job.py").write_text("import os\ndef pid(_): return os.getpid()\n")
    (tmp_path / "parent.py").write_text(
        "import time\nfrom frames_matter.base.processes import process_map\nfrom job import pid\n"
        "if __name__ == '__main__':\n    for p in process_map(pid, [1], workers=2): print(p, flush=True); time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    os.kill(worker, 0)  # it lives
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        if (
            os.path.exists(f"/proc/{worker}/stat")
            and open(f"/proc/{worker}/stat").read().rsplit(")", 1)[1].split()[0] == "Z"
        ):
            return  # ended, not yet reaped
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent")
