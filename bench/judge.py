"""Does the judge's advice agree with the truth? Draws of few clips are judged, and what it says is held against the
clips that were not drawn, of other films.

At home, in a world of little light, and with captions dealt at random, where nothing can be learned.
"""

import json
import time

import numpy as np
import pandas as pd
import torch
from _script import run_script

from frames_matter.base.bars import progress_bar
from frames_matter.base.files import atomic_write, project_root
from frames_matter.base.profiles import get_profile
from frames_matter.base.seeds import stable_seed
from frames_matter.clips.features import clip_features, encoder_for
from frames_matter.clips.training import (
    TIMES_DEALT,
    WAYS_TO_ADAPT,
    Known,
    cosines,
    judge_once,
    reciprocals,
    table_training,
)
from frames_matter.data.build import build_dataset
from frames_matter.metrics.stats import BETTER, SAME, UNDECIDED, WORSE

DRAWS, CLIPS = 20, 30
WORLDS = {"at home": "mini", "in little light": "mini-light-strong-42"}
WAY = "pulled"


def known_clips(profile) -> Known:
    "Features of all kept clips of a data set, and their source videos."
    build_dataset(profile)
    encoder = encoder_for(profile)
    rows, video = clip_features(profile, encoder)
    text = encoder.bundle.encode_captions(rows.caption).float()
    return Known(video, text, rows.youtube_id.to_numpy())


def drawn_places(clips: Known, draw: int) -> np.ndarray:
    "Clips of films drawn at random, at most three of each."
    rng = np.random.default_rng(stable_seed("draw", draw))
    films = rng.permutation(np.unique(clips.videos))
    places = np.concatenate([rng.permutation(np.flatnonzero(clips.videos == film))[:3] for film in films])
    return np.sort(places[:CLIPS])


def true_gain(drawn: Known, others: Known, draw: int) -> float:
    "What training on the draw finds more on all clips of other films, in points of MRR."
    adapted, _ = WAYS_TO_ADAPT[WAY](drawn, stable_seed("truth", draw) % 2**31)
    return 100 * float((reciprocals(adapted.similarity(others)) - reciprocals(cosines(others))).mean())


def judged_draw(clips: Known, draw: int, is_noise: bool) -> dict:
    "What the judge says of one draw, and what is so."
    places = drawn_places(clips, draw)
    drawn = clips.at(places)
    if is_noise:
        order = torch.randperm(len(drawn), generator=torch.Generator().manual_seed(draw))
        drawn = Known(drawn.video, drawn.text[order], drawn.videos)
    others = clips.at(np.flatnonzero(~np.isin(clips.videos, drawn.videos)))
    table = table_training(pd.concat([judge_once(drawn, deal).assign(repeat=deal) for deal in range(TIMES_DEALT)]))
    row = table.loc[WAYS_TO_ADAPT[WAY].title]
    said = dict(draw=draw, said=row.verdict, any_better=BETTER in set(table.verdict), estimate=float(row.difference))
    return said | dict(detectable=float(row.detectable), truth=true_gain(drawn, others, draw))


def told(draws: pd.DataFrame) -> dict:
    "The draws of one world in a row."
    verdicts = {f"says {verdict}": int((draws.said == verdict).sum()) for verdict in (BETTER, WORSE, SAME, UNDECIDED)}
    wrong = ((draws.said == BETTER) & (draws.truth <= 0)) | ((draws.said == WORSE) & (draws.truth >= 0))
    means = {name: round(float(draws[name].mean()), 2) for name in ("estimate", "truth", "detectable")}
    spread = {"truth from": round(float(draws.truth.min()), 2), "truth to": round(float(draws.truth.max()), 2)}
    return verdicts | {"any way called better": int(draws.any_better.sum()), "wrong": int(wrong.sum())} | means | spread


def main() -> None:
    found, start = {}, time.time()
    for words, name in WORLDS.items():
        clips = known_clips(get_profile(name))
        for is_noise in (False, True):
            of = f"{words}, captions dealt at random" if is_noise else words
            draws = progress_bar(range(DRAWS), label=of)
            found[of] = pd.DataFrame([judged_draw(clips, draw, is_noise) for draw in draws])
            print(f"{of}: {told(found[of])}", flush=True)
    record = dict(draws=DRAWS, clips=CLIPS, way=WAYS_TO_ADAPT[WAY].title, seconds=round(time.time() - start, 1))
    record["worlds"] = {words: told(draws) for words, draws in found.items()}
    record["each"] = {words: draws.round(3).to_dict("records") for words, draws in found.items()}
    atomic_write(project_root() / "results" / "bench" / "judge.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
