"""Every fault that tests/fault_site.py can inject, injected: how each was to end, against how it ended.

    frames-matter bench faults

One build of a row for each fault, from a site on loopback that misbehaves for real; waits are short, all else is as
ever. Rows that name no video or no possible time go through the selection. The command fails if any ends otherwise than
the table says.
"""

import functools
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from unittest import mock

import pandas as pd
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_write, project_root
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.data.build import BuildTools, build_dataset
from frames_matter.data.failures import CircuitBreaker
from frames_matter.data.ledger import read_states
from frames_matter.data.row_checks import select_rows

sys.path.insert(0, str(project_root() / "tests"))
from fault_site import FAULTS, MANNERS, fault_of, make_films, row, rows, serve_faults

RESULT = project_root() / "results" / "bench" / "faults.json"


def ends_of(folder):  # name -> how it ended
    "Build a row of each fault, in a home of its own."
    with (
        serve_faults(make_films(folder / "films")) as site,
        mock.patch.dict(os.environ, FRAMES_MATTER_HOME=str(folder)),
    ):
        profile = get_profile(
            "smoke", source="hub", url_template=site.template, n_clips=len(FAULTS), n_pool=0, workers=4
        )
        atomic_write(
            data_dir(profile) / "metadata.jsonl", "".join(json.dumps(row(f"{name}01")) + "\n" for name in FAULTS)
        )
        breaker = functools.partial(CircuitBreaker, limit=len(FAULTS))  # or it would stop at so many failures
        build_dataset(profile, progress=False, tools=BuildTools(manners=MANNERS, breaker=breaker))
        told = read_states(data_dir(profile) / "ledger.sqlite", "youtube_id", "state", "kind", "attempts", "reason")
        return {fault_of(name): end_of(*rest) for name, *rest in told}


def end_of(state: str, kind: str | None, attempts: int, reason: str | None) -> dict:
    "How a row ended, as the ledger has it."
    ended = "kept" if state == "checked" else state
    return {"ended": ended, "kind": kind or "", "attempts": attempts, "reason": reason or ""}


def ends_as_told(name: str, end: dict) -> bool:
    "Whether a fault ended as it must."
    fault = FAULTS[name]
    return (
        end["ended"] == fault.ends
        and end["kind"] == (fault.kind or end["kind"])
        and fault.word in end["reason"]
        and end["attempts"] == (fault.attempts or MANNERS.attempts)
    )


def ends_of_rows(bad: list[dict]) -> list[dict]:
    "How the selection ends each impossible row."
    chosen = select_rows(pd.DataFrame(bad), get_profile("smoke"))
    ends = []
    for one, status, reason in zip(bad, chosen.status, chosen.reason, strict=True):
        words = [ascii(one["YoutubeID"])[:40], one["Start_timestamp"], one["End_timestamp"]]
        ends.append({"row": " ".join(words), "ended": status or "taken", "reason": reason})
    return ends


def row_ends_as_told(end: dict, word: str) -> bool:
    "Whether a row was rejected for the reason that holds this word; a row without a word is to be taken."
    return end["ended"] == ("rejected" if word else "taken") and word in end["reason"]


def record_of(faults: list[dict], told: list[dict], n_impossible: int) -> dict:
    "The measurement and how it came about."
    versions = {"yt-dlp": metadata.version("yt-dlp"), "ffmpeg": Path(find_ffmpeg()).name}
    return {
        "command": "frames-matter bench faults",
        "what": f"{len(faults)} faults of a site or its files and {n_impossible} impossible rows, injected on loopback",
        "manners": asdict(MANNERS),
        "faults": faults,
        "rows": told,
        "versions": {"python": platform.python_version()} | versions,
    }


def show(faults: list[dict], told: list[dict], n_impossible: int) -> None:
    "Print how everything ended."
    for end in faults:
        where = f"{end['fault']:10} {end['site']:48}"
        print(f"{where} {end['ended']:9} {end['kind']:12} {end['attempts']:2} {end['reason']}")
    rejected = sum(end["ended"] == "rejected" for end in told)
    print(f"{rejected} of {n_impossible} impossible rows rejected.")


def main() -> None:
    "Inject all faults, write the record, print it, and fail if any ended otherwise than it must."
    with tempfile.TemporaryDirectory() as folder:
        ends = ends_of(Path(folder))
    faults = [{"fault": name, "site": FAULTS[name].what, "must": FAULTS[name].ends} | end for name, end in ends.items()]
    bad, words = zip(*rows(), strict=True)
    told, n_impossible = ends_of_rows(bad), sum(map(bool, words))
    record = record_of(faults, told, n_impossible)
    atomic_write(RESULT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    show(faults, told, n_impossible)
    wrong = [name for name, end in ends.items() if not ends_as_told(name, end)]
    wrong += [end["row"] for end, word in zip(told, words, strict=True) if not row_ends_as_told(end, word)]
    if wrong:
        raise UserError(f"Ended otherwise than tests/fault_site.py says: {', '.join(wrong)}.")


if __name__ == "__main__":
    run_script(main)
