"""Inputs of every kind as nobody should make them, each in a process and a home of its own.

    frames-matter bench fuzz
    python bench/fuzz.py --inputs 200 --seed 7            others, of chance that follows from the seed
    python bench/fuzz.py --kinds tar folder               of these kinds alone
    python bench/fuzz.py --only tar/7/0                   one input again, by the name that was told

Right is an answer that holds what it promises, or one sentence. The command fails on anything else: another error, a
signal, a hang, a file written or a process left outside the input's home, a request on loopback, code run, too much
memory. The inputs, and what must come of each, are in tests/fuzzing.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter, defaultdict
from importlib import metadata
from pathlib import Path

from _script import run_script
from tqdm import tqdm

from frames_matter.base.errors import UserError, choose
from frames_matter.base.files import atomic_write, project_root

sys.path.insert(0, str(project_root() / "tests"))
RESULT = project_root() / "results" / "bench" / "fuzz.json"


def asked() -> argparse.Namespace:
    "What the command line asks for."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1150, help="how many, of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="of which all chance follows")
    parser.add_argument("--kinds", nargs="+", default=[], help="of these alone")
    parser.add_argument("--only", nargs="+", default=[], help="names of inputs: KIND/SEED/NUMBER")
    parser.add_argument("--tell", action="store_true", help="tell what was said of each input")
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.name} beside the other measurements")
    return parser.parse_args()


def names_of(given: argparse.Namespace, kinds: dict) -> list[str]:
    "The inputs that are asked for, by name: KIND/SEED/NUMBER."
    if given.only:
        return given.only
    chosen = [kind for kind in kinds if kind in given.kinds] if given.kinds else [*kinds]
    for kind in given.kinds:
        choose(kind, kinds, "kind of input")
    return [f"{chosen[n % len(chosen)]}/{given.seed}/{n // len(chosen)}" for n in range(given.inputs)]


def outcomes_of(names: list[str]):  # yields (name, Outcome)
    "What comes of each input; all are forked from this process, in which everything is loaded."
    from fuzzing.cell import Watch, run_input
    from fuzzing.kinds import KINDS, make_corpus

    with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as folder:
        make_corpus(Path(folder))
        load_all()
        watch = Watch()
        for name in names:
            yield name, run_input(choose(name.partition("/")[0], KINDS, "kind of input"), name, Path(folder), watch)


def load_all() -> None:
    "Import what inputs use, but for what may not be forked."
    import av  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import yt_dlp  # noqa: F401

    import frames_matter.data.published
    import frames_matter.labs.registry
    import frames_matter.report.survivors  # noqa: F401
    from frames_matter.model.weights import load_viclip

    load_viclip("nano")
    torch.set_num_threads(1)


def record_of(outcomes: dict, seed: int) -> dict:
    "The measurement and how it came about."
    kinds = defaultdict(Counter)
    for name, outcome in outcomes.items():
        kinds[name.partition("/")[0]][outcome.told if outcome.is_fine else "finding"] += 1
    versions = {name: metadata.version(name) for name in ("av", "torch", "pandas", "yt-dlp")}
    return {
        "command": f"python bench/fuzz.py --inputs {len(outcomes)} --seed {seed}",
        "inputs": len(outcomes),
        "kinds": kinds,
        "findings": {name: f"{o.told}: {o.said}" for name, o in outcomes.items() if not o.is_fine},
        "slowest_seconds": round(max(o.seconds for o in outcomes.values()), 1),
        "most_megabytes": round(max(o.megabytes for o in outcomes.values())),
        "versions": {"python": platform.python_version()} | versions,
    }


def show(record: dict, seconds: float) -> None:
    "Print what came of each kind."
    print(f"{'kind':20}{'inputs':>8}{'right':>8}{'refused':>9}{'findings':>10}")
    for kind, counts in record["kinds"].items():
        told = [counts[what] for what in ("right", "refused", "finding")]
        print(f"{kind:20}{sum(told):8}{told[0]:8}{told[1]:9}{told[2]:10}")
    print(
        f"{record['inputs']} inputs in {seconds:.0f} s, {len(record['findings'])} findings; "
        f"the slowest took {record['slowest_seconds']} s, the largest {record['most_megabytes']} MB."
    )


def main() -> None:
    "Run all inputs, print what came of them, and fail if anything came that must not."
    from fuzzing.kinds import KINDS

    given, outcomes, begun = asked(), {}, time.monotonic()
    names = names_of(given, KINDS)
    for name, outcome in tqdm(outcomes_of(names), total=len(names), disable=None):
        outcomes[name] = outcome
        if not outcome.is_fine:
            tqdm.write(f"{name}: {outcome.told} ({outcome.seconds:.1f} s): {ascii(outcome.said)}", file=sys.stderr)
        elif given.only or given.tell:
            tqdm.write(f"{name}: {outcome.told}: {ascii(outcome.said)}")
    record = record_of(outcomes, given.seed)
    show(record, time.monotonic() - begun)
    if given.record:
        atomic_write(RESULT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if record["findings"]:
        raise UserError(f"{len(record['findings'])} of {len(names)} inputs were neither answered nor refused.")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_script(main)
