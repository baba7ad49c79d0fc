"What benchmarks of this folder share: ways measured in turns, and the form of a record; none itself, as its name says."

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata

from frames_matter.base.files import atomic_write, project_root


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


def rows_of(times: Mapping[str, list[float]], ours: str) -> dict[str, dict[str, float]]:
    "Median, fastest and slowest of each way, and how many times ours its median is."
    own = statistics.median(times[ours])
    return {
        name: {
            "seconds": round(statistics.median(of), 5),
            "fastest": round(min(of), 5),
            "slowest": round(max(of), 5),
            "times_ours": round(statistics.median(of) / own, 2),
        }
        for name, of in times.items()
    }


def load() -> float:
    "Processes that wanted to run in the last minute, in the mean; of systems that do not tell, none."
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def write_record(name: str, parts: Mapping[str, object], packages: tuple[str, ...], load_before: float) -> None:
    "Keep what was measured in results/bench, with the machine and the versions, and print it."
    record = {
        "command": f"frames-matter bench {name}",
        **parts,
        "versions": {"python": platform.python_version()} | {of: metadata.version(of) for of in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": {"before": load_before, "after": load()},
    }
    text = json.dumps(record, indent=1)
    atomic_write(project_root() / "results" / "bench" / f"{name}.json", text + "\n")
    print(text)
