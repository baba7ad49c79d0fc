"What benchmarks of this folder share: ways measured in turns, the form of a record, the page; none itself."

import ast
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write, project_root

OURS = "frames_matter"  # among the ways of a stage
FOLDER = project_root() / "results" / "bench"
SCRIPTS = Path(__file__).parent


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    "Seconds that each way took, in rounds of all of them, so that a machine that slows down slows all."
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return times


def stage(
    name: str, times: Mapping[str, list[float]], limit: Mapping[str, list[float]] | None = None
) -> dict[str, Any]:
    """A row of the page: what was done, and what each way of doing it took.

    Parameters
    ----------
    name : str
        What was done.
    times : mapping
        Way -> its seconds, `OURS` among them.
    limit : mapping, optional
        The one thing that cannot be had for less, in words -> its seconds.
    """
    own = statistics.median(times[OURS])
    rows = {way: _row(of, own) for way, of in [*times.items(), *(limit or {}).items()]}
    return {"stage": name, "ways": {way: rows[way] for way in times}} | (
        {"limit": {way: rows[way] for way in limit}} if limit else {}
    )


def _row(seconds: list[float], own: float) -> dict[str, float]:
    median = statistics.median(seconds)
    return {
        "seconds": round(median, 6),
        "fastest": round(min(seconds), 6),
        "slowest": round(max(seconds), 6),
        "times_ours": round(median / own, 3),
    }


def peak_gb() -> float:
    "The most memory that this process has had so far, without what its parent had, which Linux's rusage begins with."
    status = Path("/proc/self/status")
    if status.is_file():
        return round(1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 1e9, 3)
    import resource  # not of every system

    return _gb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _gb(maxrss: int) -> float:
    "What a system tells of a process's memory, in GB: macOS in bytes, others in kilobytes."
    return round(maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)


def in_own_process(script: str, *words: object) -> Any:
    "What a benchmark prints, as JSON, called with these words: for memory, which a process does not give back."
    done = subprocess.run([sys.executable, script, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{Path(script).name} {' '.join(map(str, words))} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def watched(
    command: list[str], fine: tuple[int, ...] = (0,), cwd: Path | None = None, **environment: str
) -> tuple[dict[str, float], str]:
    "Run a command: its seconds, CPU seconds and peak resident memory in GB, and what it printed."
    start = time.perf_counter()
    env, pipe = os.environ | environment, subprocess.PIPE
    process = subprocess.Popen(command, env=env, cwd=cwd, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in fine:
        raise UserError(f"{' '.join(map(str, command))} failed: {printed.strip()[-2000:]}")
    costs = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": _gb(usage.ru_maxrss),
    }
    return costs, printed


def load() -> float:
    "Processes that wanted to run in the last minute, in the mean; of systems that do not tell, none."
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def record_of(
    name: str, what: str, stages: list[dict], packages: Iterable[str], load_before: float, **more: object
) -> dict[str, Any]:
    "What was measured, with the machine and the versions."
    return {
        "command": f"frames-matter bench {name}",
        "what": what,
        "stages": stages,
        **more,
        "versions": {"python": platform.python_version()} | {of: metadata.version(of) for of in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": {"before": load_before, "after": load()},
    }


def write_record(name: str, *of: Any, keep: bool = True, **more: object) -> None:
    "Print a `record_of` what was measured; keep it in results/bench, and write the page anew."
    record = record_of(name, *of, **more)
    print(json.dumps(record, indent=1))
    if keep:
        keep_record(name, record)


def keep_record(name: str, record: Mapping[str, Any]) -> None:
    "Write a record into results/bench, and the page anew where its figure can be drawn."
    atomic_write(FOLDER / f"{name}.json", json.dumps(record, indent=1) + "\n")
    if find_spec("matplotlib"):
        write_page()
    else:
        print("There is no matplotlib here; the page is written by the next benchmark where there is.")


# --- the page ---


def records() -> list[dict]:
    "Those of the folder that have stages, by name."
    read = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]
    return [record for record in read if "stages" in record]


def other_benchmarks() -> list[str]:
    "Scripts that take nothing from here, as they set no time beside another: what each asks, by its first words."
    told = []
    for path in sorted(SCRIPTS.glob("[!_]*.py")):
        source = path.read_text(encoding="utf-8")
        if "from _measure import" not in source:
            words = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
            told.append(f"- `frames-matter bench {path.stem}`: {' '.join(words.split())}")
    return told


def shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def write_page() -> None:
    "results/bench/README.md: a table of every stage, and the figure."
    lines = ["| stage | ours | fastest to slowest | beside it, in times ours | the limit, in times ours |"]
    lines.append("| --- | ---: | ---: | --- | --- |")
    for record in records():
        for of in record["stages"]:
            own = of["ways"][OURS]
            spread = f"{shown(own['fastest'])} to {shown(own['slowest'])}"
            cells = [of["stage"], shown(own["seconds"]), spread, _told(of["ways"]), _told(of.get("limit", {}))]
            lines.append(f"| {' | '.join(cells)} |")
    commands = [f"- `{record['command']}`: {record['what']}. {_circumstances(record)}" for record in records()]
    grown = [line for record in records() for line in _growth(record.get("growth", []))]
    others = other_benchmarks()
    beside = ["", "These ask other things than how fast:", "", *others] if others else []
    figures = [f"![{told}]({name})" for record in records() for name, told in record.get("figures", {}).items()]
    text = f"""# What every stage takes

Each stage is measured beside its peer, or the naive form, in turns in one run; medians. A benchmark is no test: what
counts are the ratios of one row, not seconds of two rows that were measured at different times.

![Every stage's peers and limit, in times of what it takes here](times.svg)

{chr(10).join([*lines, *grown])}

{chr(10).join([*commands, *beside])}
{"".join(f"{chr(10)}{figure}{chr(10)}" for figure in figures)}"""
    atomic_write(FOLDER / "README.md", text)
    stages = [of for record in records() for of in record["stages"]]
    draw_figure("times", lambda: _times(stages))


def _told(ways: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{way} {row['times_ours']:.3g}" for way, row in ways.items() if way != OURS) or "–"


def exponent_shown(exponent: float | None) -> str:
    "An exponent in two digits; a dash where one size was measured, or nothing was seen."
    return "–" if exponent is None else f"{exponent:.2f}"


def _growth(steps: list[dict]) -> list[str]:
    "A table of how time and memory grow."
    if not steps:
        return []
    lines = ["", "| how it grows | sizes | seconds | GB added | exponent, of memory | mathematics |"]
    lines.append("| --- | --- | --- | --- | --- | ---: |")
    for step in steps:
        rows = step["rows"]
        sizes = " / ".join(f"{row['n']:,}" for row in rows)
        seconds, added = (" / ".join(f"{row[of]:.2g}" for row in rows) for of in ("seconds", "added_gb"))
        exponents = [step.get(of) for of in ("exponent", "exponent_of_memory")]
        told = ", ".join(map(exponent_shown, exponents))
        lines.append(
            f"| {step['step']} | {sizes} {step['of']} | {seconds} | {added} | {told} | {step['mathematics']} |"
        )
    return lines


def _circumstances(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    busy = f"load {record['load']['before']} before" if "load" in record else "load not recorded"
    return f"{record['machine']}; {busy}; {versions}."


def draw_figure(name: str, draw: Callable[[], Any]) -> None:
    "Draw a figure of the benchmarks for a page and for a telephone, in the report's style."
    # here, as benchmarks run where matplotlib is not installed, too
    from frames_matter.report.site import draw_for_site
    from frames_matter.report.style import styled
    from frames_matter.report.writers import Figure

    draw_for_site(Figure(name, "", styled(draw)), FOLDER)


def _times(stages: list[dict]) -> Any:
    "The peers and limits of every stage, in times of ours."
    from frames_matter.report.style import COLOURS, abreast, is_narrow, subplots

    stages = [of for of in stages if len(of["ways"]) > 1 or of.get("limit")]
    fig, ax = subplots(1, 1, figsize=(8, (0.6 if is_narrow() else 0.4) * len(stages) + 1.2))
    for y, of in enumerate(stages):
        peers = [row["times_ours"] for way, row in of["ways"].items() if way != OURS]
        limits = [row["times_ours"] for row in of.get("limit", {}).values()]
        ax.plot(peers, [y] * len(peers), "o", color=COLOURS["blue"])
        ax.plot(limits, [y] * len(limits), "|", color=COLOURS["orange"], ms=14, mew=3)
    ax.plot([], [], "o", color=COLOURS["blue"], label="a peer, the naive form, or before")
    ax.plot([], [], "|", color=COLOURS["orange"], ms=14, mew=3, label="the limit: its core work alone")
    ax.axvline(1, color=COLOURS["grey"], ls="--", lw=1)
    ax.set(xscale="log", yticks=range(len(stages)), yticklabels=[of["stage"] for of in stages])
    ax.set(
        xlabel="in times of what it takes here: right of the line it takes longer",
        ylim=(max(1, len(stages)) - 0.5, -0.5),
    )
    fig.legend(loc="outside upper right", ncols=abreast(2))
    return fig
