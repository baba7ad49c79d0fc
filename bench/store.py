"""A run more in a store of many: a line at its end, beside writing the whole file anew.

frames-matter bench store
"""

import copy
import json
import os
import tempfile
from unittest import mock

from _measure import OURS, in_turns, load, stage, write_record
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.files import project_root
from frames_matter.base.profiles import get_profile
from frames_matter.study.store import read_records, runs_path, settle, store

ROUNDS, SIZES = 5, (100, 3000)


def many(n: int) -> list[dict]:
    "So many runs like those of the record, each of another seed."
    path = project_root() / "results" / "mini" / "runs.jsonl"
    known = read_records(path)
    if not known:
        raise UserError(f"No runs in {path} to make others from.")
    made = [copy.deepcopy(known[i % len(known)]) for i in range(n)]
    for number, record in enumerate(made):
        record["spec"]["seed"], record["spec_hash"] = number, f"{number:016x}"
    return made


def measured(records: list[dict]) -> dict:
    "In the home that is set."
    profile, last = get_profile("mini"), records[-1]
    path = runs_path(profile)
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(record, sort_keys=True) + "\n" for record in records[:-1]))

    def anew() -> None:
        store(profile, last)
        settle(profile)

    times = in_turns({OURS: lambda: store(profile, last), "the whole file anew": anew}, ROUNDS)
    return stage(f"a run more in a store of {len(records) - 1:,}", times)


def main() -> None:
    before, stages = load(), []
    made = [many(n + 1) for n in SIZES]
    for records in made:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, FRAMES_MATTER_HOME=folder):
            stages.append(measured(records))
    write_record("store", f"{ROUNDS} rounds in turns", stages, ("msgspec",), before)


if __name__ == "__main__":
    run_script(main)
