"The ladder from end to end: each rung is what it says, tuning never sees what it judges by, the pool has no say."

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from laboratory_runs import run_of

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.labs import ladder_runs
from frames_matter.labs.ladder import LADDER_SEEDS, RUNGS, ladder_epochs, ladder_sizes
from frames_matter.labs.ladder_runs import ALPHAS, FITS, Clips, Fitted, Search, averaged_similarity, search_setting
from frames_matter.labs.registry import LABORATORIES
from frames_matter.labs.tuning import PUBLISHED_SETTING, Setting
from frames_matter.model.adaptation import PulledTowers, Residual, Towers, bank_normalised, calibration
from frames_matter.model.compute import Clock
from frames_matter.model.folder import read_about
from frames_matter.model.training import Training, pairwise_similarity
from frames_matter.study.grid import grid
from frames_matter.study.measure import Run
from frames_matter.study.runner import model_dir, run
from frames_matter.study.store import finished

STILL = ("zero_shot", "temperature", "query_bank", "views")  # nothing is trained
FAST = Setting(1e-3)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    "Twenty clips in a home of their own: 16 to train on."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("home")))
        yield get_profile("smoke", n_clips=20)


@pytest.fixture(scope="module")
def specs(profile):
    "Short runs, tuned, by rung."
    every = LABORATORIES["ladder"].specs(profile, progress=False)
    tuned = [replace(spec, epochs=min(1, spec.epochs)) for spec in every if not spec.option("setting")]
    return {spec.option("method"): spec for spec in tuned}


@pytest.fixture(scope="module")
def records(specs):
    "A run of each rung; those that are dear, as published."
    tuned = (*STILL, "linear", "pulled", "variants", "full", "lp_ft")
    found = {}
    for name, spec in specs.items():
        if name not in tuned:
            spec = replace(spec, learning_rate=1e-3, temperature=0.07).with_options(setting="published")
        found[name] = run_of(spec, keep_model=name in ("linear", "lora", "lp_ft"))
    return found


@pytest.fixture(scope="module")
def clips(specs):
    return ladder_runs.training_clips(specs["linear"])


@pytest.fixture(scope="module")
def zero(records):
    return records["zero_shot"]["metrics"]


def fitted(specs, name, clips, setting=FAST):
    known = {"first": setting} if name == "lp_ft" else {}
    return FITS[name](specs[name], clips, setting, Clock("cpu"), **known)


# --- which runs there are ---


def test_grid(profile):
    every = LABORATORIES["ladder"].specs(profile, progress=False)
    with_clips = [rung for rung in RUNGS.values() if rung.needs_clips]
    a_rung = len(profile.seeds[:LADDER_SEEDS])
    trained = sum(bool(rung.rates) for rung in with_clips)
    assert len(every) == len({spec.hash for spec in every}) == 2 + a_rung * (len(with_clips) + trained)
    assert {spec.option("n_train", 0) for spec in every} == {0, 16}
    assert all(spec.protocol == "sound" and spec.phase == "ladder" for spec in every)
    for spec in every:
        rung = RUNGS[spec.option("method")]
        assert spec.epochs == (ladder_epochs(16) if rung.rates else 0)
        told = spec.learning_rate, spec.temperature
        published = PUBLISHED_SETTING.learning_rate, PUBLISHED_SETTING.temperature
        assert told == (published if spec.option("setting") == "published" else (0, 0))


def test_sizes():
    assert ladder_sizes(get_profile("mini1000")) == [50, 200]
    assert ladder_sizes(get_profile("smoke", n_clips=20)) == [16]
    assert all(len(rung.rates) in (0, 3) and list(rung.rates) == sorted(rung.rates) for rung in RUNGS.values())


def test_fields_of_the_ladder_are_no_part_of_other_runs(profile):
    assert not {"method", "n_train", "setting"} & grid(profile, "zero_shot", progress=False)[0].identity.keys()


# --- what a rung does ---


def test_zero_shot_is_the_study_s(profile, zero):
    specs = grid(profile, "zero_shot", progress=False)
    study = next(run(spec) for spec in specs if (spec.protocol, spec.sampling) == ("sound", "uniform"))
    assert study["metrics"]["ranks_t2v"] == zero["ranks_t2v"]


def test_every_rung_trains_what_it_says(records):
    trained = {name: r["metrics"]["trainable_parameters"] for name, r in records.items()}
    assert {name for name, n in trained.items() if n == 0} == set(STILL)
    assert trained["linear"] == trained["pulled"] == trained["variants"] < trained["lora"] < trained["full"]
    assert trained["lp_ft"] == trained["full"] + trained["linear"]
    assert trained["full"] < trained["cross_attention"] < trained["fusion"] and trained["full"] < trained["flyp"]
    assert all(len(r["curves"]["train_loss"]) == (name not in STILL) for name, r in records.items())
    steps = {name: r["metrics"]["train_steps"] for name, r in records.items()}
    assert steps == {name: 0 if name in STILL else 2 if name == "lp_ft" else 1 for name in records}


@pytest.mark.parametrize("name", RUNGS)
def test_what_training_moves(specs, clips, name):
    "Every trained rung moves the scores of its clips; the others but views, bank and a tempered copy leave them."
    if name == "views":
        return  # reads frames of its own, below
    before = pairwise_similarity(None, clips.video, clips.text)
    moved = (fitted(specs, name, clips).similarity(clips) - before).abs().max()
    assert (moved > 1e-4) == (name not in ("zero_shot", "temperature"))


def test_temperature_changes_odds_and_no_rank(records, zero):
    tempered = records["temperature"]["metrics"]
    assert tempered["ranks_t2v"] == zero["ranks_t2v"] and tempered["nll_fitted"] != tempered["nll"] == zero["nll"]


def test_views_are_other_frames(records, zero):
    assert records["views"]["metrics"]["nll"] != zero["nll"]


def test_both_towers_move_in_flyp_and_only_one_in_full(specs, clips):
    from frames_matter.model.weights import load_viclip

    before = load_viclip("nano").state_dict()

    def moved(name):
        after = fitted(specs, name, clips).model().state_dict()
        return {key.split(".")[0] for key, p in after.items() if not torch.equal(p, before[key])}

    assert moved("flyp") == {"vision_encoder", "text_encoder"} and moved("full") == {"vision_encoder"}


def test_heads_come_first_and_their_tower_stays(specs, clips):
    "The first stage of LP-FT is the linear rung; with a second that hardly moves it is that rung."
    first = fitted(specs, "linear", clips)
    slow = Setting(1e-6)
    both = FITS["lp_ft"](specs["lp_ft"], clips, slow, Clock("cpu"), first=FAST)
    torch.testing.assert_close(both.similarity(clips), first.similarity(clips), rtol=0, atol=5e-3)
    clock = Clock("cpu")
    FITS["lp_ft"](specs["lp_ft"], clips, FAST, clock, first=FAST)
    assert len(clock.epochs) == 2 * specs["lp_ft"].epochs


def test_the_pull_is_the_distance_to_zero_shot():
    "Its gradient is twice the change over the number of clips."
    how, features = Training(), torch.randn(6, 4)
    pulled = PulledTowers(Residual(4), Residual(4), how, n=50)
    torch.nn.init.normal_(pulled.video.change.weight)
    free = Towers(pulled.video, pulled.text, how)
    (with_pull,) = torch.autograd.grad(pulled(features, features), [pulled.video.change.weight])
    (without,) = torch.autograd.grad(free(features, features), [pulled.video.change.weight])
    torch.testing.assert_close(with_pull - without, 2 * pulled.video.change.weight / 50)


def test_query_bank_by_hand():
    "The second clip is near every caption of the bank; its own caption in the bank says nothing."
    asked, bank = torch.tensor([[0.5, 0.6], [0.2, 0.7]]), torch.tensor([[0.1, 0.8], [0.3, 0.6], [0.2, 0.5]])
    nearness = 0.1 * (bank / 0.1).exp().mean(0).log()
    found = bank_normalised(asked, bank, 0.1)
    torch.testing.assert_close(found, asked - nearness)
    assert found[0].argmax() == 0 and found[1].argmax() == 1
    own = torch.tensor([[False, True], [False, False], [False, False]])
    without = bank_normalised(asked, bank, 0.1, own)
    torch.testing.assert_close(without[:, 1], asked[:, 1] - 0.1 * (bank[1:, 1] / 0.1).exp().mean().log())
    assert torch.equal(bank_normalised(asked, bank, 0.1, torch.ones(3, 2, dtype=torch.bool)), asked)


def test_averages_end_at_fine_tuning_and_start_at_zero_shot(specs, clips):
    from frames_matter.model.weights import load_viclip

    zero, tuned = load_viclip("nano").vision_encoder.state_dict(), fitted(specs, "full", clips)
    ends = [averaged_similarity(tuned, zero, alpha, clips) for alpha in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], pairwise_similarity(None, clips.video, clips.text))
    assert torch.equal(ends[1], tuned.similarity(clips)), "averaging leaves the fitted tower as it was"


# --- tuning ---


def test_what_was_tried_stands_in_the_record(records):
    linear, bank = records["linear"]["metrics"], records["query_bank"]["metrics"]
    assert linear["tried_learning_rates"][:3] == list(RUNGS["linear"].rates) and len(linear["tried_scores"]) == 5
    best = int(np.argmax(linear["tried_scores"]))
    assert linear["chosen_learning_rate"] == linear["tried_learning_rates"][best]
    assert linear["chosen_temperature"] == linear["tried_temperatures"][best]
    assert set(bank["tried_temperatures"]) == {0.07, *RUNGS["query_bank"].temperatures}
    heads_first = records["lp_ft"]["metrics"]
    assert heads_first["first_tried_scores"] == linear["tried_scores"], "the first stage is the linear rung's search"
    assert all(records[name]["metrics"]["tuning_seconds"] > 0 for name in ("linear", "full"))
    assert records["lora"]["metrics"]["tuning_seconds"] == 0 and "tried_scores" not in records["lora"]["metrics"]


def test_the_average_is_chosen_by_the_held_out_clips(records):
    full = records["full"]["metrics"]
    assert full["wise_alpha"] == ALPHAS[int(np.argmax(full["wise_scores"]))]
    assert full["wise_scores"][-1] == pytest.approx(max(full["tried_scores"])), "α = 1 is the fold models themselves"


def test_every_scoring_of_the_pool_is_counted(records):
    assert {name: r["metrics"]["test_reads"] for name, r in records.items()} == {
        name: 2 if name == "full" else 1 for name in records
    }


def test_the_pool_is_read_after_everything_is_chosen(specs, monkeypatch):
    read, chosen = [], []
    monkeypatch.setattr(ladder_runs, "final_clips", lambda *_: read.append(len(chosen)) or clips_of_noise(12))
    searching = ladder_runs.search_setting
    monkeypatch.setattr(ladder_runs, "search_setting", lambda *a, **k: chosen.append(a[0]) or searching(*a, **k))
    ladder_runs.climb_rung(specs["linear"], Run.of(specs["linear"]))
    assert read == [1]


def test_folds_share_no_source_video_and_held_out_clips_are_not_trained_on(specs, clips):
    seen = []

    def spy(spec, of, setting, clock):
        seen.append(of.rows)
        return Fitted(ladder_runs.plain_similarity, lambda: None)

    search = Search(spy, specs["linear"], clips)
    search(FAST)
    assert len(seen) == len(search.folds) == 3
    for trained, held in zip(seen, search.folds, strict=True):
        out = clips.rows.iloc[held]
        assert not set(trained.youtube_id) & set(out.youtube_id)
        assert len(trained) + len(out) == len(clips.rows)


def clips_of_noise(n, dim=128, caption_is=None, seed=0):
    "Clips with random features; captions are what a matrix makes of them, or random too."
    rng = torch.Generator().manual_seed(seed)
    video = torch.randn(n, dim, generator=rng)
    text = torch.randn(n, dim, generator=rng) if caption_is is None else video @ caption_is
    names = [f"clip{i}" for i in range(n)]
    rows = pd.DataFrame({"clip_id": names, "youtube_id": names, "caption": names})
    return Clips(video, torch.arange(n), video, text, torch.zeros(n, 1, dtype=torch.long), rows)


def test_of_noise_nothing_is_found_and_of_a_planted_matrix_much(specs):
    "Canaries of the search: captions that have nothing to do with their clips, and captions that a matrix makes."
    spec = replace(specs["linear"], epochs=30)
    chance = 100 * np.mean(1 / np.arange(1, 91))
    noise, _ = search_setting("linear", spec, clips_of_noise(90))
    turned = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(1)))[0]
    mixed = 0.3 * torch.eye(128) + turned
    planted = clips_of_noise(90, caption_is=mixed[:, torch.randperm(128, generator=torch.Generator().manual_seed(2))])
    found, _ = search_setting("linear", spec, planted)
    assert max(noise.tried.values()) < 2.5 * chance < max(found.tried.values())


def test_a_bank_that_holds_the_clip_s_own_caption_does_not_flatter(specs):
    "Of noise the query bank finds nothing, at whatever temperature: own captions are left out of the sum."
    tuned, _ = search_setting("query_bank", specs["query_bank"], clips_of_noise(90))
    assert max(tuned.tried.values()) < 2.5 * 100 * np.mean(1 / np.arange(1, 91))


# --- records ---


@pytest.mark.parametrize("method", ["linear", "lora", "lp_ft"])
def test_kept_model_is_what_was_measured(profile, specs, records, method):
    "Heads and adapters are merged into a plain ViCLIP, which finds what the record says."
    from frames_matter.data.dataset import VideoCaptionDataset
    from frames_matter.data.manifest import load_manifest
    from frames_matter.metrics.retrieval import ranks
    from frames_matter.model.tokenizer import tokenizer_for
    from frames_matter.model.training import encode_clips
    from frames_matter.model.weights import load_viclip

    folders = model_dir(specs[method]).parent.iterdir()
    folder = next(p for p in folders if read_about(p)["spec"]["method"] == method)
    model = load_viclip(folder)
    data = VideoCaptionDataset(load_manifest(profile), "pool", size=specs[method].image_size)
    tokens = tokenizer_for(profile)([item["caption"] for item in data], context_length=model.config.context_length)
    with torch.no_grad():
        text = model.encode_text(tokens)
    s = pairwise_similarity(None, encode_clips(model, torch.stack([item["video"] for item in data])), text)
    measured = records[method]["metrics"]
    temperature = measured.get("chosen_temperature", 0.07)
    assert calibration(s, temperature)["nll"] == pytest.approx(measured["nll"], rel=1e-4)
    assert ranks(s.numpy(), range(len(s))).tolist() == measured["ranks_t2v"]


def test_same_numbers_twice_and_small_records(profile, specs, records):
    def timeless(record):
        metrics = {name: value for name, value in record["metrics"].items() if not name.endswith("seconds")}
        return metrics | {"curves": record["curves"]}

    for name in ("variants", "pulled"):
        assert timeless(run_of(specs[name])) == timeless(records[name])
    assert all(len(json.dumps(r)) < 10_000 for r in finished(profile).values())


def test_without_peft(specs, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'frames_matter\[scale\]'"):
        run_of(specs["lora"])


def test_unknown_rung(specs):
    with pytest.raises(UserError, match="Unknown rung 'prompt'; valid: zero_shot, temperature, query_bank, views, lin"):
        run_of(specs["linear"].with_options(method="prompt"))


def test_too_many_clips(specs):
    with pytest.raises(UserError, match="400 clips of split 'train' are wanted and there are 16"):
        run_of(specs["linear"].with_options(n_train=400))
