"""Where the time of `make reproduce` goes: its lessons, and the runs in them by phase; beside an earlier commit.

    frames-matter bench reproduce                    this commit, from a bare clone: about eight minutes
    python bench/reproduce.py --before COMMIT        the same of an earlier one first, in the same stretch
    python bench/reproduce.py --profile smoke        the small world

Without --before, what an earlier call measured of the commit before stays in the record, and is shown with its time.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from _measure import FOLDER, OURS, draw_figure, load, stage, watched, write_record
from _script import run_script
from matplotlib.figure import Figure

from frames_matter.base.errors import UserError
from frames_matter.base.files import project_root
from frames_matter.report.style import COLOURS, subplots

LESSON = re.compile(r"\[\d+/\d+\] (\S+) done in ([\d.]+) s")
REST = "films, start, report"


def git(*words: str) -> str:
    "What git says of this checkout."
    done = subprocess.run(["git", "-C", str(project_root()), *words], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {' '.join(words)} failed: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def seconds_of_runs(home: Path, profile: str) -> dict[str, float]:
    "Seconds of the runs that were made there, by phase; several go on at once."
    own = (home / "data" / "checkout_id").read_text().strip()
    total: dict[str, float] = defaultdict(float)
    for line in (home / "results" / profile / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("run_by") == own:
            total[record["spec"]["phase"]] += record["seconds"]
    return {phase: round(seconds, 1) for phase, seconds in total.items()}


def reproduced(commit: str, profile: str) -> dict:
    "What reproducing from a bare clone of a commit took."
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "clone"
        git("clone", "--quiet", "--shared", "--no-checkout", str(project_root()), str(home))
        subprocess.run(["git", "-C", str(home), "checkout", "--quiet", commit], check=True)
        call = [sys.executable, "-c", "from frames_matter.cli import main; main()", "reproduce", "--profile", profile]
        where = {"PYTHONPATH": str(home), "FRAMES_MATTER_HOME": str(home)}
        costs, printed = watched(call, fine=(0, 1), cwd=home, **where)  # 1: numbers are outside the record's intervals
        lessons = {name: float(seconds) for name, seconds in LESSON.findall(printed)}
        if not lessons:
            raise UserError(f"{commit} tells no times of its lessons: {printed.strip()[-300:]}")
        lessons[REST] = round(costs["seconds"] - sum(lessons.values()), 1)
        runs = seconds_of_runs(home, profile)
    return {"commit": commit, "load": load(), **costs, "lessons": lessons, "runs": runs}


def seconds_of_lessons(now: dict, before: dict | None) -> Figure:
    "A bar a lesson, of this commit and of the one before."
    fig, ax = subplots(1, 1, figsize=(8, 3.5))
    shown = {"before": (before, COLOURS["grey"], -0.2), "now": (now, COLOURS["blue"], 0.2)}
    names = list(now["lessons"])
    for word, (of, colour, at) in shown.items():
        if of:
            seconds = [of["lessons"].get(name, 0) for name in names]
            places = [y + at for y in range(len(names))]
            memory = f"{of['peak_gb']:.1f} GB in the largest process"
            label = f"{word}, {of['commit'][:10]}: {of['seconds']:.0f} s, {memory}"
            ax.barh(places, seconds, height=0.4, color=colour, label=label)
    ax.set(yticks=range(len(names)), yticklabels=names, xlabel="seconds")
    ax.invert_yaxis()
    fig.legend(loc="outside upper right")
    return fig


def kept_before() -> dict | None:
    "What the record has of an earlier commit."
    path = FOLDER / "reproduce.json"
    return json.loads(path.read_text(encoding="utf-8"))["before"] if path.is_file() else None


def stages_of(now: dict, before: dict | None) -> list[dict]:
    "The whole, and its lessons."
    beside = {f"before, {before['commit'][:10]}": [before["seconds"]]} if before else {}
    stages = [stage("make reproduce, from a bare clone", {OURS: [now["seconds"]]} | beside)]
    for name, seconds in now["lessons"].items():
        earlier = before["lessons"].get(name) if before else None
        beside = {f"before, {before['commit'][:10]}": [earlier]} if before and earlier else {}
        stages.append(stage(f"of it, {name}", {OURS: [seconds]} | beside))
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--before", default="", help="an earlier commit, measured first")
    parser.add_argument("--profile", default="mini")
    args, load_before = parser.parse_args(), load()
    keep = args.profile == "mini"
    before = reproduced(git("rev-parse", args.before), args.profile) if args.before else kept_before() if keep else None
    now = reproduced(git("rev-parse", "HEAD"), args.profile)
    if keep:
        draw_figure("reproduce", lambda: seconds_of_lessons(now, before))
    what = f"{os.cpu_count()} cores, films drawn anew, once each" + ("" if before else "; no earlier commit beside it")
    more = dict(now=now, before=before, figures={"reproduce.svg": "Seconds of every lesson, before and now"})
    write_record("reproduce", what, stages_of(now, before), ("torch", "av"), load_before, keep=keep, **more)


if __name__ == "__main__":
    run_script(main)
