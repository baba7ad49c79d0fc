"""A judgement of one's own clips: it sees what can be learned, says nothing of noise, and leaves a model."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hub_server import serve_hub

import frames_matter as fm
from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile, results_dir
from frames_matter.cli import run_command
from frames_matter.clips import training
from frames_matter.clips.collection import near_captions, near_clips, strange_words
from frames_matter.clips.features import encoder_for
from frames_matter.clips.find import find
from frames_matter.clips.judge import advice, judge, say_before, summary, write_page
from frames_matter.clips.keep import keep_model, recommended_way
from frames_matter.clips.questions import Answers, ask, confusions, table_before
from frames_matter.clips.training import Known, judge_once, judge_training, table_training, why_not_judged
from frames_matter.data.manifest import load_manifest
from frames_matter.data.own import register_own
from frames_matter.metrics.retrieval import retrieval_metrics
from frames_matter.metrics.stats import BETTER
from frames_matter.model.tokenizer import tokenizer_for


def made_up(n, turned=0.5, seed=0, shuffled=False):
    "Clips of which a model turns a share of the directions round; shuffled, their captions are others'."
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(n, 128, generator=generator)
    noise = 0.5 * torch.randn(2, n, 128, generator=generator)
    video = torch.where(torch.arange(128) < 128 * turned, -truth, truth) + noise[0]
    text = truth + noise[1]
    return Known(video, text[torch.randperm(n, generator=generator)] if shuffled else text, np.arange(n) // 2)


def judged(clips, deals=2):
    return table_training(pd.concat([judge_once(clips, deal).assign(repeat=deal) for deal in range(deals)]))


# --- training ---


def test_what_can_be_learned_is_seen():
    table = judged(made_up(60))
    assert table.verdict["linear heads"] == BETTER and table.difference["linear heads"] > 3


def test_of_noise_nothing_is_said():
    "Ten data sets whose captions are dealt at random: no way is ever better."
    for seed in range(10):
        table = judged(made_up(24, seed=seed, shuffled=True))
        assert BETTER not in set(table.verdict), (seed, table)


def test_held_out_clips_are_told_from_one_another_alone():
    "What a way makes of the clips that it was trained on has no say: scores of a way that adores them are zero-shot's."
    clips = made_up(24)
    seen = []

    def fit(known, setting, seed):
        seen.append(len(known))
        return training.Adapted(lambda asked: training.cosines(asked))

    way = training.Way("query_bank", fit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "WAYS_TO_ADAPT", {"query_bank": way})
        once = judge_once(clips, 0)
    assert (once.zero_shot == once.query_bank).all()
    assert sorted(once.place) == list(range(24)) and max(seen) == once.trained.max()
    assert (once.groupby("fold").size() + once.groupby("fold").trained.first() == 24).all()


def test_a_source_video_is_never_on_both_sides():
    clips = made_up(24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "reciprocals", lambda similarity: np.ones(len(similarity)))
        for folds in (training.grouped_folds(clips.videos, 3, seed) for seed in range(5)):
            for held in folds:
                rest = clips.without(held)
                assert not set(rest.videos) & set(clips.videos[held])


def test_what_was_found_before_and_after_is_of_the_same_clips():
    "Their difference is the one that is judged; each is a mean of reciprocal ranks among the clips of a fold."
    once = pd.concat([judge_once(made_up(24), deal).assign(repeat=deal) for deal in range(2)])
    table = table_training(once)
    assert (table.after - table.before).to_numpy() == pytest.approx(table.difference.to_numpy())
    folds = [fold.linear.mean() for _, fold in once.groupby(["repeat", "fold"])]
    assert table.after["linear heads"] == pytest.approx(100 * np.mean(folds)) and table.before.nunique() == 1


def test_a_deal_that_is_done_is_not_done_again(tmp_path, monkeypatch):
    clips = made_up(24)
    monkeypatch.setattr(training, "TIMES_DEALT", 1)
    first = judge_training(clips, tmp_path, {"data": "a"}, progress=False)
    monkeypatch.setattr(training, "judge_once", lambda *_: pytest.fail("a deal was done again"))
    pd.testing.assert_frame_equal(first, judge_training(clips, tmp_path, {"data": "a"}, progress=False))


def test_of_few_films_it_is_said_why_not():
    assert "5 source videos or more, and these are of 3" in why_not_judged(np.array([0, 0, 1, 2]))
    assert why_not_judged(np.arange(5)) == ""


# --- what one has ---


def test_nearly_the_same_captions():
    captions = pd.Series(["A dog runs on the beach.", "a dog runs on the beach", "two cats", "a dog ran on a beach"])
    assert near_captions(captions)[["one", "other"]].to_numpy().tolist() == [[0, 1]]
    assert len(near_captions(pd.Series([""]))) == 0


def test_clips_that_look_the_same():
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(2100, 64, generator=generator)
    video[2050] = 3 * video[1]
    found = near_clips(video)
    assert found[["one", "other"]].to_numpy().tolist() == [[1, 2050]] and found.cosine[0] == pytest.approx(1)


def test_words_that_the_model_does_not_know():
    captions = pd.Series(["a red star", "ein Qwxzkbjv springt", "Qwxzkbjv!", "звезда"])
    strange = strange_words(tokenizer_for("mini"), captions)
    assert strange["qwxzkbjv"] == 2 and "red" not in strange and "звезда" in strange


# --- a data set of one's own ---


def own_table(smoke_home, name, clips=None, shuffled=False):
    "Smoke's clips as somebody's own, each from its source; shuffled, with others' captions."
    rows = load_manifest(get_profile("smoke")).iloc[:clips]
    captions = rows.caption.to_list()
    if shuffled:
        captions = [captions[i] for i in np.random.default_rng(0).permutation(len(captions))]
    table = smoke_home / f"{name}.csv"
    pd.DataFrame(dict(path=rows.path, caption=captions, source=rows.youtube_id)).to_csv(table, index=False)
    return register_own(table, name)


def test_before_training_is_what_the_metrics_say(smoke_home):
    smoke = get_profile("smoke")
    asked = ask(smoke, encoder_for(smoke), progress=False)
    metrics, table = retrieval_metrics(asked.similarity), table_before(asked)
    for way, words in (("t2v", "text to video"), ("v2t", "video to text")):
        assert table.loc[(words, "R@1"), "value"] == pytest.approx(metrics[f"{way}_r1"])
        assert table.loc[(words, "R@5"), "value"] == pytest.approx(metrics[f"{way}_r5"])
    n = len(asked.rows)
    assert table.loc[("text to video", "R@1"), "chance"] == pytest.approx(100 / n)
    for of in confusions(asked).itertuples():
        assert asked.similarity[of.own, of.wrong] - asked.similarity[of.own, of.own] == pytest.approx(of.lead)
        assert of.own != of.wrong


def test_noise_is_called_noise(smoke_home):
    found = judge(own_table(smoke_home, "noise", shuffled=True), progress=False)
    assert "this may be luck" in say_before(found)
    assert recommended_way(found) is None and BETTER not in set(found.training.verdict)
    assert advice(found).startswith("Leave the model as it is")


def test_eight_clips_say_what_eight_clips_can_say(smoke_home):
    found = judge(own_table(smoke_home, "eight", clips=8), progress=False)
    assert len(found.rows) == 8 and summary(found)
    assert advice(found).startswith(("Leave the model as it is for now and caption", "Caption more films"))


def test_the_page(smoke_home):
    found = judge(get_profile("smoke"), progress=False)
    page, text = (path.read_text() for path in write_page(found))
    assert advice(found) in text and "never seen real video" not in page
    assert page.count("<img ") == page.count("data:image/jpeg;base64,") >= len(found.rows)
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:)', page)
    assert "nan" not in text and "NaN" not in page
    assert "Linear heads: a matrix on either tower&#39;s features." in page and "MRR before" in page


def test_a_model_to_take_away(smoke_home, tmp_path):
    "What is kept is what was recommended, read by `load`, `load_viclip` and `find`; with a card."
    found = judge(get_profile("smoke"), progress=False)
    kept = keep_model(found, tmp_path / "mine")
    back, plain = fm.load(tmp_path / "mine"), fm.load_viclip(tmp_path / "mine")
    for name, value in kept.model.state_dict().items():
        assert torch.equal(value, back.model.state_dict()[name]) and torch.equal(value, plain.state_dict()[name])
    card = (tmp_path / "mine" / "README.md").read_text()
    assert card.startswith("---\n") and "## Data" in card and "Licence" in card and "by chance it would be" in card
    assert find(["a star"], get_profile("smoke"), model=tmp_path / "mine", top=1, progress=False)[0][0].rank == 1


def test_what_was_trained_is_merged_into_the_towers(smoke_home, tmp_path, monkeypatch):
    "The saved model's features are those of the heads on the features of the one that came."
    found = judge(get_profile("smoke"), progress=False)
    way = training.WAYS_TO_ADAPT["linear"]
    monkeypatch.setattr("frames_matter.clips.keep.recommended_way", lambda judgement: way)
    kept = keep_model(found, tmp_path / "trained")
    adapted, setting = way(found.clips, training_seed())
    expected = adapted.similarity(found.clips)
    encoder = encoder_for(get_profile("smoke"), tmp_path / "trained")
    asked = ask(get_profile("smoke"), encoder, progress=False)
    assert np.allclose(asked.similarity, expected.numpy(), atol=1e-3)
    assert f"learning_rate {setting.learning_rate:g}" in kept.card
    assert "Of the model before it was trained, on all clips:" in kept.card
    assert "Linear heads: a matrix on either tower's features." in kept.card


def training_seed():
    from frames_matter.base.seeds import stable_seed

    return stable_seed("keep", 0) % 2**31


def test_on_the_command_line(smoke_home, capsys, tmp_path):
    assert run_command(["judge", "smoke", "--keep", str(tmp_path / "kept")]) == 0
    said = capsys.readouterr().out
    assert "clips: 18" in said and str(results_dir(get_profile("smoke")) / "judge.html") in said
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["trained_on"] == "smoke"
    assert run_command(["judge", "smoke", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["data"] == "smoke" and told["facts"]["clips"].startswith("18, ") and told["kept"] == ""
    assert all(answer in said for answer in told["answers"].values()) and Path(told["page"]).is_file()
    assert {"way", "difference", "low", "high", "verdict"} <= told["training"][0].keys() and told["frames"]
    assert run_command(["judge", "nothing-of-this-name"]) == 2
    assert "nothing-of-this-name" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_way_from_a_table_to_a_search_in_a_script(smoke_home, tmp_path):
    "README's: a table is judged, the model kept, and the script below it runs; pushed to a hub on loopback."
    rows = load_manifest(get_profile("smoke")).iloc[:8]
    pd.DataFrame(dict(path=rows.path, caption=rows.caption, source=rows.youtube_id)).to_csv(tmp_path / "my.csv")
    shutil.copy(rows.path.iloc[0], tmp_path / "new.mp4")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    script = re.findall(r"^```python\n(.*?)^```$", readme, re.M | re.S)[0]
    judging = re.search(r"^frames-matter (judge my.csv --keep my-model)", readme, re.M)[1]
    with serve_hub({}, token="hf_good") as hub:
        environment = (
            os.environ | hub.env(tmp_path / "cache") | {"FRAMES_MATTER_HOME": str(tmp_path), "HF_TOKEN": "hf_good"}
        )
        for words in (["-m", "frames_matter", *judging.split()], ["-c", script]):
            done = subprocess.run(
                [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 + 3 and "somebody/my-model/model.safetensors" in hub.files


def test_one_s_own_clips_are_warned_of(smoke_home, capsys):
    own_table(smoke_home, "warned", clips=8)
    assert run_command(["judge", "warned"]) == 0
    assert "never seen real video" in capsys.readouterr().err
    assert "never seen real video" in (results_dir(get_profile("warned")) / "judge.html").read_text()


def test_a_model_that_is_none_is_refused(smoke_home):
    with pytest.raises(UserError, match="No file at"):
        judge(get_profile("smoke"), model="no/such/model.safetensors", progress=False)


def test_a_caption_that_two_clips_carry_is_answered_by_either():
    "By hand: the best of one's own counts, its twin is no wrong answer, and a tie is half of one."
    rows = pd.DataFrame(dict(caption=["A cat", "a cat", "a dog"], youtube_id=["x", "y", "z"]))
    similarity = np.array([[0.1, 0.9, 0.5], [0.1, 0.9, 0.95], [0.2, 0.7, 0.7]])
    asked = Answers(rows, similarity)
    assert asked.ranks["t2v"].tolist() == [1, 2, 1.5]
    assert asked.ranks["v2t"].tolist() == [2, 1, 2]
    assert confusions(asked).own.to_list() == [1, 2]
