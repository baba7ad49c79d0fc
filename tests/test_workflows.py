"""The workflows parse, and whatever they call exists: targets of make, commands, actions at a version.

No secret or input gets where it does not belong.
"""

import os
import re
import subprocess
from importlib import metadata

import pytest
import yaml
from conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda p: p.name)
def workflow(request):
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def triggers(workflow):
    return workflow.get("on", workflow.get(True))  # YAML 1.1 reads `on` as a truth value


def steps(workflow):
    return [s for job in workflow["jobs"].values() for s in job["steps"]]


def commands(workflow):
    return [line.strip() for s in steps(workflow) for line in s.get("run", "").splitlines() if line.strip()]


def targets():
    names = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    return {n for n in names if re.search(rf"^{n}:", (ROOT / "Makefile").read_text(), re.M)}


def subcommands():
    import typer

    from frames_matter.cli import app

    return set(typer.main.get_command(app).commands)


def check_command(line):
    "Fail if a command of a workflow does not exist."
    words = line.split()
    if words[0] == "make":
        called = [w for w in words[1:] if "=" not in w]
        assert called and set(called) <= targets(), f"{line}: no target {set(called) - targets()}"
    elif words[0].startswith(".venv/bin/"):
        name = words[0].removeprefix(".venv/bin/")
        assert name in {e.name for e in metadata.entry_points(group="console_scripts")} | {"python"}, (
            f"{line}: no command {name}"
        )
        if name == "frames-matter":
            assert words[1] in subcommands(), f"{line}: no subcommand {words[1]}"
        if words[1:2] == ["bench"]:
            assert (ROOT / "bench" / f"{words[2]}.py").is_file(), line
    else:
        raise AssertionError(f"{line}: neither make nor a command of .venv")


def test_there_are_some():
    assert {p.stem for p in WORKFLOWS} >= {"test", "deploy", "reproduce"}


def test_what_they_run_exists(workflow):
    for line in commands(workflow):
        check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "make tset",
        "make",
        ".venv/bin/frames-mater doctor",
        ".venv/bin/frames-matter reprodcue",
        ".venv/bin/frames-matter bench speed",
        "pip install x",
    ],
)
def test_the_check_finds_what_is_missing(line):
    with pytest.raises(AssertionError):
        check_command(line)


def is_pinned(action):
    "Whether an action of somebody else is taken at a major version, or at a commit."
    return bool(re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|[0-9a-f]{40})", action))


def test_actions_have_a_version(workflow):
    for s in steps(workflow):
        assert ("uses" in s) != ("run" in s)
        assert "uses" not in s or is_pinned(s["uses"]), s["uses"]


@pytest.mark.parametrize(
    "action, pinned",
    [("actions/checkout@v4", True), ("actions/cache/restore@v4", True), ("a/b@" + "0a" * 20, True)]
    + [("a/b", False), ("a/b@main", False), ("a/b@v4.1", False), ("a/b@0a0a0a", False)],
)
def test_a_version_is_a_major_one_or_a_commit(action, pinned):
    assert is_pinned(action) == pinned


def test_permissions_are_named(workflow):
    "Nothing is left to the repository's default, and nobody may write everything."
    assert isinstance(workflow["permissions"], dict) and "write-all" not in str(workflow)
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_no_text_from_outside_becomes_a_command(workflow):
    "Inputs reach a shell as variables of its environment, never inside its script."
    assert not [line for line in commands(workflow) if "${{" in line]


def test_reproduce():
    """By hand, on one's own runner with a GPU, the study's profile by default.

    The step that fetches has the token, and the job the rights that a pull request needs.
    """
    from frames_matter.base.profiles import PROFILES

    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "reproduce.yaml").read_text())
    (job,) = workflow["jobs"].values()
    inputs = triggers(workflow)["workflow_dispatch"]["inputs"]
    assert set(triggers(workflow)) == {"workflow_dispatch"} and job["runs-on"] == ["self-hosted", "gpu"]
    assert inputs["profile"]["default"] == "internvid" and set(inputs["profile"]["options"]) <= set(PROFILES)
    assert workflow["permissions"] == {"contents": "read"} and job["permissions"] == {
        "contents": "write",
        "pull-requests": "write",
    }
    secret = [s for s in job["steps"] if "secrets." in str(s)]
    assert (
        len(secret) == 1
        and secret[0]["run"].startswith("make reproduce")
        and secret[0]["env"] == {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}
    )
    assert {"PROFILE", "OVERRIDES"} <= set(job["env"])
    artifact, pull = (
        next(s["with"] for s in job["steps"] if s.get("uses", "").startswith(name))
        for name in ("actions/upload-artifact@", "peter-evans/create-pull-request@")
    )
    assert (
        "results/${{ inputs.profile }}/notebooks/" in artifact["path"]
        and "results/${{ inputs.profile }}/tables/" in artifact["path"]
    )
    assert {"README.md", "results/${{ inputs.profile }}"} <= set(pull["add-paths"].splitlines())


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ("", []),
        ("seeds=[0,1] workers=4", ["seeds=[0,1]", "workers=4"]),
        (
            "a=$(shell touch made) b='; touch made;' c=`touch made` d=$(touch made)",
            ["a=$(shell", "touch", "made)", "b=';", "touch", "made;'", "c=`touch", "made`", "d=$(touch", "made)"],
        ),
    ],
)
def test_make_passes_overrides_on(tmp_path, overrides, expected):
    "As words, whatever they hold: neither make nor its shell runs anything in them."
    (tmp_path / "Makefile").write_text(
        (ROOT / "Makefile")
        .read_text()
        .replace("$(BIN)/frames-matter", "printf '<%s>\\n'")
        .replace("reproduce: $(READY)", "reproduce:")
    )
    (tmp_path / "settings.ini").write_text("min_python = 3.10\n")
    done = subprocess.run(
        ["make", "reproduce", "PROFILE=smoke"],
        cwd=tmp_path,
        env=os.environ | {"OVERRIDES": overrides},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = re.findall(r"^<(.*)>$", done.stdout, re.M)
    assert (
        words[:3] == ["reproduce", "--profile", "smoke"]
        and words[4::2] == expected
        and set(words[3::2]) <= {"--override"}
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Makefile", "settings.ini"]
