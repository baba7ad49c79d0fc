"""Whatever the workflows call exists: targets of make, commands, tests. Who has which rights, and who has a secret.

What check-jsonschema and zizmor find by themselves, the step `workflows` of tests/all.py asks them: that a workflow is
one, has time limits, takes actions by commit, leaves no credentials about and puts no text from outside into a shell.
"""

import configparser
import os
import re
import shutil
import subprocess
from importlib import metadata

import pytest
import yaml
from all import workflows as check_workflows
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
    elif words[:2] == ["python", "-m"]:
        assert words[2] in ("pip", "pytest"), line
        assert [w for w in words if w.startswith("tests/") and not (ROOT / w).is_file()] == [], line
    elif words[0].startswith(".venv/bin/") or words[0] == "frames-matter":
        name = words[0].removeprefix(".venv/bin/")
        assert name in {e.name for e in metadata.entry_points(group="console_scripts")} | {"python"}, (
            f"{line}: no command {name}"
        )
        if name == "frames-matter":
            assert words[1] in subcommands(), f"{line}: no subcommand {words[1]}"
        if words[1:2] == ["bench"]:
            assert (ROOT / "bench" / f"{words[2]}.py").is_file(), line
    else:
        raise AssertionError(f"{line}: neither make nor a command of ours")


def test_there_are_some():
    assert {p.stem for p in WORKFLOWS} >= {"test", "deploy", "release", "reproduce", "newest"}


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
        "frames-matter doktor",
        "python -m pytest tests/test_nothing.py",
        "python -m http.server",
        "pip install x",
    ],
)
def test_the_check_finds_what_is_missing(line):
    with pytest.raises(AssertionError):
        check_command(line)


def test_an_action_is_one_commit_with_its_version_beside_it():
    "The same wherever it is used; what the commit is called, no reader could tell otherwise."
    taken = {}
    for path in WORKFLOWS:
        for action, told in re.findall(r"^ *(?:- )?uses: ([^@\n]+)@(.*)$", path.read_text(encoding="utf-8"), re.M):
            assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", told), f"{path.name}: {action}@{told}"
            taken.setdefault(action, set()).add(told)
    assert taken and [action for action, versions in taken.items() if len(versions) > 1] == []


def jobs():
    "Every job, by workflow and name."
    loaded = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
    return {(stem, name): job for stem, workflow in loaded.items() for name, job in workflow["jobs"].items()}


def test_who_may_write_runs_no_code_of_the_repository():
    "Nothing is allowed for all jobs; a right to write is one job's, whose steps are actions alone."
    assert all(yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {} for path in WORKFLOWS)
    writing = {of: job for of, job in jobs().items() if "write" in job["permissions"].values()}
    assert {of: {r for r, may in job["permissions"].items() if may == "write"} for of, job in writing.items()} == {
        ("deploy", "deploy"): {"pages", "id-token"},
        ("release", "publish"): {"id-token"},
        ("reproduce", "propose"): {"contents", "pull-requests"},
    }
    assert [of for of, job in writing.items() if any("run" in step for step in job["steps"])] == []
    assert [of for of, job in jobs().items() if of not in writing and job["permissions"] != {"contents": "read"}] == []


def test_a_release_is_published_as_it_was_built():
    "By trusted publishing, without a secret; the wheel is of the version that the tag names."
    build, publish = (jobs()["release", name] for name in ("build", "publish"))
    assert "secrets." not in str(build) + str(publish) and publish["environment"]["name"] == "pypi"
    assert [step["uses"].split("@")[0] for step in publish["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    (checked,) = [step for step in build["steps"] if "TAG" in step.get("env", {})]
    assert checked["env"]["TAG"] == "${{ github.event.release.tag_name }}"
    assert '"dist/frames_matter-${TAG#v}-py3-none-any.whl"' in checked["run"]


def test_every_supported_python_is_tested():
    "From settings.ini's lowest on, one after the other; the lowest and the highest on other systems too."
    settings = configparser.ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    everything, elsewhere = (jobs()["test", name]["strategy"]["matrix"] for name in ("test", "elsewhere"))
    lowest, *_, highest = everything["python"]
    assert lowest == settings["DEFAULT"]["min_python"] and elsewhere["python"] == [lowest, highest]
    first, last = (int(version.removeprefix("3.")) for version in (lowest, highest))
    assert everything["python"] == [f"3.{minor}" for minor in range(first, last + 1)]
    assert {system.split("-")[0] for system in elsewhere["system"]} == {"macos", "windows"}


FAULTS = {  # what is done to the workflows, and what is said of it
    "an action at a branch": ("test", r"(actions/checkout@)[0-9a-f]{40} # v[\d.]+", r"\1main", "unpinned-uses"),
    "no time limit": ("test", r" *timeout-minutes: 60\n", "", "timeout-minutes"),
    "everything allowed": ("deploy", r"permissions: \{\}", "permissions: write-all", "excessive-permissions"),
    "credentials left": ("test", r"persist-credentials: false", "persist-credentials: true", "artipacked"),
    "text from outside": ("release", r"\$\{TAG#v\}", "${{ github.event.release.tag_name }}", "template-injection"),
    "no such key": ("newest", r"runs-on", "runs-in", "runs-in"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_step_workflows_finds(fault, tmp_path):
    stem, pattern, instead, said = FAULTS[fault]
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    path = tmp_path / ".github" / "workflows" / f"{stem}.yaml"
    text = path.read_text(encoding="utf-8")
    assert re.search(pattern, text)
    path.write_text(re.sub(pattern, instead, text), encoding="utf-8")
    with pytest.raises(AssertionError, match=said):
        check_workflows(tmp_path)


def test_reproduce():
    """By hand, on one's own runner with a GPU, the study's profile by default.

    The step that fetches has the token; another job, on another machine, opens the pull request.
    """
    from frames_matter.base.profiles import PROFILES

    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "reproduce.yaml").read_text())
    job, propose = (workflow["jobs"][name] for name in ("reproduce", "propose"))
    inputs = triggers(workflow)["workflow_dispatch"]["inputs"]
    assert set(triggers(workflow)) == {"workflow_dispatch"} and job["runs-on"] == ["self-hosted", "gpu"]
    assert inputs["profile"]["default"] == "internvid" and set(inputs["profile"]["options"]) <= set(PROFILES)
    secret = [s for s in job["steps"] if "secrets." in str(s)]
    assert (
        len(secret) == 1
        and secret[0]["run"].startswith("make reproduce")
        and secret[0]["env"] == {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}
    )
    assert {"PROFILE", "OVERRIDES"} <= set(job["env"])
    (artifact,) = (s["with"]["path"].splitlines() for s in job["steps"] if "upload-artifact@" in s.get("uses", ""))
    (pull,) = (s["with"]["add-paths"].splitlines() for s in propose["steps"] if "create-pull-request@" in s["uses"])
    assert propose["needs"] == "reproduce" and "secrets." not in str(propose)
    assert {"README.md", "results/${{ inputs.profile }}"} <= set(pull)
    assert set(pull) <= {path.rstrip("/") for path in artifact}
    assert "!results/${{ inputs.profile }}/models/" in artifact


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
