"The command line as a process: help, exit codes, one line for what the user can put right."

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer

import frames_matter
from frames_matter.base.profiles import OF_LESSONS, get_profile, register
from frames_matter.cli import app, run_command
from frames_matter.data.ledger import LedgerFile

COMMAND = Path(sys.executable).with_name("frames-matter")
COMMANDS = [
    "dataset select",
    "dataset build",
    "dataset verify",
    "dataset export",
    "reproduce",
    "report",
    "judge",
    "power",
    "find",
    "pretrain",
    "bench",
    "doctor",
]


@pytest.fixture
def call(tmp_path):
    def run(line, **env):
        return subprocess.run(
            [COMMAND, *line.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "FRAMES_MATTER_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", **env},
        )

    return run


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    "The same within this process, for many calls."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = run_command(line.split())
        return subprocess.CompletedProcess(line, code, *capsys.readouterr())

    return run


def assert_one_line(done, *said):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stdout + done.stderr, done.stderr
    for text in said:
        assert text in done.stderr


@pytest.mark.parametrize("command", ["", "dataset"] + COMMANDS)
def test_help(call, command):
    done = call(f"{command} --help")
    assert done.returncode == 0 and "Usage: frames-matter" in done.stdout
    if command in COMMANDS:
        assert f"  frames-matter {command}" in done.stdout.split("Example")[1]
    told = " ".join(done.stdout.split())
    assert ("FIELD=VALUE" in told) == ("pydoc frames_matter.Profile` describes the fields" in told)


def test_every_command_is_known_here():
    root = typer.main.get_command(app)
    known = {name for name, command in root.commands.items() if not hasattr(command, "commands")}
    assert known | {f"dataset {name}" for name in root.commands["dataset"].commands} == set(COMMANDS)


@pytest.mark.parametrize("command", ["", "dataset"])
def test_no_command_is_help(call, command):
    "With exit code 2, for nothing was done."
    done = call(command)
    assert done.returncode == 2 and "Usage: frames-matter" in done.stdout and not done.stderr


@pytest.mark.parametrize("program", [[COMMAND], [sys.executable, "-m", "frames_matter"]])
def test_version(program, tmp_path):
    "Also as a module."
    done = subprocess.run([*program, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == f"frames-matter {frames_matter.__version__}"


@pytest.mark.parametrize(
    "command", ["dataset select", "dataset build", "dataset verify", "dataset export --to out", "reproduce", "report"]
)
def test_unknown_profile(call, command):
    assert_one_line(call(f"{command} --profile maxi"), "'maxi'", "smoke, mini, mini1000, internvid")


@pytest.mark.parametrize("command", ["reproduce", "dataset build"])
@pytest.mark.parametrize(
    "override, said", [("epoch=3", "epochs_first"), ("k=[]", "a whole number"), ("k", "FIELD=VALUE")]
)
def test_bad_override(call, command, override, said):
    assert_one_line(call(f"{command} -o {override}"), said)


@pytest.mark.parametrize("line", ["bild", "dataset bild", "report --seed 1", "bench speed", "report extra"])
def test_bad_usage(call, line):
    assert_one_line(call(line))


def test_a_usage_error_is_a_sentence(here):
    "Ours where no number is given for one, whatever library found it out; with a full stop in any case."
    for value in ("abc", "1e", "8,5", "100MB"):
        done = here(f"dataset export --to out --shard-mb {value}")
        assert_one_line(done, "frames-matter: --shard-mb must be a number, as in --shard-mb 100. See `frames-matter d")
    for value in ("abc", "1.5", "1k", "--full"):
        assert_one_line(here(f"dataset select --candidates {value}"), "--candidates must be a whole number, as in")
    for line in ("dataset export --shard 3", "report --seed 1", "bild", "dataset export", "dataset export --to"):
        assert_one_line(here(line))
        assert re.search(r"[.?] See `frames-matter.* --help`\.\n$", here(line).stderr), line


def commands():
    "Every command: its line, and what typer knows of it."
    for line in COMMANDS:
        found = typer.main.get_command(app)
        for word in line.split():
            found = found.commands[word]
        yield line, found


def options_with_values():
    "Every command, with what it cannot do without, and each of its options that takes a value."
    for line, found in commands():
        needed = [" x" for given in found.params if given.required and not given.opts[0].startswith("-")]
        options = [given for given in found.params if given.opts[0].startswith("-") and not given.is_flag]
        yield from ((line + "".join(needed), option) for option in options)


@pytest.mark.parametrize("command, option", [pytest.param(*o, id=f"{o[0]} {o[1].name}") for o in options_with_values()])
def test_an_option_that_counts_once_is_given_once(here, command, option):
    "Under one name or two; of one that may be repeated each value is looked at."
    said = "Override 'a' is not" if option.multiple else f"{option.opts[0]} is given 2 times; give it once."
    assert_one_line(here(f"{command} {option.opts[0]} a {option.opts[-1]} b"), said)


@pytest.mark.parametrize("name", ["speed", "_script"])
def test_a_benchmark_that_is_none_is_told_with_those_there_are(name, here, monkeypatch, root):
    "What they share is none of them."
    monkeypatch.setattr("frames_matter.cli.project_root", lambda: root)
    done = here(f"bench {name}")
    scripts = sorted(p.stem for p in (root / "bench").glob("*.py") if not p.stem.startswith("_"))
    assert_one_line(done, f"Unknown benchmark '{name}'", f"valid: {', '.join(scripts)}.")


@pytest.mark.parametrize("words", ["levels many", "levels 7", "fuzz --kinds none", "kills --only none"])
def test_a_benchmark_that_is_refused_ends_in_one_line(words, root):
    "Each by the one helper that they share."
    name, *rest = words.split()
    done = subprocess.run([sys.executable, f"bench/{name}.py", *rest], cwd=root, capture_output=True, text=True)
    assert_one_line(done)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 40, b"clip_id,youtube_id\na,b\n"])
def test_unreadable_manifest(call, tmp_path, content):
    folder = tmp_path / "data_manifest" / "smoke"
    folder.mkdir(parents=True)
    (folder / "clips.csv").write_bytes(content)
    assert_one_line(call("dataset verify --profile smoke"), "clips.csv")


def test_absent_manifest(call):
    assert_one_line(call("dataset verify --profile smoke"), "clips.csv")


@pytest.mark.parametrize("line", ["dataset verify -p {}", "dataset export --to out -p {}"])
@pytest.mark.parametrize("name", ["mini", "internvid", "big"])
@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_a_manifest_that_cannot_be_read_is_built_by_its_own_name(here, tmp_path, name, line, content):
    "Also where the profile is one of one's own: a command without a name would build mini."
    register("big", rows="my.csv", source="own")
    if content is not None:
        (tmp_path / "data_manifest" / name).mkdir(exist_ok=True)
        (tmp_path / "data_manifest" / name / "clips.csv").write_text(content)
    assert_one_line(here(line.format(name)), f"; build it with `frames-matter dataset build -p {name}`.\n")


@pytest.mark.parametrize("name", ["mini", "big"])
def test_a_manifest_that_is_being_built(here, tmp_path, name):
    "Who is told to build it would be refused."
    register("big", rows="my.csv", source="own")
    with LedgerFile(tmp_path / "data" / name / "ledger.sqlite"):
        done = here(f"dataset verify -p {name}")
        assert_one_line(done, f"Process {os.getpid()} ", "has been building", "wait until it has finished")
    assert_one_line(here(f"dataset verify -p {name}"), f"dataset build -p {name}`")


@pytest.mark.parametrize(
    "line, said",
    [
        ("dataset build --from nothing.csv", "nothing at"),
        ("dataset build --from my.csv", "no column path or url"),
        ("dataset build --from films", "holds no videos"),
        ("dataset build --from my.csv -p mini", "give one of them"),
        ("dataset build --from my.csv --from-manifest my.csv", "give one of them"),
        ("dataset build --name mine", "--from or --from-manifest"),
        ("dataset build --like smoke", "--from or --from-manifest"),
        ("dataset build --from films --name my/films", "cannot be a profile's name"),
        ("dataset build --from my.csv --name mini", "comes with the package"),
        ("dataset build --from my.csv --like maxi", "smoke, mini"),
        ("dataset build --from my.csv --engine spark", "threads, ray"),
        ("dataset build -p smoke --engine spark", "threads, ray"),
        ("dataset build --from-manifest nothing.csv", "no manifest at"),
        ("dataset export", "--to"),
        ("dataset export --to out", "clips.csv"),
        ("dataset export --to out --format zip -p smoke", "webdataset, datasets"),
        ("reproduce --data mine", "'mine'"),
        ("reproduce -p mini --data mine", "give one of them"),
        ("dataset select -p mine", "'mine'"),
    ],
)
def test_clips_of_ones_own(here, tmp_path, line, said):
    "What the command line is given amiss; nothing is left behind."
    (tmp_path / "films").mkdir()
    (tmp_path / "my.csv").write_text("film,caption\na.mp4,A dog.\n")
    assert_one_line(here(line), said)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films", "my.csv"]


def test_a_damaged_registration_is_one_line(here, tmp_path):
    (tmp_path / "data_manifest" / "mine").mkdir(parents=True)
    for content in (
        "{",
        "[]",
        '{"like": "maxi", "fields": {}}',
        '{"like": ["mini"], "fields": {}}',
        '{"like": "mini", "fields": {"k": "8"}}',
        '{"like": "mini", "fields": {"colour": 1}}',
    ):
        (tmp_path / "data_manifest" / "mine" / "profile.json").write_text(content)
        assert_one_line(here("dataset verify -p mine"), "profile.json is damaged", "register mine again")


def test_doctor_tells_one_line_a_check(call):
    done = call("doctor")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) >= 8 and all(re.match(r"ok  \S+", line) for line in lines)


def test_a_failing_lesson_is_one_line(call, tmp_path):
    from test_reproduce import notebook

    (tmp_path / "nbs" / "lessons").mkdir(parents=True)
    notebook(tmp_path / "nbs" / "lessons" / "01_a.ipynb", "raise OSError('no such clip')")
    done = call("reproduce --profile smoke")
    assert_one_line(done, "Lesson 01_a failed with OSError: no such clip", "01_a.failed.ipynb")
    assert "[1/1] 01_a" in done.stdout


def test_ctrl_c_says_that_it_was_heard(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("frames_matter.labs.registry.report", interrupt)
    assert run_command(["report", "--profile", "smoke"]) == 130
    assert (
        capsys.readouterr().err.strip()
        == "frames-matter: Interrupted. What was finished is kept: run the command again to go on."
    )


def told_rows(here, tmp_path, rows):
    "What `dataset select` says of the rows of a table, without those that qualify."
    table = tmp_path / "data" / "smoke" / "metadata.jsonl"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = here("dataset select -p smoke -o source=hub")
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = done.stdout.splitlines()
    return lines[next(i for i, line in enumerate(lines) if "qualif" in line) :]


def test_rows_that_do_not_qualify_are_counted_by_what_is_wrong_with_them(here, tmp_path):
    "Most first; those that cannot be are counted under what they are, whatever stands in them."
    from fault_site import HOSTILE_IDS, IMPOSSIBLE_TIMES, rows

    n_odd = sum(word == "timestamp" for *_, word in IMPOSSIBLE_TIMES)
    n_no_id = sum(not youtube_id for youtube_id in HOSTILE_IDS)
    table = [row for row, _ in rows()]
    head, *lines = told_rows(here, tmp_path, table)
    assert head == f"1 of {len(table)} rows qualify; the others:"
    counts = [re.fullmatch(r" +(\d+)  (.+?)(?: \((.*)\))?", line).groups() for line in lines]
    assert {reason: int(n) for n, reason, _ in counts} == {
        "the id is not a video's id": len(HOSTILE_IDS) - n_no_id,
        "not a timestamp": n_odd,
        "no id": n_no_id,
        "ends before it begins": 2,
        "no start or no end": 2,
        "longer than 15 s": 2,
        "no caption": 2,
        "no score": 2,
        "score below 4": 1,
        "the same clip as an earlier row": 1,
    }
    assert [int(n) for n, *_ in counts] == sorted((int(n) for n, *_ in counts), reverse=True)
    assert "'later' should read HH:MM:SS.mmm, ..." in {where for *_, where in counts}


def test_tables_of_which_all_or_no_rows_qualify(here, tmp_path):
    from fault_site import row

    assert told_rows(here, tmp_path, [row("good")]) == ["1 of 1 rows qualify."]
    bad = [row(None), row(""), row("good", start=None)]
    assert told_rows(here, tmp_path, bad) == [
        "0 of 3 rows qualify; the others:",
        "       2  no id",
        "       1  no start or no end",
    ]
    assert "DataFrame" not in here("dataset select -p smoke -o source=hub").stdout


IDLE = {
    "dataset select -p smoke -o device=cuda": ["device; give it to `frames-matter reproduce`"],
    "dataset select -p smoke -o k=4 -o seeds=[1] -o min_score=4.5": [
        "k, seeds; give them to `frames-matter reproduce`"
    ],
    "dataset select -p smoke -o patience=1 -o epochs_first=2 -o workers=1": [
        "epochs_first; give it to `frames-matter reproduce`",
        "patience; give it to `frames-matter dataset build`",
    ],
    "dataset select -p smoke -o min_score=4.5 -o n_clips=9 -o seed=1": [],
}


@pytest.mark.parametrize("line", IDLE)
def test_fields_that_a_command_makes_no_use_of_are_told(line, here):
    "And that it did its work all the same."
    done = here(line)
    assert done.returncode == 0 and done.stdout
    assert done.stderr.splitlines() == [f"`frames-matter dataset select` makes no use of {s}." for s in IDLE[line]]


def test_a_build_is_the_same_whatever_the_fields_of_the_lessons_say(here):
    others = dict(device="cuda", processes=2, preprocessing="official", protocols=["sound"], seeds=[7], k=4)
    others |= dict(batch_size=9, learning_rate=1e-3, weight_decay=1, temperature=1, hard_negative_weight=1)
    others |= dict(epochs_first=7, epochs_second=7, precision="bf16", image_size=64)
    assert set(others) == set(OF_LESSONS)
    given = [f"-o {field}={json.dumps(value, separators=(',', ':'))}" for field, value in others.items()]
    plain, changed = (
        here("dataset build -p smoke -o patience=1 -o results=smoke"),
        here(" ".join(["dataset build -p smoke", *given])),
    )
    assert plain.returncode == 0 and changed.stdout == plain.stdout and plain.stderr == ""
    assert changed.stderr == (
        f"`frames-matter dataset build` makes no use of {', '.join(others)}; give them to `frames-matter reproduce`.\n"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_kept_for_the_lessons_is_told_of_where_it_is_not_there(here, tmp_path):
    "A build is made all the same, for it computes on none."
    from test_refused import make_film

    (tmp_path / "films").mkdir()
    for i in range(5):
        make_film(tmp_path / "films" / f"f{i}.mp4", f"64x{48 + 2 * i}", 4)
        (tmp_path / "films" / f"f{i}.txt").write_text(f"A film {i}.")
    done = here("dataset build --from films --name mine --like smoke -o device=cuda -o k=4")
    assert done.returncode == 0, done.stderr
    assert "for the lessons mine keeps what you gave. This run wants an NVIDIA GPU" in done.stderr
    assert "makes no use" not in done.stderr and get_profile("mine").device == "cuda" and get_profile("mine").k == 4
    assert_one_line(here("reproduce --data mine"), "This run wants an NVIDIA GPU")
    said = here("dataset build --from films --name mine --like smoke -o device=cpu").stderr.splitlines()
    assert len(said) == 1 and "never seen real video" in said[0]


# --- for shells, programs and terminals ---


def options_of(name):
    "The commands with an option, and what they cannot do without."
    for line, found in commands():
        if any(name in given.opts for given in found.params):
            yield line


def test_what_a_machine_may_read_is_json_by_one_option():
    assert set(options_of("--json")) == {"dataset verify", "judge", "power", "find", "bench", "doctor"}


def completed(line, home):
    "What bash would offer after a line that ends at the cursor, by the script that is installed."
    words = " ".join(f"'{word}'" for word in line.split(" "))
    script = f"""
source "$HOME/.bash_completions/frames-matter.sh"
COMP_WORDS=({words}); COMP_CWORD=$(({len(line.split(" "))} - 1))
_frames_matter_completion {COMMAND}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return bash(script, home).stdout.split()


def bash(script, home):
    env = {**os.environ, "HOME": str(home), "FRAMES_MATTER_HOME": str(home)}
    return subprocess.run(["bash", "-c", f"{script}\n:"], env=env, cwd=home, capture_output=True, text=True)


@pytest.fixture(scope="module")
def completing(tmp_path_factory):
    "A home in which somebody had completion installed, and registered clips."
    home = tmp_path_factory.mktemp("home")
    done = bash(f"{COMMAND} --install-completion", home)
    assert done.returncode == 0 and "bash completion installed" in done.stdout, done.stderr
    assert ".bash_completions/frames-matter.sh" in (home / ".bashrc").read_text()
    (home / "data_manifest" / "mine").mkdir(parents=True)
    (home / "data_manifest" / "mine" / "profile.json").write_text('{"like": "mini", "fields": {}}')
    return home


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(
    "line, offered",
    [
        ("frames-matter re", ["reproduce", "report"]),
        ("frames-matter dataset ", ["select", "build", "export", "verify"]),
        ("frames-matter judge --l", ["--like"]),
        ("frames-matter report --profile mi", ["mini", "mini1000", "mine"]),
        ("frames-matter report -p mini -p s", ["smoke"]),
        ("frames-matter reproduce --data m", ["mine"]),
        ("frames-matter bench dec", []),
    ],
)
def test_a_shell_completes(line, offered, completing):
    "Commands, options and names; of a line that would be refused too, and nothing where there is nothing."
    assert completed(line, completing) == offered


def test_benchmarks_are_listed_for_people_and_programs(here, monkeypatch, root):
    monkeypatch.setattr("frames_matter.cli.project_root", lambda: root)
    scripts = sorted(p.stem for p in (root / "bench").glob("[!_]*.py"))
    told = json.loads(here("bench --list --json").stdout)
    assert [entry["benchmark"] for entry in told] == scripts and all(entry["measures"] for entry in told)
    lines = here("bench --list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == scripts
    assert json.loads(here("bench decode --list --json").stdout) == [e for e in told if e["benchmark"] == "decode"]
    assert_one_line(here("bench --json"), "--json goes with --list")
    assert_one_line(here("bench nothing --list --json"), "Unknown benchmark 'nothing'")


def test_doctor_tells_programs(here, monkeypatch):
    "The same checks, and the same exit code."
    monkeypatch.setattr("frames_matter.cli.diagnose", lambda: [("disk", True, "1 GB"), ("port", False, "\x1b[2Jé")])
    done = here("doctor --json")
    assert done.returncode == 1 and done.stdout.isascii() and not done.stderr
    assert json.loads(done.stdout) == [
        {"check": "disk", "well": True, "found": "1 GB"},
        {"check": "port", "well": False, "found": "\x1b[2Jé"},
    ]


MANIFEST = pd.DataFrame({"clip_id": ["a", "b"], "caption": ["A dog."] * 2, "status": ["kept"] * 2})


def test_verify_tells_programs(here, monkeypatch):
    "What differs on the standard output, and the sentence beside the exit code on the other."
    monkeypatch.setattr("frames_matter.data.manifest.load_manifest", lambda profile: MANIFEST)
    for differences in ([], ["a: the file is not there", "b: another hash"]):
        monkeypatch.setattr("frames_matter.data.manifest.verify", lambda profile, found=differences: found)
        done = here("dataset verify -p smoke --json")
        told = {"profile": "smoke", "clips": 2, "differences": differences, "cut_captions": ""}
        assert json.loads(done.stdout) == told
    assert_one_line(done, "2 of the clips or files are not as the manifest says")


@pytest.mark.parametrize("line", ["dataset verify -p maxi --json", "power --clips x --json", "doctor --json more"])
def test_what_is_refused_is_refused_to_programs_too(line, here):
    done = here(line)
    assert_one_line(done)
    assert done.stdout == ""


def on_terminal(line, **env):
    "What a command writes when a terminal is there."
    pty = pytest.importorskip("pty")
    master, terminal = pty.openpty()
    env = {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", **env}
    process = subprocess.Popen([COMMAND, *line.split()], stdin=terminal, stdout=terminal, stderr=terminal, env=env)
    os.close(terminal)
    told = b""
    with contextlib.suppress(OSError):  # which is how the end of a terminal is told
        while part := os.read(master, 4096):
            told += part
    os.close(master)
    process.wait()
    return told.decode()


def test_colours_are_for_terminals(call):
    assert on_terminal("bild").startswith("\x1b[31mframes-matter:\x1b[0m ")
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert on_terminal("bild", **env).startswith("frames-matter: ")
    assert on_terminal("bild", NO_COLOR="").startswith("\x1b[31m")  # an empty one says nothing, by no-color.org
    assert call("bild").stderr.startswith("frames-matter: ")


def test_marks_of_checks_are_coloured(monkeypatch, capsys):
    monkeypatch.setattr("frames_matter.cli.diagnose", lambda: [("disk", True, "1 GB"), ("port", False, "\x1b[2J")])
    monkeypatch.setattr("frames_matter.cli._shows_colours", lambda stream: True)
    assert run_command(["doctor"]) == 1
    well, wanting = capsys.readouterr().out.splitlines()
    assert well == "\x1b[32mok \x1b[0m disk    1 GB" and wanting == "\x1b[31mFIX\x1b[0m port    \\x1b[2J"
