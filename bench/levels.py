"""How often the tests of the page Statistics claim a difference that is not there, with many more worlds than the page.

    frames-matter bench levels
    python bench/levels.py 2000      worlds a case, in place of 20000

Three sizes of test and both measures, at 5 % and at 0.5 %; beside it, on the same worlds, Satterthwaite's degrees of
freedom in place of the weighed quantiles. And whether the interval of a single recall holds the truth.
"""

import json
import os
import platform
import sys
from dataclasses import replace
from importlib import metadata

import numpy as np
from _script import run_script
from scipy.stats import t as student

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write, project_root
from frames_matter.metrics.simulation import AT_ONCE, CASES, SCORE_OF, World, answers, sources
from frames_matter.metrics.stats import estimate, mean_squares, mean_with_interval

WORLDS = 20_000
SIZES = ((12, 40), (24, 100), (49, 240))  # source videos, queries
LEVELS = (0.05, 0.005)
COVERED = 1000  # worlds in which one interval is looked at
RESULT = project_root() / "results" / "bench" / "levels.json"


def satterthwaite(d: np.ndarray, groups: np.ndarray) -> np.ndarray:
    "Satterthwaite's degrees of freedom of the same variance, (worlds,)."
    _, by_video, by_seed, rest = mean_squares(d, groups)
    videos, seeds = groups.max(), d.shape[-2] - 1  # degrees of freedom
    of_videos, of_seeds = np.maximum(by_video - rest, 0), np.maximum(by_seed - rest, 0)
    parts = (by_video**2 / videos) * (of_videos > 0) + (by_seed**2 / seeds) * (of_seeds > 0) + rest**2 / videos / seeds
    return (rest + of_videos + of_seeds) ** 2 / parts


def claimed(world: World, worlds: int) -> dict[str, dict[str, float]]:
    "Percent of the worlds in which a difference is claimed, by measure, test and level."
    rng, groups, found = np.random.default_rng(1), sources(world), {}
    for _ in range(0, worlds, AT_ONCE):
        both = answers(world, AT_ONCE, rng)
        for measure, score in SCORE_OF.items():
            d = (score(both[1]) - score(both[0])).mean(2)
            of = estimate(d, groups, world.seeds)
            t, df = np.abs(of.value) / np.maximum(of.se, 1e-12), satterthwaite(d, groups)
            for level in LEVELS:
                for test, bound in (("weighed", of.quantile(level / 2)), ("satterthwaite", student.isf(level / 2, df))):
                    name = f"{measure}, {test}, {100 * level:g} %"
                    found.setdefault(name, []).append(100 * float(np.mean(t > bound)))
    return {name: round(float(np.mean(shares)), 2) for name, shares in found.items()}


def covered(world: World) -> dict[str, float]:
    "Percent of the worlds in which the interval of one method's score holds the mean of all worlds."
    rng, groups, found = np.random.default_rng(2), sources(world), {}
    quality = np.concatenate([answers(world, AT_ONCE, rng)[1][:, :, 0] for _ in range(4)])
    for measure, score in SCORE_OF.items():
        truth = 100 * score(quality).mean()
        intervals = (mean_with_interval(score(of_world), groups)[1:] for of_world in quality[:COVERED])
        found[measure] = round(100 * float(np.mean([low <= truth <= high for low, high in intervals])), 1)
    return found


def main(arguments: list[str]) -> None:
    "Simulate, write the record where the number of worlds is the default one, and print it."
    if arguments and not arguments[0].isdecimal():
        raise UserError(f"{arguments[0]!r} is no number of worlds; give a whole number, or nothing for {WORLDS}.")
    worlds = int(arguments[0]) if arguments else WORLDS
    if worlds % AT_ONCE or worlds < 1:
        raise UserError(f"Worlds are drawn {AT_ONCE} at a time; give a multiple of it, not {worlds}.")
    rows = {}
    for videos, queries in SIZES:
        for name, world in CASES.items():
            case = f"{videos} videos, {queries} queries: {name}"
            rows[case] = claimed(replace(world, videos=videos, queries=queries), worlds)
            print(f"{case:66}", *(f"{value:5.2f}" for value in rows[case].values()), flush=True)
    record = {
        "command": "frames-matter bench levels",
        "what": f"percent of {worlds} worlds without a difference in which one is claimed",
        "standard_error_at_5": round(100 * (0.05 * 0.95 / worlds) ** 0.5, 2),
        "claimed": rows,
        "covered": {name: covered(world) for name, world in CASES.items()},
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("numpy", "scipy")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if not arguments:
        atomic_write(RESULT, json.dumps(record, indent=1) + "\n")
    print("columns:", "; ".join(rows[case]))
    print("covered (95 % promised):", record["covered"])


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
