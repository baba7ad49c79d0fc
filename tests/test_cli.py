"The command line as a process: help, exit codes, one line for what the user can put right."
import os, re, subprocess, sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("frames-matter")
COMMANDS = ["dataset select", "dataset build", "dataset verify", "reproduce", "report", "pretrain", "bench", "doctor"]

@pytest.fixture
def call(tmp_path):
    def run(line, **env):
        return subprocess.run([COMMAND, *line.split()], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                              env={**os.environ, "FRAMES_MATTER_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **env})
    return run

def assert_one_line(done, *said):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
    for text in said: assert text in done.stderr

@pytest.mark.parametrize("command", ["", "dataset"] + COMMANDS)
def test_help(call, command):
    done = call(f"{command} --help")
    assert done.returncode == 0 and "Usage: frames-matter" in done.stdout
    if command in COMMANDS: assert f"  frames-matter {command}" in done.stdout.split("Example")[1]

@pytest.mark.parametrize("command", ["dataset select", "dataset build", "dataset verify", "reproduce", "report"])
def test_unknown_profile(call, command): assert_one_line(call(f"{command} --profile maxi"), "'maxi'", "smoke, mini, mini1000, internvid")

@pytest.mark.parametrize("command", ["reproduce", "dataset build"])
@pytest.mark.parametrize("override, said", [("epoch=3", "epochs_first"), ("k=[]", "must be int"), ("k", "FIELD=VALUE")])
def test_bad_override(call, command, override, said): assert_one_line(call(f"{command} -o {override}"), said)

@pytest.mark.parametrize("line", ["bild", "dataset bild", "report --seed 1", "bench speed", "report extra"])
def test_bad_usage(call, line): assert_one_line(call(line))

@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 40, b"clip_id,youtube_id\na,b\n"])
def test_unreadable_manifest(call, tmp_path, content):
    folder = tmp_path/"data_manifest"/"smoke"
    folder.mkdir(parents=True)
    (folder/"clips.csv").write_bytes(content)
    assert_one_line(call("dataset verify --profile smoke"), "clips.csv")

def test_absent_manifest(call): assert_one_line(call("dataset verify --profile smoke"), "clips.csv")

def test_doctor_tells_one_line_a_check(call):
    done = call("doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) >= 8 and all(re.match(r"ok  \S+", line) for line in lines)

def test_a_failing_lesson_is_one_line(call, tmp_path):
    from test_reproduce import notebook
    (tmp_path/"nbs"/"lessons").mkdir(parents=True)
    notebook(tmp_path/"nbs"/"lessons"/"01_a.ipynb", "raise OSError('no such clip')")
    done = call("reproduce --profile smoke")
    assert_one_line(done, "Lesson 01_a failed with OSError: no such clip", "01_a.failed.ipynb")
    assert "[1/1] 01_a" in done.stdout
