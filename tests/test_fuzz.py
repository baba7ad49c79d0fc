"""A slice of `frames-matter bench fuzz`: inputs of every kind; that what is not right would be seen; and what it found
once."""

import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from fuzzing.cell import Watch, command, run_input

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.data.manifest import load_manifest
from frames_matter.data.own import own_rows, register_own
from frames_matter.data.row_table import table_errors
from frames_matter.labs.audit import AUDIT, audit_figures, audit_tables
from frames_matter.metrics.retrieval import ranks
from frames_matter.metrics.stats import compare
from frames_matter.model.losses import infonce
from frames_matter.model.tokenizer import tokenizer_for
from frames_matter.report.reader import load_records
from frames_matter.video.frames import read_clip
from frames_matter.video.sampling import clip_indices, sample_indices

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


# --- what it found once ---


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    return tmp_path


MANIFEST = """clip_id,youtube_id,caption,split,status,frames,width,fps,start
a_0.000_1.000,a,A dog.,train,kept,{},96,12.0,0.0
b_0.000_1.000,b,A cat.,train,rejected,many,x,y,z
"""


@pytest.mark.parametrize("frames", ["many", "nan", "inf", "1.5", "1e300", "1_0", "--help"])
def test_a_manifest_whose_numbers_are_none_is_one_sentence(frames, tmp_path):
    path = tmp_path / "data_manifest" / "x" / "clips.csv"
    atomic_write(path, MANIFEST.format(12))
    kept = load_manifest(path)
    assert kept.frames.tolist() == [12] and kept.fps.tolist() == [12.0] and kept.start.tolist() == [0.0]
    atomic_write(path, MANIFEST.format(frames))
    with pytest.raises(UserError, match=f"whose frames '{frames}' is no number"):
        load_manifest(path)


def a_tar(path, films):
    with tarfile.open(path, "w") as tar:
        for film in ("good", "odd", "hevc", "deep"):
            caption = f"A film called {film}.".encode()
            for name, data in ((f"{film}.mp4", (films / f"{film}.mp4").read_bytes()), (f"{film}.txt", caption)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


RECORDS = (b"{", b"[]", b"{}", b"\xff", b'{"stamp": []}', b'{"stamp": [], "samples": [["a"]]}', b"[" * 100_000)


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_of_unpacking_that_somebody_changed_is_made_anew(record, home, films):
    profile = register_own(a_tar(home / "shard.tar", films), name="rows")
    first, written = own_rows(profile), next((data_dir(profile) / "unpacked").glob("*.json"))
    whole = written.read_bytes()
    written.write_bytes(record)
    assert own_rows(profile).equals(first) and written.read_bytes() == whole


def test_a_record_of_unpacking_names_no_file_elsewhere(home, films):
    profile = register_own(a_tar(home / "shard.tar", films), name="rows")
    first, written = own_rows(profile), next((data_dir(profile) / "unpacked").glob("*.json"))
    (home / "data" / "evil.mp4").write_bytes((films / "good.mp4").read_bytes())
    tree = json.loads(written.read_bytes())
    tree["samples"][0][1] = "../../evil.mp4"
    written.write_text(json.dumps(tree))
    assert own_rows(profile).equals(first) and not first.address.str.contains("evil").any()


@pytest.mark.parametrize("size", ["-1", "9" * 20, "x"])
def test_a_tar_whose_sizes_are_none_is_one_sentence(size, home, films):
    path = home / "shard.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.mp4")
        member.pax_headers = {"size": size}
        tar.addfile(member)
    with pytest.raises(UserError, match="shard.tar (is damaged or no tar|holds no video)|None of the 1 clips"):
        register_own(path, name="rows")


def test_a_sentence_holds_nothing_that_a_terminal_obeys(tmp_path):
    path = tmp_path / "a\nb\x1b[2J.mp4"
    path.write_bytes(b"no film")
    with pytest.raises(UserError, match="cannot be opened as video") as told:
        read_clip(path)
    assert "a\\nb\\x1b[2J.mp4" in str(told.value) and str(told.value).isprintable()


def test_a_complaint_about_a_table_holds_no_address_of_memory():
    with pytest.raises(UserError, match=r"a.parquet cannot be read .*__CSER_ of a column\); fetch"):  # noqa: SIM117
        with table_errors([Path("a.parquet")]):
            raise polars.exceptions.ComputeError("__CSER_0x10000000a of a column")


def test_features_that_do_not_fit_are_one_sentence():
    clips = torch.nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert infonce(clips, clips.double()).item() == pytest.approx(infonce(clips, clips).item(), abs=1e-6)
    for other in (clips[:2], clips.T, clips[0], clips[None]):
        with pytest.raises(UserError, match="as many clips as captions"):
            infonce(clips, other)


def test_metrics_of_what_is_none_are_one_sentence():
    assert ranks([[0.1, 0.9], [0.2, 0.1]], [1, 1]).tolist() == [1, 2]
    for positives in ([2, 0], [0], [0.5, 1], []):
        with pytest.raises(UserError, match="one whole number from 0 to 1"):
            ranks([[0.1, 0.9], [0.2, 0.1]], positives)
    with pytest.raises(UserError, match="no queries"):
        compare([], [], np.arange(0))
    with pytest.raises(UserError, match="a name a query, in one row"):
        compare(np.zeros(6), np.ones(6), np.zeros((6, 1)))
    assert compare(torch.zeros(6), torch.ones(6), np.arange(6)) == (100, 100, 100)
    with pytest.raises(UserError, match="Captions are a list, not NoneType"):
        tokenizer_for("mini")(None)
    with pytest.raises(UserError, match="at least 1 frame"):
        sample_indices("uniform", float("nan"))
    with pytest.raises(UserError, match="must be an array"):
        clip_indices([[[[0, 0, 0]]]], "motion")


def test_a_report_on_a_part_of_the_audit_shows_what_there_is(root):
    records = load_records(get_profile("mini"), AUDIT.layout)
    if not len(records):
        pytest.skip("the record holds no run of laboratory audit")
    runs = AUDIT.prepare(records)
    with_nothing = [table.name for table in audit_tables(runs[runs.canary != ""])]
    with_switches = [table.name for table in audit_tables(runs[runs.canary == ""])]
    assert with_nothing == ["canary"] and with_switches == ["audit", "deals"]
    assert audit_figures(runs[runs.canary != ""]) == []
