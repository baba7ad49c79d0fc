"""The laboratories' tables, figures and sentences, from invented records whose truth is known."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import WORLDS, get_profile, results_dir
from frames_matter.base.registry import Registry
from frames_matter.labs import audit, cross_validation, favourite, frames, ladder, losses, shifted_ladder, shifts
from frames_matter.labs.laboratory import Laboratory
from frames_matter.labs.registry import LABORATORIES
from frames_matter.model.weights import MADE_HERE, SHIPPED, load_viclip
from frames_matter.report.reader import Layout, load_records, published
from frames_matter.report.writers import Figure, Table, in_short

PLAIN = dict(profile="mini", architecture="viclip", loss="infonce", sampling="uniform", protocol="sound", seed=0)


@pytest.fixture
def store(tmp_path, monkeypatch):
    "Writes records as the store of mini, in a home of its own; returns the folder of results."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    folder = results_dir(get_profile("mini"))

    def write(records):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "runs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        return folder

    return write


def record(phase, metrics, n=240, finished="2026-01-01", curves=None, **spec):
    "A line of a store."
    spec = PLAIN | dict(phase=phase) | spec
    about = dict(n_queries=n, n_clips=n, seconds=2.0, finished=finished, curves=curves or {})
    return dict(spec=spec, spec_hash=str(spec), metrics=metrics) | about


def written(folder):
    "The files below a folder, with what is in them."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_written_once(laboratory, folder, tables, figures):
    "Files of these names are written, and a second time nothing changes; without runs nothing is said or written."
    laboratory.write("mini")
    first = written(folder)
    laboratory.write("mini")
    assert written(folder) == first
    names = {"runs.jsonl"} | {f"tables/{t}.{kind}" for t in tables for kind in ("csv", "md")}
    assert set(first) == names | {f"figures/{f}.png" for f in figures}
    (folder / "runs.jsonl").write_text("")
    assert laboratory.write("mini") == ([], []) and laboratory.sentence("mini") == ""


# --- favourite ---


def favourite_records(models=favourite.MODELS):
    "One model to which frames make no difference, and one that finds fewer clips with all but uniform ones."
    rng, found = np.random.default_rng(5), []
    for model in models:
        for name in ("uniform", "mean", "keyframes"):
            chance = 0.4 if model == "nano-evenly" and name != "uniform" else 0.9
            cell = dict(weights=model, weights_sha=model, sampling=name)
            found.append(record("favourite", ranked(chance, rng), **cell))
    return found


def test_favourite(store):
    "What one model alone loses is told of that model; of one model alone nothing is said."
    folder = store(favourite_records())
    table = favourite.table_favourite(favourite.FAVOURITE.load("mini"))
    assert set(table.loc["frames at even steps alone"].verdict) == {"worse"}
    assert "worse" not in set(table.loc["frames taken in many ways"].verdict)
    said = favourite.FAVOURITE.sentence("mini")
    assert "at even steps alone, against uniform frames in points of MRR, worse: mean of all frames (-" in said
    assert "rank correlation of " in said
    assert favourite.FAVOURITE.gist(favourite.FAVOURITE.load("mini")).startswith(
        "Worse than uniform frames for both models: none; only for the one pretrained on frames at even steps alone: m"
    )
    assert_written_once(favourite.FAVOURITE, folder, ("favourite",), ("favourite",))
    store(favourite_records(["nano"]))
    assert favourite.FAVOURITE.sentence("mini") == ""


def test_the_other_model_is_asked_for_once_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    profile = get_profile("smoke")
    assert {cell["weights"] for _, cell in favourite.favourite_cells(profile)} == {"nano"}
    assert "`frames-matter pretrain --evenly` makes it" in favourite.FAVOURITE.missing(profile)
    with pytest.raises(UserError, match="make it with `frames-matter pretrain --evenly`"):
        load_viclip("nano-evenly")
    made = tmp_path / MADE_HERE["nano-evenly"]
    made.parent.mkdir(parents=True)
    shutil.copy(SHIPPED["nano"], made)
    assert {cell["weights"] for _, cell in favourite.favourite_cells(profile)} == {"nano", "nano-evenly"}
    assert favourite.FAVOURITE.missing(profile) == ""


# --- shifts ---


def ranked(found_first, rng):
    "Metrics of a run of which so large a share is found first, and the rest second."
    ranks = np.where(rng.random(120) < found_first, 1, 2)
    return dict(t2v_r1=100 * float((ranks == 1).mean()), ranks_t2v=ranks.tolist())


def shift_records():
    "In three worlds each: at home training takes, in the dark it gives, and what else there is changes nothing."
    found = []
    for name, world in WORLDS.items():
        if world.results != "mini" or world.light == "mild":
            continue
        gain = 0.3 if world.light == "strong" else -0.3 if name == f"mini-{world.seed}" else 0.0
        rng = np.random.default_rng([world.seed, *name.encode()])
        zero = dict(profile=name, method="zero_shot", epochs=0, data=name)
        found += [record("shifts", ranked(0.5, rng), n=120, sampling=s, **zero) for s in ("uniform", "mean")]
        for method in shifts.TRAINED:
            for seed in range(3):
                cell = dict(profile=name, method=method, epochs=20, seed=seed, data=name)
                found.append(record("shifts", ranked(0.5 + gain, rng), n=120, **cell))
    return found


def test_shifts(store):
    folder = store(shift_records())
    runs = shifts.SHIFTS.load("mini")
    table = shifts.table_shifts(runs)["verdict"].unstack()
    assert (table.loc["light, strong"] == "better").all()
    assert (table.loc["at home"] == "worse").all()
    assert table.loc["noise, strong"].isin(["cannot be told", "within 2 points"]).all()
    assert shifts.table_shifts(runs).loc["at home", "worlds"].tolist() == [3, 3]
    assert shifts.table_shifts(runs).loc["noise, mild", "worlds"].tolist() == [3, 3]
    assert "finds more: light, strong (+1" in shifts.SHIFTS.sentence("mini")
    said = shifts.SHIFTS.headline(runs)
    assert "Of 3 worlds at home and 3 under each strong shift, fine-tuning finds more: light, strong (+" in said
    assert "fine-tuning, in points of MRR, finds more in: light, strong (+" in shifts.SHIFTS.gist(runs)
    spread = shifts.table_spread(runs)
    assert spread.sum(axis=1).to_numpy() == pytest.approx(1)
    names = ("shifts", "shift_frames", "shift_spread")
    assert_written_once(shifts.SHIFTS, folder, names, ("shifts",))


# --- the audit ---


def audit_records():
    "Three seeds of fusion with two switches, and canaries of two heads, with the losses that one expects."

    def one(architecture, sampling, protocol, switches=(), canary="", seed=0, loss=0.1):
        rng = np.random.default_rng([seed, len(switches), len(canary)])
        ranks = rng.integers(1, 241, 240) if canary else rng.integers(1, 5, 240)
        metrics = dict(alignment_loss=loss, t2v_r1=100 * float((ranks <= 1).mean()), ranks_t2v=ranks.tolist())
        options = ({"switches": switches} if switches else {}) | ({"canary": canary} if canary else {})
        cell = dict(architecture=architecture, sampling=sampling, protocol=protocol, seed=seed, epochs=20)
        return record("audit", metrics, finished=f"2026-01-01T00:00:{seed:02}", **cell, **options)

    found = []
    for protocol, base in (("published", 0.001), ("sound", 0.3)):
        for seed in range(3):
            for switches in ((), ("true_pairs_only",), ("head_untrained",)):
                found.append(one("fusion", "dropout", protocol, switches, seed=seed, loss=base * (1 + seed)))
            for architecture in ("viclip", "fusion"):
                blind = architecture == "fusion" and protocol == "published"
                for canary in audit.CANARY_TITLES:
                    found.append(
                        one(architecture, "uniform", protocol, canary=canary, seed=seed, loss=0.005 if blind else 1.7)
                    )
    return found


def test_audit(store):
    folder = store(audit_records())
    runs = audit.AUDIT.load("mini")
    table = audit.table_audit(runs)
    row = table.loc[("fusion, InfoNCE, dropout frames", "none")]
    assert row["loss, corrected mean"] == pytest.approx(0.002)
    assert row["study"] == published()["headline"]["frame_sampling"]["infonce"]["dropout"]
    canary = audit.table_canary(runs)
    assert not canary.loc[("published", "random features", "fusion"), "finds nothing"]
    assert canary.loc["sound"]["finds nothing"].all() and canary["recall is chance"].all()
    assert "fusion under the published protocol on random features (0.0050" in audit.AUDIT.sentence("mini")
    assert "the loss claims a find in 2 of 8 cases, recall in none." in audit.AUDIT.gist(runs)
    assert_written_once(audit.AUDIT, folder, ("audit", "canary"), ("audit",))


def dealt(deal, switches, loss):
    "A run on another deal of the clips."
    metrics = dict(alignment_loss=loss, t2v_r1=50.0, ranks_t2v=[1, 2] * 120)
    return record("audit", metrics, deal=deal, epochs=20, **({"switches": switches} if switches else {}))


def test_many_deals_tell_what_is_due_to_clips_of_one_video_on_both_sides(store):
    rng = np.random.default_rng(0)
    rules = {(): 0.2, ("split_by_clip",): 0.1}  # what is dealt, and how high the loss is then
    deals = [dealt(i, s, base * rng.uniform(0.8, 1.2)) for s, base in rules.items() for i in range(1, 11)]
    store([*audit_records(), *deals])
    runs = audit.AUDIT.load("mini")
    table = audit.table_deals(runs)
    assert table.loc["videos dealt", "deals"] == 10 and table.loc["difference", "high"] < 0
    assert "with clips dealt is smaller" in audit.AUDIT.sentence("mini")
    assert [t.name for t in audit.AUDIT.tables(runs)] == ["audit", "canary", "deals"]
    plain = audit.of_record(runs)
    assert len(plain) == 18 and audit.table_audit(plain).equals(audit.table_audit(runs))
    store(audit_records())
    assert "deals" not in audit.AUDIT.sentence("mini")


def test_the_largest_change_is_said_where_the_seeds_allow_it(store):
    def one(switches, seed, loss):
        return record("audit", dict(alignment_loss=loss, t2v_r1=50.0), seed=seed, epochs=20, switches=switches)

    def said(losses):
        "What is said when one switch makes these losses and another a tenth of those of none."
        made = {(): (1.0, 1.1, 0.9), ("eval_mask_ratio",): losses, ("train_mask_ratio",): (0.1, 0.12, 0.08)}
        rows = [one(s, seed, loss) for s, of in made.items() for seed, loss in enumerate(of)]
        runs = pd.DataFrame([r["spec"] | r["metrics"] for r in rows]).assign(canary="", deal=0)
        return audit._largest_change("a model", audit.with_switch_names(runs))

    assert said((0.001, 0.0011, 0.0009)).endswith("the largest change of all.")
    assert "3 seeds cannot tell from that of 90 % of tokens dropped in training" in said((0.001, 0.5, 0.3))


def test_an_audit_without_switches_speaks_of_noise_alone(store):
    store([r for r in audit_records() if not dict(r["spec"]).get("switches")])
    runs = audit.AUDIT.load("mini")
    assert audit.AUDIT.gist(runs) == "In pure noise the loss claims a find in 2 of 8 cases, recall in none."


def test_half_an_audit_says_nothing(store):
    store([r for r in audit_records() if r["spec"]["protocol"] == "sound"])
    assert audit.AUDIT.sentence("mini") == "" and audit.AUDIT.write("mini") == ([], [])


# --- frames ---


LETTERS = np.array(list("acstedo" * 35)[:240])


def frame_records():
    "240 clips; who sees everything is right, who sees nothing guesses."

    def one(look, right, seed=0, told=None):
        hits = np.random.default_rng([seed, len(look)]).random(240) < right
        metrics = dict(evaluation_split="pool", kinds="".join(LETTERS), outcomes="".join("01"[int(h)] for h in hits))
        metrics |= dict(ranks_t2v=[1 if h else 5 for h in hits], t2v_r1=100 * float(hits.mean()))
        metrics |= {} if told is None else {"told": "".join(map(str, told))}
        shown = {"control": look} if look in frames.CONTROLS else {"sampling": look}
        return record("frames", metrics, seed=seed, **shown)

    everything = [1] * 240
    return [
        one("uniform", 0.95, told=everything),
        one("mean", 0.6, told=[int(letter in "ac") for letter in LETTERS]),
        one("blank", 0.5),
        *[one("weighted", 0.9, seed, everything) for seed in range(3)],
    ]


def test_frames(store):
    folder = store(frame_records())
    table = frames.table_frames(frames.FRAMES.load("mini"))
    assert table.loc[("mean", "order"), "ceiling"] == 50 and table.loc[("mean", "count"), "ceiling"] == 100
    assert np.isnan(table.loc[("blank", "order"), "ceiling"])
    assert table.loc[("uniform", "all kinds"), "clips"] == 240
    assert (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()
    said = frames.FRAMES.sentence("mini")
    assert "Worse than uniform frames in text-to-video MRR: mean of all frames (-2" in said
    gist = frames.FRAMES.gist(frames.FRAMES.load("mini"))
    assert gist.startswith(
        "Of 2 other ways to take frames, better than uniform ones in points of MRR: none; worse: mean"
    )
    assert_written_once(frames.FRAMES, folder, ("frames", "frames_recall"), ("frames",))


def test_a_strategy_that_nobody_registered_keeps_its_rows(store):
    unknown = frame_records()[0]
    unknown["spec"] |= {"sampling": "every_other"}
    unknown["spec_hash"] = "other"
    store([*frame_records(), unknown])
    runs = frames.FRAMES.load("mini")
    assert "every_other" in frames.show_frames(frames.table_frames(runs)).index
    assert "every_other" in frames.table_frames_recall(runs).index
    assert frames.plot_frames(runs) is not None


# --- losses ---

COST = {"oracle": 0.0, "hnac": 0.6, "constant": 0.6}  # of what false negatives cost InfoNCE


def loss_record(cell, loss, seed, harm, n=240):
    "False negatives cost so large a share of what is found; H-NAC and its control get two fifths back, the oracle all."
    rng = np.random.default_rng([seed, len(loss), len(cell)])
    ease = np.random.default_rng(0).random(n) + 0.02 * rng.standard_normal(n)
    right = 0.7 - harm * COST.get(loss, 1.0)
    there, back = (np.where(e < right, 1.0, 5.0) for e in (ease, ease[::-1]))  # both ways find different clips
    r1 = 100 * float((there <= 1).mean())
    metrics = dict(ranks_t2v=there.tolist(), ranks_v2t=back.tolist(), ndcg_each=(80 + 10 * (there == 1)).tolist())
    metrics |= dict(t2v_r1=r1, v2t_r1=r1, t2v_ndcg=80.0, v2t_ndcg=80.0, evaluation_split="pool", test_reads=1)
    metrics |= dict(chosen_learning_rate=1e-4, chosen_temperature=0.2, tried_scores=[20.0, 21.0])
    of = losses.CELLS[cell]
    fields = dict(cell=cell, loss=loss, seed=seed, data=of.world, method=of.method, takes=of.takes)
    fields |= dict(batch_size=of.batch_size, epochs=round(20 * of.epochs), learning_rate=of.learning_rate or 0.0)
    fields |= {"false_negatives": of.rate} if of.rate else {}
    return record("losses", metrics, n, profile="mini" if of.world == losses.HOME else "mini-light-strong-42", **fields)


def loss_records(harm_of_control=0.2):
    harms = {losses.CONTROL: harm_of_control, "control_tuned": 0.1}
    return [
        loss_record(name, loss, seed, harms.get(name, 0.0), n=240 if cell.world == losses.HOME else 120)
        for name, cell in losses.CELLS.items()
        for loss in cell.losses or losses.LOSSES
        for seed in range(3)
    ]


def test_losses(store):
    lone = loss_record("none", "infonce", 0, 0.0)
    lone["spec"] |= {"k": 4}  # another set-up, finished later: it empties no table
    lone["spec_hash"] = "another"
    folder = store([*loss_records(), lone | {"finished": "2026-02-02"}])
    runs = losses.LOSS_LABORATORY.load("mini")
    found = losses.table_losses(runs)
    assert len(found) == sum(len(cell.losses or losses.LOSSES) for cell in losses.CELLS.values())
    control = found.loc[losses.CELLS[losses.CONTROL].title]
    assert (control.loc[["H-NAC", "constant weight", "oracle mask"]].verdict == "better").all()
    assert control.loc["margin"].verdict != "better" and control.loc["InfoNCE"].verdict == ""
    assert found.loc["nothing planted"].verdict.isin(["", "within 2 points", "cannot be told"]).all()
    plain = found.xs("InfoNCE", level="loss").MRR.reindex(found.index.get_level_values("cell")).to_numpy()
    compared = found.difference.notna().to_numpy()
    assert np.allclose((found.MRR - plain)[compared], found.difference[compared].astype(float))
    assert (found["MRR from"] <= found.MRR).all() and (found["MRR to"] >= found.MRR).all()
    assert set(found["learning rate"]) == {"0.0001"} and set(found.seeds) == {3}
    tables = ("losses", "losses_questions")
    assert_written_once(losses.LOSS_LABORATORY, folder, tables, ("losses",))


def test_what_was_asked_of_losses(store):
    store(loss_records())
    runs = losses.LOSS_LABORATORY.load("mini")
    questions = losses.table_loss_questions(runs)
    cells = len(losses.CELLS)
    assert questions.groupby(level=0, sort=False).size().tolist() == [1, cells, cells, cells - 1]
    assert questions.loc[losses.SEES].index.tolist() == [losses.CELLS[losses.CONTROL].title]
    aware = questions.loc["H-NAC against constant weight", "verdict"]
    assert aware.isin(["within 2 points", "cannot be told"]).all() and aware.eq("within 2 points").any()
    assert questions["nDCG difference"].notna().all()
    said = losses.LOSS_LABORATORY.sentence("mini").splitlines()
    assert re.match(r"This laboratory can see: .* finds \+1\d\.\d points of MRR \(", said[0])
    assert said[1].startswith("H-NAC against InfoNCE, in points of MRR: better: control")
    gist = losses.LOSS_LABORATORY.gist(losses.LOSS_LABORATORY.load("mini"))
    assert re.match(rf"Of {cells} kinds of batch H-NAC is better than InfoNCE in [1-9]", gist)
    assert said[-1].startswith("Other losses against InfoNCE")


@pytest.mark.parametrize("harm", [0.0, -0.2], ids=["the oracle wins nothing", "the oracle loses"])
def test_a_loss_laboratory_that_is_blind_says_so_first(store, harm):
    store(loss_records(harm))
    said = losses.LOSS_LABORATORY.sentence("mini").splitlines()
    assert said[0].startswith("This laboratory cannot see") and "is no answer" in said[0]
    assert "could not see" in losses.LOSS_LABORATORY.gist(losses.LOSS_LABORATORY.load("mini"))


def test_without_its_control_the_loss_laboratory_says_nothing(store):
    store([r for r in loss_records() if r["spec"]["cell"] != losses.CONTROL])
    assert losses.LOSS_LABORATORY.sentence("mini") == "" and losses.LOSS_LABORATORY.write("mini") == ([], [])


def test_runs_of_no_cell_are_left_out(store):
    old = loss_record("none", "infonce", 0, 0.0)
    del old["spec"]["cell"]
    store([old])
    assert losses.LOSS_LABORATORY.sentence("mini") == "" and not len(losses.LOSS_LABORATORY.load("mini"))


def test_a_grid_that_is_half_done_compares_what_it_has(store):
    store([r for r in loss_records() if r["spec"]["loss"] != "hnac" or r["spec"]["seed"] == 0])
    found = losses.table_losses(losses.LOSS_LABORATORY.load("mini"))
    assert found.xs("H-NAC", level="loss").difference.notna().all()


# --- the ladder ---

FOUND = dict.fromkeys(ladder.RUNGS, 0.62) | {
    "zero_shot": 0.6,
    "temperature": 0.6,
    "lora": 0.8,
    "full": 0.4,
    "views": 0.7,
}
CHOSEN = (1e-5, 1e-4, 1e-4)  # a seed each


def rung_record(method, n_train=0, seed=0, setting="", n=240, phase="ladder", profile="mini1000"):
    "Each rung finds its share of the captions; as published a tenth less."
    rung, trained = ladder.RUNGS[method], bool(ladder.RUNGS[method].rates)
    ease = np.random.default_rng(1).random(n) + 0.02 * seed * trained * np.random.default_rng(2).standard_normal(n)
    ranks = {name: np.where(ease < share, 1.0, 5.0).tolist() for name, share in (("own", FOUND[method]), ("zero", 0.6))}
    if setting:
        ranks["own"] = np.where(ease < FOUND[method] - 0.1, 1.0, 5.0).tolist()
    metrics = dict(ranks_t2v=ranks["own"], t2v_r1=100 * float(np.mean(np.array(ranks["own"]) == 1)))
    metrics |= dict(evaluation_split="pool", trainable_parameters=1000 * trained, train_steps=40 * trained)
    metrics |= dict(nll=1.2, ece=9.0, test_reads=1, train_seconds=2.0 * trained, tuning_seconds=0.0)
    if method == "temperature":
        metrics |= dict(fitted_temperature=0.05, nll_fitted=1.0, ece_fitted=4.0)
    if (trained or rung.temperatures) and not setting:
        rate = CHOSEN[seed] if trained else 0.0
        tries = dict(
            tried_learning_rates=[1e-5 * trained, 1e-4 * trained],
            tried_temperatures=[0.07, 0.07 if trained else 0.2],
            tried_scores=[50.0, 50.0 + seed],
        )
        metrics |= tries | dict(chosen_learning_rate=rate, chosen_temperature=0.07, tuning_seconds=30.0)
        metrics |= dict(chosen_at_edge=int(rate == 1e-5))
    if method == "full" and not setting:
        metrics |= dict(wise_alphas=[0.0, 1.0], wise_scores=[50.0, 40.0], wise_alpha=0.25, wise_seconds=1.0)
        metrics |= dict(wise_ranks_t2v=ranks["zero"], wise_t2v_r1=60.0)
    cell = dict(method=method, seed=seed, learning_rate=0.0, epochs=10 * trained, batch_size=16, temperature=0.0)
    cell |= {name: value for name, value in (("n_train", n_train), ("setting", setting)) if value}
    return record(phase, metrics, n, profile=profile, **cell)


def rung_records():
    with_clips = [
        rung_record(name, n_train, seed, setting)
        for name, rung in ladder.RUNGS.items()
        if rung.needs_clips
        for n_train in (50, 200)
        for seed in range(3)
        for setting in (("", "published") if rung.rates else ("",))
    ]
    return [rung_record("zero_shot"), rung_record("views"), *with_clips]


def test_ladder(store):
    folder = store(rung_records())
    runs = ladder.LADDER.load("mini")
    table = ladder.table_ladder(runs)
    assert len(table) == 2 + 2 * (len(ladder.RUNGS) - 2 + 1)  # and the averages
    lora = runs[(runs.method == "lora") & (runs.n_train == 50) & (runs.setting == "")]
    assert table.loc[(50, "LoRA, both towers"), "t2v R@1"] == pytest.approx(lora.t2v_r1.mean())
    verdicts = table.verdict.unstack()
    assert (verdicts["LoRA, both towers"].dropna() == "better").all()
    assert (verdicts["full fine-tuning"].dropna() == "worse").all()
    assert (verdicts["temperature alone"].dropna() == "the same ranks").all()
    published = table["published difference"] - table.difference
    assert published.loc[50].dropna().between(-15, -5).all()
    assert published.notna().sum() == 2 * sum(bool(rung.rates) for rung in ladder.RUNGS.values())
    said = ladder.LADDER.sentence("mini")
    assert said.startswith("Without any clips") and "With 50 clips" in said and "LoRA, both towers (+" in said
    gist = ladder.LADDER.gist(runs)
    assert "spend 50 clips, better than zero-shot in points of MRR: LoRA, both towers (+" in gist
    assert "worse: full fine-tuning (-" in gist and gist.count("Of ") == 2
    ladder.LADDER.write("mini")
    assert "no source video in two" in (folder / "tables" / "ladder.md").read_text()
    tables = ("ladder", "ladder_asked", "ladder_settings", "ladder_calibration")
    assert_written_once(ladder.LADDER, folder, tables, ("ladder",))


def test_ladder_under_shift_is_told_by_itself(store):
    where = dict(n=120, phase="shifted_ladder", profile="mini-light-strong-42")
    under_shift = [rung_record(name, 40, seed, **where) for name in ("linear", "full") for seed in range(3)]
    folder = store([*rung_records(), rung_record("zero_shot", **where), *under_shift])
    of = shifted_ladder.SHIFTED_LADDER
    assert of.sentence("mini").startswith("With 40 clips") and "40 clips" not in ladder.LADDER.sentence("mini")
    tables = [f"shifted_ladder{part}" for part in ("", "_asked", "_settings", "_calibration")]
    assert_written_once(of, folder, tables, ("shifted_ladder",))


def test_ladder_tells_what_was_chosen_and_what_it_cost(store):
    store(rung_records())
    runs = ladder.LADDER.load("mini")
    table = ladder.table_ladder(runs)
    linear, averages = table.loc[(200, "linear heads")], table.loc[(200, "WiSE-FT")]
    assert linear.rates == "1e-05 (1×), 0.0001 (2×)" and linear["at the edge"] == 1
    assert linear.tuning == 30 and linear.training == 2 and linear.cost == 32 and averages.cost == 33
    assert averages.alphas == "0.25" and table.loc[(200, "full fine-tuning"), "cost"] == 32
    settings = ladder.table_settings(runs)
    row = settings.loc[(50, "linear heads", 1e-4, 0.07)]
    assert row.chosen == 2 and row.tried == 3 and row["held-out MRR"] == pytest.approx(51)
    zero = runs[runs.method == "zero_shot"].t2v_r1.iloc[0]
    assert (ladder.table_calibration(runs)["t2v R@1"] == zero).all()
    assert set(ladder.show_ladder(table)["α chosen"]) == {"–", "0.25"}


def test_a_ladder_of_another_design_is_left_alone(store):
    old = rung_records()
    for line in old:
        del line["metrics"]["tuning_seconds"]
    store(old)
    assert ladder.LADDER.sentence("mini") == "" and ladder.LADDER.write("mini") == ([], [])


# --- cross-validation ---


def cross_records(deals=3, clips=50, pool=60):
    "Two contenders, the second much worse."
    rng, made = np.random.default_rng(0), []
    for method, worst in (("zero_shot", 3), ("infonce", 30)):
        models = 1 if method == "zero_shot" else 10
        for deal in range(deals):
            held = rng.integers(1, 2 + worst // 10, clips).astype(float)
            metrics = dict(videos=list(range(clips)), fold=[i % 10 for i in range(clips)], ranks_t2v=held.tolist())
            metrics |= dict(fold_losses=rng.uniform(0.01, 1, 10).tolist(), pool_losses=[0.1] * models)
            metrics |= dict(pool_ranks=rng.integers(1, worst, (models, pool)).tolist(), evaluation_split="held out")
            made.append(record("cross_validation", metrics, clips, method=method, seed=deal))
    return made


def test_cross_validation(store):
    folder = store(cross_records())
    runs = cross_validation.CROSS_VALIDATION.load("mini")
    folds = cross_validation.every_fold(runs)
    assert len(folds) == 2 * 3 * 10 and (folds.clips == 5).all()
    assert set(folds.r1) <= {0, 20, 40, 60, 80, 100}
    zero = folds[folds.method == "zero_shot"].groupby("deal").r1.mean().iloc[0]
    held = np.array(runs[runs.method == "zero_shot"].ranks_t2v.iloc[0])
    assert zero == pytest.approx(100 * (held <= 1).mean())
    first = runs[runs.method == "infonce"].iloc[0]
    third = folds[(folds.method == "infonce") & (folds.deal == 0) & (folds.fold == 3)].true_r1.item()
    assert third == pytest.approx(100 * cross_validation.first_of(first.pool_ranks[3], 60, 5).mean())
    told = cross_validation.table_cross(runs)
    assert told.loc[("fine-tuning against zero-shot", "the pool"), "verdict"] == "worse"
    assert 0 <= told["fives right"].max() <= 1
    assert "strays from the truth" in cross_validation.CROSS_VALIDATION.sentence("mini")
    assert re.search(r"in \d+ % \(fine-tuning against zero-shot\)", cross_validation.CROSS_VALIDATION.gist(runs))
    tables = ("cross_validation", "cross_fives")
    assert_written_once(cross_validation.CROSS_VALIDATION, folder, tables, ("cross_validation",))


# --- any of them ---


def test_in_short_the_largest_differences_are_named_and_the_others_counted():
    told = pd.DataFrame(dict(difference=[-1.0, -3.0, -2.0, 4.0], verdict=["worse", "worse", "worse", "cannot be told"]))
    told.index = list("abcd")
    assert in_short(told, most=2) == "better: none; worse: b (-3.0), c (-2.0) and 1 more"


@pytest.mark.parametrize(
    "laboratory, records, profile, clips",
    [
        (frames.FRAMES, frame_records, "mini", 240),
        (losses.LOSS_LABORATORY, loss_records, "mini", 240),
        (losses.LOSS_LABORATORY, loss_records, "mini-light-strong-42", 120),
        (ladder.LADDER, rung_records, "mini1000", 240),
        (cross_validation.CROSS_VALIDATION, cross_records, "mini", 60),
    ],
)
def test_of_few_source_videos_no_interval_is_said(store, tmp_path, laboratory, records, profile, clips):
    made = records()
    for line in made:
        if "videos" in line["metrics"]:
            line["metrics"]["videos"] = [clip % 4 for clip in line["metrics"]["videos"]]
    store(made)
    manifest = tmp_path / "data_manifest" / profile / "clips.csv"
    manifest.parent.mkdir(parents=True)
    rows = pd.DataFrame({"youtube_id": np.arange(clips) % 4}).assign(status="kept", split="pool")
    rows.to_csv(manifest, index=False)
    said = laboratory.sentence("mini")
    assert "cannot be told" in said and not re.search(r"\bnan\b", said)


def test_a_laboratory_is_one_object(store):
    "A new one is a notebook that makes the object, and a line that registers it; its table and sentence follow."

    def table(runs):
        numbers = runs.set_index("seed")[["t2v_r1"]]
        return [Table("coins", "Coins", numbers, numbers.astype(str), "Two throws.")]

    coins = Laboratory(
        name="coins",
        title="Does a coin find clips?",
        cells=lambda profile: [(profile, dict(phase="coins", seed=seed)) for seed in profile.seeds],
        procedure="math:sqrt",
        layout=Layout(phases=("coins",), cell=("seed",)),
        answer=lambda runs: f"{len(runs)} throws.",
        tables=table,
        figures=lambda runs: [Figure("none", "Nothing here.", lambda: None)],
    )
    registry = Registry("laboratory", [*LABORATORIES.values(), coins])
    folder = store([record("coins", dict(t2v_r1=50.0), seed=seed) for seed in range(2)])
    tables, figures = registry["coins"].write("mini")
    assert [t.name for t in tables] == ["coins"] and figures == []
    assert registry["coins"].sentence("mini") == "2 throws."
    assert pd.read_csv(folder / "tables" / "coins.csv").t2v_r1.tolist() == [50, 50]


@pytest.mark.parametrize("name", [n for n, laboratory in LABORATORIES.items() if laboratory.layout])
def test_the_committed_record_is_of_one_setup(root, name, monkeypatch):
    "Every run of whoever made the record stands in its laboratory's tables."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(root))
    lines = [json.loads(line) for line in (root / "results/mini/runs.jsonl").read_text().splitlines()]
    of_this = [line for line in lines if line["spec"]["phase"] == name]
    if not of_this:
        pytest.skip(f"the record holds no run of laboratory {name}")
    runs = load_records("mini", LABORATORIES[name].layout)
    assert len(runs) == sum(line["run_by"] in set(runs.run_by) for line in of_this) > 0
