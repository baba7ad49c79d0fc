"""The study's grid, as the package computes it, beside the same runs done the published way: every step decodes its
clips anew and encodes its captions anew.

    frames-matter bench grid                       two runs of each phase and protocol, two epochs: about two minutes
    python bench/grid.py --cells 99 --epochs 99    every cell to its end

Both ways go through one fit loop, with the same order, seeds and losses; curves, measures and similarities must be
equal to 1e-5, or the benchmark stops. The published way reads with the package's own reader, which favours it.

What was not computed is scaled, and the record says from what: the time in a run's epochs to the study's number of
them, and a cell left out counts as the mean of its phase and protocol.
"""

import argparse
import dataclasses
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from _measure import OURS, load, stage, write_record
from _script import run_script
from torch import Tensor

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.base.seeds import seed_everything, stable_seed
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.model.preprocessing import preprocess
from frames_matter.model.tokenizer import tokenizer_for
from frames_matter.model.training import Pairs, fit
from frames_matter.model.weights import load_viclip
from frames_matter.study import measure, splits
from frames_matter.study.grid import grid
from frames_matter.study.measure import Outcome, Run, score_pairs, train_and_measure
from frames_matter.study.spec import RunSpec
from frames_matter.video.frames import read_clip
from frames_matter.video.kept import FrameCache

PHASES, TOLERANCE = ("first_improvement", "second_improvement"), 1e-5
CELLS, EPOCHS = 2, 2  # of each phase and protocol; of each run: fewer are not kept
ANEW = "every step anew"

# --- the published way ---


class Asked:
    "What is made whenever it is asked for, at these positions; of pairs, either side."

    device = torch.device("cpu")

    def __init__(self, n: int, make: Callable[[list[int]], Tensor]):
        self.n, self.make = n, make

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, positions: Tensor) -> Tensor:
        return self.make(positions.tolist())


class PairsAnew:
    "The pairs of a split, decoded and encoded whenever they are asked for: a step's in training, else all of them."

    def __init__(self, spec: RunSpec, split: str):
        self.spec, self.in_steps = spec, split == "train"
        self.profile = spec.resolved_profile()
        self.rows = splits.rows_of(self.profile, spec.data, split, *spec.dealt)
        self.model = text_tower(spec.weights)
        how = dict(k=spec.k, size=spec.image_size, preprocessing=self.profile.preprocessing)
        self.clips = VideoCaptionDataset(self.rows, split, spec.sampling, **how)

    def frames(self, epoch: int = 0) -> Asked | Tensor:
        return self._asked(functools.partial(self._decoded, epoch))

    @property
    def text(self) -> Asked | Tensor:
        return self._asked(self._encoded)

    def _asked(self, make: Callable[[list[int]], Tensor]) -> Asked | Tensor:
        return Asked(len(self.rows), make) if self.in_steps else make(list(range(len(self.rows))))

    def _decoded(self, epoch: int, positions: list[int]) -> Tensor:
        rows = self.rows.iloc[positions].itertuples()
        return torch.stack([self._clip(row, stable_seed(self.spec.seed, row.clip_id, epoch)) for row in rows])

    def _clip(self, row, seed: int) -> Tensor:
        how = dict(k=self.spec.k, size=self.spec.image_size, mode=self.clips.preset.resize)
        return preprocess(read_clip(row.path, self.clips.strategy, seed=seed, **how), self.spec.image_size)

    def _encoded(self, positions: list[int]) -> Tensor:
        captions = self.rows.caption.iloc[positions]
        return splits.encode_captions(self.model, tokenizer_for(self.profile), captions)


@functools.cache
def text_tower(weights: str) -> torch.nn.Module:
    "A model that encodes captions; it is frozen, so that one does for all."
    return load_viclip(weights)


def captions_anew(spec: RunSpec, split: str, foils: bool = False) -> Tensor:
    "Features of a split's captions, or of their foils, remembered nowhere."
    profile = spec.resolved_profile()
    rows = splits.rows_of(profile, spec.data, split, *spec.dealt)
    captions = [truth["foil"] for truth in splits.truth_of(profile, rows)] if foils else rows.caption
    return splits.encode_captions(text_tower(spec.weights), tokenizer_for(profile), captions)


def done_anew(spec: RunSpec) -> Outcome:
    "A run, the published way."
    with mock.patch.multiple(splits, _pairs=PairsAnew, _captions=captions_anew):
        return done(spec)


# --- a run, either way ---


def done(spec: RunSpec) -> Outcome:
    "A run, stored nowhere."
    seed_everything(stable_seed("run", spec.seed))
    return train_and_measure(spec, Run.of(spec))


WAYS = {OURS: done, ANEW: done_anew}


def numbers_of(outcome: Outcome, pairs: Pairs) -> Tensor:
    "Everything that two ways of one run must agree in."
    _, similarity = score_pairs(outcome.model, outcome.head, pairs)
    measures = [value for _, value in sorted(outcome.metrics.items()) if isinstance(value, float)]
    curves = [value for _, curve in sorted(outcome.curves.items()) for value in curve]
    return torch.cat([similarity.flatten().double(), torch.tensor(measures + curves, dtype=torch.float64)])


def apart(spec: RunSpec, outcomes: dict[str, Outcome]) -> float:
    "The most by which the two ways differ in a loss, a measure or a similarity; an error beyond `TOLERANCE`."
    pairs = splits.pairs_of(spec, "alignment")
    ours, anew = (numbers_of(outcomes[way], pairs) for way in WAYS)
    most = float((ours - anew).nan_to_num().abs().max())
    if most > TOLERANCE:
        raise UserError(f"The two ways of {spec} differ by {most:.1e}: nothing to compare.")
    return most


def timed(do: Callable[[RunSpec], Outcome], spec: RunSpec) -> tuple[Outcome, float, float]:
    "A run, its seconds, and those of them that went into its epochs."
    in_epochs = 0.0

    def fit_timed(*of, **how) -> dict[str, list[float]]:
        nonlocal in_epochs
        start = time.perf_counter()
        curves = fit(*of, **how)
        in_epochs += time.perf_counter() - start
        return curves

    start = time.perf_counter()
    with mock.patch.object(measure, "fit", fit_timed):
        outcome = do(spec)
    return outcome, time.perf_counter() - start, in_epochs


# --- the grid ---


@contextmanager
def nothing_kept() -> Iterator[None]:
    "Frames are kept in a folder that is empty at the start."
    with tempfile.TemporaryDirectory() as folder:
        cache = FrameCache(folder, 2**32)
        with mock.patch.object(splits, "frame_cache", lambda profile: cache):
            yield


def seconds_once(specs: list[RunSpec]) -> float:
    "What the package does once for the whole grid: every clip decoded, every caption encoded."
    start = time.perf_counter()
    for spec in {(spec.sampling, spec.split_by): spec for spec in specs}.values():
        for split in ("train", "alignment"):
            splits.pairs_of(spec, split).frames()
        Run.of(spec).final.pairs().frames()
    return time.perf_counter() - start


def sampled(specs: list[RunSpec], cells: int) -> list[RunSpec]:
    "So many of them, spread over the list."
    return specs if cells >= len(specs) else [specs[i * len(specs) // cells] for i in range(cells)]


def whole_run(spec: RunSpec, epochs: int) -> tuple[dict[str, float], float]:
    "Seconds of a run to its end by each way, from those of its first epochs; and how far apart they come out."
    short = dataclasses.replace(spec, epochs=min(epochs, spec.epochs))
    seconds, outcomes = {}, {}
    for way, do in WAYS.items():
        outcomes[way], whole, in_epochs = timed(do, short)
        seconds[way] = whole + in_epochs * (spec.epochs / short.epochs - 1)
    return seconds, apart(short, outcomes)


def measured(cells: int, epochs: int) -> tuple[dict[str, float], list[dict], dict]:
    "Seconds of the whole grid by each way, a row for every run that was timed, and how the rest was scaled."
    profile = get_profile("mini")
    specs = [spec for phase in PHASES for spec in grid(profile, phase, progress=False)]
    groups = defaultdict(list)
    for spec in specs:
        if spec.seed == profile.seeds[0]:
            groups[spec.phase, spec.protocol].append(spec)
    total, rows = dict.fromkeys(WAYS, 0.0), []
    total[OURS] += (once := seconds_once(specs))
    for (phase, protocol), of_group in groups.items():
        found = []
        for spec in sampled(of_group, cells):
            seconds, most = whole_run(spec, epochs)
            found.append(seconds)
            name = dict(phase=phase, protocol=protocol, architecture=spec.architecture, sampling=spec.sampling)
            rows.append(name | {"loss": spec.loss, "seconds": seconds, "apart": most})
        for way in WAYS:
            of_mean = sum(seconds[way] for seconds in found) / len(found)
            total[way] += of_mean * len(of_group) * len(profile.seeds)
    scaled = {"runs": len(specs), "timed": len(rows), "epochs": epochs, "seconds_once": once}
    return total, rows, scaled


def stages_of(total: dict[str, float], rows: list[dict], scaled: dict) -> list[dict]:
    "The whole grid, and a run of each protocol."
    stages = [stage(f"the study's grid, {scaled['runs']} runs", {way: [s] for way, s in total.items()})]
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        of = [row["seconds"] for row in rows if row["protocol"] == protocol]
        stages.append(stage(f"a run, protocol {protocol}", {way: [seconds[way] for seconds in of] for way in WAYS}))
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cells", type=int, default=CELLS, help="of each phase and protocol, one seed")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each run, at most those of the study")
    args, before = parser.parse_args(), load()
    if min(args.cells, args.epochs) < 1:
        raise UserError("A grid has at least one cell and one epoch.")
    torch.set_num_threads(1)
    with nothing_kept():
        total, rows, scaled = measured(args.cells, args.epochs)
    timed_runs = f"{scaled['timed']} of {scaled['runs']} runs timed, at most {args.epochs} epochs each"
    what = f"one process, one thread; {timed_runs}, the rest scaled from them; both ways equal to {TOLERANCE:g}"
    keep = args.cells >= CELLS and args.epochs >= EPOCHS
    more = dict(scaled=scaled, apart=max(row["apart"] for row in rows), rows=rows)
    write_record("grid", what, stages_of(total, rows, scaled), ("torch", "av"), before, keep=keep, **more)


if __name__ == "__main__":
    run_script(main)
