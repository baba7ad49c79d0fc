"""The study's tables, figures and sentences, from invented records whose truth is known: what is in them, what is left
out, and that no run, name or set-up breaks a report."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from frames_matter.base.errors import UserError
from frames_matter.base.files import checkout_id
from frames_matter.base.profiles import get_profile
from frames_matter.data.sources import SOURCES
from frames_matter.labs.laboratory import Laboratory
from frames_matter.labs.registry import report
from frames_matter.model.catalogue import LOSSES, Loss
from frames_matter.report.figures import (
    plot_answer,
    plot_curves,
    plot_gap,
    plot_similarity,
    save_similarity,
    study_figures,
)
from frames_matter.report.reader import load_runs
from frames_matter.report.readme import BRIEF, _in_brief, answer, report_study, write_readme
from frames_matter.report.site import Finding, put_downloads, table_on_page, write_site
from frames_matter.report.style import COLOURS, NARROW, mark_of, narrow
from frames_matter.report.survivors import read_tried, write_survivors
from frames_matter.report.tables import (
    questions_of,
    recall,
    setup_tables,
    show,
    source_videos,
    study_tables,
    table_alignment,
    table_comparisons,
    table_foils,
    table_gap,
    table_retrieval,
    table_sampling,
    table_zero_shot,
)
from frames_matter.report.writers import Figure, Table, markdown
from frames_matter.video.sampling import SAMPLERS, Strategy

STUDIED = ("uniform", "mean", "keyframes", "weighted", "dropout")
KINDS = ("appearance", "count", "direction", "early_late", "order", "speed", "transient")
TABLES = ["zero_shot", "alignment", "sampling", "gap", "foils", "retrieval", "comparisons"]
SETUP = dict(profile="mini", weights="nano", data="d1", weights_sha="w1", k=8, batch_size=4)


# --- invented records ---


def invented(seeds=(0, 1, 2), strategies=STUDIED, losses=("infonce", "hnac")):
    "Records as a run writes them, with made-up numbers: keyframes find less than others, and tables must show it."
    cells = [("zero_shot", "viclip", "infonce", "uniform", 0, (0,))]
    heads = ("viclip", "cross_attention")
    cells += [("first_improvement", head, loss, "uniform", 20, seeds) for head in heads for loss in losses]
    cells += [("second_improvement", "fusion", loss, s, 10, seeds) for s in strategies for loss in losses]
    return [
        invent(*cell, protocol, seed, epochs)
        for *cell, epochs, own_seeds in cells
        for protocol in ("published", "sound")
        for seed in own_seeds
    ]


def invent(phase, architecture, loss, sampling, protocol, seed, epochs, **more):
    "One record."
    rng = np.random.default_rng([seed, len(architecture), len(loss), len(sampling), len(protocol)])
    level = 0.9 if protocol == "sound" else 0.005 if architecture == "fusion" else 0.3

    def curve(top):
        noise = 0.2 * rng.standard_normal(epochs)
        return [round(float(x), 4) for x in level * np.exp(-np.arange(epochs) / 6 + top + noise)]

    curves = dict(train_loss=curve(0), validation_loss=curve(0.4))
    metrics = dict(
        alignment_loss=curves["validation_loss"][-1] if epochs else level,
        cosine_gap_hardest=0.1 + 0.02 * rng.standard_normal(),
        cosine_gap_mean=0.3 + 0.02 * rng.standard_normal(),
    )
    if protocol == "published" and epochs:
        validation = curves["validation_loss"]
        metrics |= dict(alignment_loss_last=validation[-1], alignment_loss_best=min(validation))
    n = 240 if protocol == "sound" else 5
    if protocol == "sound":
        metrics |= retrieval(rng, n, hard=30 if sampling == "keyframes" else 12)
    spec = dict(phase=phase, architecture=architecture, loss=loss, sampling=sampling, protocol=protocol)
    spec |= SETUP | dict(seed=seed, epochs=epochs) | more
    about = dict(run_by="test", n_queries=n, n_clips=n, seconds=1.0, finished="2026-01-01T00:00:00+00:00")
    return dict(spec=spec, spec_hash=json.dumps(spec), curves=curves, metrics=metrics) | about


def retrieval(rng, n, hard):
    "What the sound protocol measures."
    ranks = np.random.default_rng(7).exponential(1, n) * hard / 4 + rng.exponential(0.4, n)
    ranks = np.clip(ranks, 1, n).round()
    found = {f"r{k}": 100 * float((ranks <= k).mean()) for k in (1, 5, 10)}
    found |= dict(mdr=float(np.median(ranks)), mnr=float(ranks.mean()))
    metrics = {f"{way}_{name}": value for way in ("t2v", "v2t") for name, value in found.items()}
    metrics |= dict(rsum=2 * (found["r1"] + found["r5"] + found["r10"]), evaluation_split="pool", test_reads=1)
    metrics |= dict(ranks_t2v=ranks.tolist(), ranks_v2t=ranks.tolist(), t2v_ndcg=90.0, v2t_ndcg=89.0)
    metrics |= dict(t2v_r1_dual_softmax=found["r1"] + 1)
    return metrics | {f"foil_{kind}": float(rng.uniform(50, 100)) for kind in KINDS}


def altered(record, metrics=None, **spec):
    "A copy of a record with another specification, finished later."
    record = copy.deepcopy(record)
    record["spec"] |= spec
    record["metrics"] |= metrics or {}
    record["spec_hash"] = json.dumps(record["spec"])
    record["finished"] = "2026-05-05T00:00:00+00:00"
    return record


README = "# Title\n" + "".join(
    f"<!-- BEGIN {name}:mini -->\n<!-- END {name}:mini -->\nkept\n" for name in ("answer", "tables")
)


class Home:
    "A home of its own, with a README that has places, and a store of mini."

    def __init__(self, folder):
        self.folder, self.readme = folder, folder / "README.md"
        self.results = folder / "results" / "mini"
        self.store = self.results / "runs.jsonl"
        self.results.mkdir(parents=True)
        self.readme.write_text(README)

    def keep(self, records, ending="\n"):
        "Make these the records; returns the runs of the record's set-up."
        self.store.write_text("\n".join(json.dumps(record) for record in records) + ending)
        return load_runs("mini")

    def files(self):
        "Every file but the store, with what is in it."
        found = (p for p in self.folder.rglob("*") if p.is_file() and p != self.store)
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in found}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    return Home(tmp_path.resolve())


@pytest.fixture
def runs(home):
    return home.keep(invented())


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    "A figure's file holds the values that it shows: a picture takes a second, and the style has a test of its own."

    def values_of(figure, path, **_):
        shown = [(ax.get_title("left"), [line.get_xydata().tolist() for line in ax.lines]) for ax in figure.axes]
        Path(path).write_text(json.dumps(shown), encoding="utf-8")

    monkeypatch.setattr(MatplotlibFigure, "savefig", values_of)


def table_names(tables):
    return [table.name for table in tables]


def level(table, name):
    return set(table.index.get_level_values(name))


def texts(figure):
    "Every label, title and legend of a figure."
    figure.canvas.draw()
    labels = [t.get_text() for ax in figure.axes for t in [ax.yaxis.label, *ax.get_yticklabels()]]
    titles = [ax.get_title(where) for ax in figure.axes for where in ("left", "center")]
    return labels + titles + [t.get_text() for legend in figure.legends for t in legend.get_texts()]


# --- what is read ---


def test_no_runs_are_an_error_that_says_what_to_do(home):
    with pytest.raises(UserError, match="No finished runs of profile 'mini'.*frames-matter reproduce --profile mini"):
        load_runs("mini")
    with pytest.raises(UserError, match="No finished runs"):
        report_study("mini")
    assert home.readme.read_text() == README


def test_neither_another_setup_nor_an_older_run_nor_a_torn_line_is_read(home):
    made = invented()
    older = altered(made[-1], metrics=dict(t2v_r1=99.0)) | dict(finished="2025-01-01T00:00:00+00:00")
    foreign = altered(older, data="another manifest")
    runs = home.keep([foreign, older, *made], ending='\n{"spec": {"torn')
    assert len(runs) == len(made) and (runs.t2v_r1 != 99).all()


# --- tables ---


def test_alignment_has_what_was_published_and_what_was_run(runs):
    table = table_alignment(runs)
    assert table.published.tolist() == [0.1134, 0.0835, 0.0522, 0.0412]
    chosen = dict(phase="first_improvement", loss="hnac", architecture="viclip", protocol="sound")
    cell = runs[(runs[list(chosen)] == pd.Series(chosen)).all(axis=1)]
    row = table.loc[("H-NAC", "dual encoder")]
    assert len(cell) == 3 and np.isclose(row["t2v R@1 (sound) mean"], cell.t2v_r1.mean())
    assert row["t2v R@1 (sound) low"] < cell.t2v_r1.mean() < row["t2v R@1 (sound) high"]
    assert np.isclose(row["loss (sound protocol) sd"], cell.alignment_loss.std())
    assert recall(cell) == tuple(row[[f"t2v R@1 (sound) {of}" for of in ("mean", "low", "high")]])


def test_sampling_is_two_by_five_and_whatever_else_was_run(home, runs):
    assert len(table_sampling(runs)) == 10 and table_sampling(runs).notna().all(axis=None)
    more = home.keep(invented(strategies=(*STUDIED, "dropout_described")))
    table = table_sampling(more)
    assert len(table) == 12 and table.published.isna().sum() == 2  # dropout as described was never published
    assert list(table.loc["H-NAC"].index) == [*STUDIED, "dropout_described"]
    assert len(table_retrieval(more)) == len(table_foils(more)) == 1 + 4 + 12


def test_one_seed_has_no_spread(home):
    one = home.keep(invented(seeds=(0,)))
    assert "±" not in show(table_alignment(one)).to_string()
    assert "±" in show(table_alignment(home.keep(invented()))).to_string()


def test_gap_and_zero_shot_stand_beside_what_was_published(runs):
    gap = table_gap(runs)
    assert gap.published.tolist() == [0.1854, 0.1854, 0.2036, 0.2036] and gap.notna().all(axis=None)
    zero = table_zero_shot(runs)
    assert zero.published.dropna().tolist() == [0.1719]
    sound = runs[(runs.phase == "zero_shot") & (runs.protocol == "sound")].iloc[0]
    assert np.isclose(zero.loc["t2v R@5", "ours (sound) mean"], sound.t2v_r5)
    assert zero.loc["v2t MnR", "ours (sound) mean"] == sound.v2t_mnr and zero.loc["rsum"].notna().any()


def test_keyframes_are_worse_as_invented(runs):
    found = table_comparisons(runs)
    assert found.loc["keyframes against uniform frames", "verdict"] == "worse"
    heads = [f"{head} against dual encoder" for head in ("cross-attention", "fusion")]
    strategies = [f"{strategy} against uniform frames" for strategy in STUDIED[1:]]
    asked = ["fine-tuning against zero-shot", "H-NAC against InfoNCE", *heads, *strategies]
    assert list(found.index) == list(questions_of(runs)) == asked


def test_source_videos_are_told_by_the_manifest_of_the_runs_own_profile(home, runs):
    for profile, videos in {"mini": 120, "smoke": 4}.items():
        folder = home.folder / "data_manifest" / profile
        folder.mkdir(parents=True)
        clips = pd.DataFrame({"youtube_id": np.arange(240) % videos}).assign(status="kept", split="pool")
        clips.to_csv(folder / "clips.csv", index=False)
    sound = runs[runs.protocol == "sound"]
    elsewhere = sound.assign(profile="smoke")
    assert len(np.unique(source_videos(sound))) == 120 and len(np.unique(source_videos(elsewhere))) == 4
    assert table_comparisons(sound).low.drop("dropout against uniform frames").notna().all()  # whose ranks are equal
    assert table_comparisons(elsewhere).low.isna().all()  # of four videos nothing can be told
    assert "fewer than 5 source videos" in answer(elsewhere)


def test_strategies_are_compared_under_losses_that_both_had(home, runs):
    before = table_comparisons(runs)
    cell = ("second_improvement", "fusion", "margin", "uniform", "sound")
    perfect = dict(ranks_t2v=[1.0] * 240, t2v_r1=100.0)
    more = home.keep([*invented(), *(altered(invent(*cell, seed, 10), perfect) for seed in range(3))])
    assert len(more) == len(runs) + 3
    pd.testing.assert_frame_equal(table_comparisons(more), before)  # nothing was run with margin to compare it with


def test_tables_come_in_their_order_with_what_must_be_said(runs):
    tables = study_tables(runs)
    assert table_names(tables) == TABLES and all(table.in_readme for table in tables)
    notes = {table.name: table.notes for table in tables}
    assert "3 seeds, 240 queries (chance: R@1 0.4 %, R@5 2.1 %, R@10 4.2 %)" in notes["alignment"]
    assert "3 seeds, 5 queries in batches of 4" in notes["alignment"] and "chance 50 %" in notes["foils"]
    assert markdown(show(table_alignment(runs))) == tables[1].markdown
    assert tables[1].markdown.startswith("| loss | model | published |")


def test_of_one_s_own_clips_nothing_of_the_study_is_said(runs, monkeypatch):
    "No column of what it printed, and no row of which only that is known."
    monkeypatch.setattr(SOURCES["world"], "is_beside_study", False)
    tables = study_tables(runs[runs.loss == "infonce"])
    assert len(tables) >= 5
    for table in tables:
        assert "published" not in table.numbers and "published" not in table.text
        assert list(table.text.index) == list(table.numbers.index) and table.numbers.notna().any(axis=1).all()


def test_the_committed_tables_are_those_of_the_committed_record(root, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(root))
    tables = study_tables("mini")
    assert table_names(tables) == TABLES and not [table for table in setup_tables("mini") if table.in_readme]
    paths = (root / "README.md", root / "results" / "mini" / "README.md", root / "nbs" / "results" / "study.qmd")
    readme, page, on_site = (path.read_text(encoding="utf-8") for path in paths)
    for table in tables:
        committed = (root / "results" / "mini" / "tables" / f"{table.name}.csv").read_text(encoding="utf-8")
        assert committed == table.numbers.round(6).to_csv(lineterminator="\n"), table.name
        assert table.section in page and table_on_page(table) in on_site, table.name
    for name in BRIEF:
        (table,) = [table for table in tables if table.name == name]
        assert replace(table, text=_in_brief(table)).section in readme, name


# --- figures ---


def test_figures_are_drawn_from_the_runs(runs):
    drawn = {figure.name: figure.draw() for figure in study_figures(runs, "mini")}
    names = ["answer", "contact_sheet", "curves_first_improvement", "curves_second_improvement", "similarity", "gap"]
    assert list(drawn) == names
    assert [name for name in names if drawn[name] is None] == ["contact_sheet", "similarity"]  # no clips, no cosines
    assert {"InfoNCE", "H-NAC", *STUDIED} <= set(texts(drawn["answer"]))
    assert {"dual encoder", "cross-attention"} <= set(texts(drawn["curves_first_improvement"]))
    assert "H-NAC, cross-attention" in texts(drawn["gap"])


def test_curves_on_a_telephone_are_the_same_with_a_column_a_loss(runs):
    def curves(figure):
        return sorted(tuple(line.get_ydata()) for ax in figure.axes for line in ax.lines)

    on_a_page = plot_curves(runs, "second_improvement")
    with narrow():
        figure = plot_curves(runs, "second_improvement")
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert {ax.get_title("left") for ax in shown} == {"InfoNCE loss", "H-NAC loss", ""}
    labels = [ax.get_ylabel() for ax in shown if ax.get_ylabel()]
    assert labels == [f"{protocol} protocol\n{name}" for protocol in ("published", "sound") for name in STUDIED]
    assert figure.get_size_inches()[0] == NARROW and curves(figure) == curves(on_a_page)


def test_every_run_is_a_dot(runs):
    left, right = plot_answer(runs).axes
    for ax, protocol in ((left, "published"), (right, "sound")):
        second = runs[(runs.phase == "second_improvement") & (runs.protocol == protocol)]
        marks = {mark_of(COLOURS[name]) for name in ("blue", "orange")}
        dots = [x for line in ax.lines if line.get_marker() in marks for x in line.get_xdata()]
        metric = "alignment_loss" if protocol == "published" else "t2v_r1"
        assert sorted(dots) == sorted(second[metric]) and len(dots) == 30


def test_similarity_is_kept_and_shown(home, runs):
    assert save_similarity("mini", np.eye(3)).stat().st_size > 0
    figure = {f.name: f for f in study_figures(runs, "mini")}["similarity"]
    assert figure.draw() is not None
    assert plot_similarity(np.eye(1)) is not None  # a single pair is a picture too
    rng = np.random.default_rng(0)
    drawn = plot_similarity(0.3 * np.eye(80) + 0.1 * rng.standard_normal((80, 80)), "whose")
    assert drawn.axes[0].get_title("left") == "whose" and "the first 60 of 80" in drawn.axes[0].get_xlabel()


# --- in words, and README ---


def test_the_answer_follows_the_numbers(runs):
    said = answer(runs)
    assert re.search(r"worse: .*keyframes \(-", said) and "does matter" in said and said.count("\n\n") == 2
    assert "viclip-nano at home, on 240 clips" in said and "points would have been seen" in said
    assert "And under shift." in answer(runs, ["And under shift."]).split("\n\n")[1]
    unvaried = runs[(runs.phase != "second_improvement") | (runs.sampling == "uniform")]
    assert "cannot be told" in answer(unvaried)


def test_twice_is_once(home, runs, capsys):
    report_study("mini")
    first = home.files()
    assert capsys.readouterr().out == f"{len(runs)} runs; tables and figures are in results/mini, and in README.md.\n"
    report_study("mini")
    assert home.files() == first
    readme = home.readme.read_text()
    assert readme.count("kept") == 2 and "| InfoNCE | dual encoder | 0.1134 |" in readme
    titles = re.findall(r"^### (.*)", readme, re.M)
    assert len(titles) == 3 and titles[0].startswith("What can be told apart") and "H-NAC | mean" not in readme
    page = (home.results / "README.md").read_text()
    assert len(re.findall(r"^### ", page, re.M)) == len(TABLES) and "### Zero-shot" in page
    tables = {f"results/mini/tables/{name}.{kind}" for name in TABLES for kind in ("csv", "md")}
    figures = ("answer", "curves_first_improvement", "curves_second_improvement", "gap")
    pages = {"README.md", "results/mini/README.md"}
    assert set(first) == {*pages, *tables, *(f"results/mini/figures/{name}.png" for name in figures)}


def test_a_readme_without_its_markers_is_not_guessed_at(home, runs):
    broken = README.replace("<!-- END tables:mini -->", "")
    home.readme.write_text(broken)
    with pytest.raises(UserError, match="must hold <!-- BEGIN tables:mini --> and after it <!-- END tables:mini -->"):
        report_study("mini")
    assert home.readme.read_text() == broken


def test_a_profile_without_a_place_is_reported_all_the_same(home, runs, capsys):
    home.readme.write_text("# Another project\n")
    report_study("mini")
    assert home.readme.read_text() == "# Another project\n"
    home.readme.unlink()
    report_study("mini")
    said, page = capsys.readouterr().out, home.folder / "results" / "mini" / "README.md"
    assert "frames are taken" in said and "and in results/mini/README.md" in said
    shown = page.read_text()
    assert shown.startswith("# mini\n\n**Which frames are taken") and "## Zero-shot" in shown
    for picture in re.findall(r"\]\((.*?png)\)", shown):
        assert (page.parent / picture).is_file()
    with pytest.raises(UserError, match="No README.md"):
        write_readme("mini", "", "")


def test_a_profile_that_serves_another_has_no_report(home):
    with pytest.raises(UserError, match="'mini1000' serves the laboratories of 'mini'"):
        report_study("mini1000")


def test_no_laboratory_writes_over_the_tables_of_another_profile(home, monkeypatch):
    monkeypatch.setattr(Laboratory, "write", lambda self, profile: pytest.fail(f"{self.name} was written"))
    with pytest.raises(UserError, match="'mini1000' serves the laboratories of 'mini'"):
        report("mini1000")


def test_what_laboratories_hand_over_comes_after_the_studys(home, runs):
    numbers = pd.DataFrame({"x": [1.0]}, pd.Index(["row"], name="of"))
    shown, hidden = (
        Table(name, f"A table, {name}", numbers, numbers.astype(str), "Notes.", in_readme=name == "shown")
        for name in ("shown", "hidden")
    )
    never_drawn = Figure("never_drawn", "Never drawn.", lambda: None)
    drawn = Figure("gap", "As if of a laboratory.", lambda: None)  # its file is the study's
    report_study("mini", [shown, hidden], [never_drawn, drawn])
    page, readme = (home.results / "README.md").read_text(), home.readme.read_text()
    assert page.index("### What can be told apart") < page.index("### A table, shown")
    assert page.index("### A table, shown") < page.index("Cosine gap of every run")
    assert page.index("Cosine gap of every run") < page.index("As if of a laboratory.")
    assert "A table, hidden" not in page and "Never drawn" not in page and "A table, shown" not in readme


# --- the site ---

HOME_PAGE = "Before.\n\n<!-- BEGIN answer:mini -->\n<!-- END answer:mini -->\n\nAfter.\n"


@pytest.fixture
def site(home):
    "The folder of the pages of results, in a home that has a site."
    (home.folder / "nbs").mkdir()
    (home.folder / "nbs" / "index.qmd").write_text(HOME_PAGE)
    return home.folder / "nbs" / "results"


def found(name, runs):
    "What a laboratory may hand over."
    numbers = pd.DataFrame({"x": [1.0, 2.0]}, pd.MultiIndex.from_product([["of"], ["a", "b"]], names=["of", "row"]))
    table = Table(f"{name}_table", "A table", numbers, numbers.astype(str), "It can be told. Notes.")
    figure = Figure(name, "A figure.", lambda: plot_gap(runs))
    return Finding(name, f"What of {name}?", "In short, yes.", "It can be told.", [table], [figure])


def missing(page):
    "Links and pictures of a page among the results that lead nowhere, but for pages that others write."
    targets = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    return {t for t in targets if not t.startswith("http") and not (page.parent / t).exists()}


def test_the_pages_are_written_once(home, site, runs):
    findings = [found("warmth", runs), Finding("seeds", "What with more seeds?")]
    pages = write_site("mini", findings)
    names = {"study", "downloads", "index", "warmth", "seeds"}
    assert {page.stem for page in pages} == names and all(page.is_file() for page in pages)
    first = home.files()
    assert write_site("mini", findings) == pages and home.files() == first
    on_home = (home.folder / "nbs" / "index.qmd").read_text()
    assert on_home.startswith("Before.") and on_home.endswith("After.\n") and "does matter" in on_home
    assert re.findall(r"\]\((\S+?)\)", on_home) == [f"results/figures/answer{of}.svg" for of in ("", "-narrow")]
    assert (
        "the study's own" in (site / "seeds.qmd").read_text()
        and "[What of warmth?](warmth.qmd)" in (site / "index.qmd").read_text()
    )


def test_a_laboratory_s_page_has_question_answer_figure_table_and_how_to_run_it(home, site, runs):
    write_site("mini", [found("warmth", runs)])
    page = (site / "warmth.qmd").read_text()
    order = ["What of warmth?", "It can be told.", "figures/warmth.svg", "## A table", "## How to run it again"]
    places = [page.index(words) for words in order]
    assert places == sorted(places) and page.count("It can be told.") == 1
    assert page.count("| of | ") == 3, "a head and two rows: nothing is left blank, as rows are sorted"
    assert page.count('fig-alt="A figure."') == 2 and 'fm.LABORATORIES["warmth"].run("mini")' in page


def test_what_pages_link_to_is_there_once_downloads_are_put(home, site, runs):
    report_study("mini")  # which writes the tables
    write_site("mini", [])
    copies = put_downloads("mini", site)
    assert {path.name for path in copies} == {"runs.jsonl", *(f"{name}.csv" for name in TABLES)}
    assert copies[0].read_bytes() == home.store.read_bytes()
    others = {"../labs/carries_over.ipynb", "../metrics/stats.ipynb", "../howto/read_runs.ipynb", "judge.qmd"}
    assert set().union(*(missing(page) for page in site.glob("*.qmd"))) == others


def test_what_is_no_more_goes_and_what_is_written_by_hand_stays(home, site, runs):
    write_site("mini", [found("warmth", runs)])
    (site / "judge.qmd").write_text("by hand")
    write_site("mini", [])
    assert (site / "judge.qmd").is_file() and not (site / "warmth.qmd").exists()
    assert not list((site / "figures").glob("warmth*")) and (site / "figures" / "gap-narrow.svg").is_file()


def test_in_short_it_stands_on_the_page_of_a_laboratory_and_in_the_list_of_all(home, site, runs):
    write_site("mini", [found("warmth", runs)])
    assert "\n\n**In short, yes.**\n\n::: {.answer}" in (site / "warmth.qmd").read_text()
    assert "- [What of warmth?](warmth.qmd) In short, yes.\n" in (site / "index.qmd").read_text()


def test_every_picture_of_the_benchmarks_is_on_their_page(home, site, runs):
    bench = home.folder / "results" / "bench"
    bench.mkdir(parents=True)
    pictures = "![Ratios](times.svg)\n\n| stage |\n| --- |\n| one |\n\nHow.\n\n![Seconds](growth.svg)\n"
    (bench / "README.md").write_text(f"# Benchmarks\n\nWhat.\n\n{pictures}")
    for name in ("times", "times-narrow", "growth", "growth-narrow"):
        (bench / f"{name}.svg").write_text("<svg/>")
    for _ in range(2):
        write_site("mini", [])
        page = (site / "benchmarks.qmd").read_text()
        assert "![Ratios.](figures/bench-times.svg)" in page and "![Seconds.](figures/bench-growth.svg)" in page
        assert "::: {.on-a-telephone}\n![Ratios.](figures/bench-times-narrow.svg)" in page
        assert not missing(site / "benchmarks.qmd") and page.index("| one |") < page.index("## How each")


def test_without_a_place_nothing_is_written(home, runs):
    assert write_site("mini", []) == []
    (home.folder / "nbs").mkdir()
    (home.folder / "nbs" / "index.qmd").write_text("Another site.\n")
    assert write_site("mini", []) == [] and not (home.folder / "nbs" / "results").exists()


def test_a_home_page_with_one_marker_is_not_guessed_at(home, site, runs):
    (home.folder / "nbs" / "index.qmd").write_text(HOME_PAGE.replace("<!-- END answer:mini -->", ""))
    with pytest.raises(UserError, match="nbs/index.qmd must hold <!-- BEGIN answer:mini --> and after it"):
        write_site("mini", [])


# --- names that are new, or that nobody knows ---


@pytest.fixture
def registered(monkeypatch):
    "A strategy and a loss that are registered for the time of a test."
    for registry in (SAMPLERS, LOSSES):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    SAMPLERS.register(Strategy("last8", "the last eight", indices=lambda n, k, rng: range(max(0, n - k), n), grid=True))
    LOSSES.register(Loss("triplet", "triplet loss", "frames_matter.model.losses:margin_from_similarity", grid=True))


def added(loss, strategy):
    "Records with a loss and a strategy beside those of the study."
    return invented(strategies=(*STUDIED, strategy), losses=("infonce", "hnac", loss))


@pytest.mark.parametrize("loss, title, strategy", [("triplet", "triplet loss", "last8")])
def test_what_is_registered_is_shown_by_itself(home, registered, loss, title, strategy):
    assert_shown(home, loss, title, strategy)
    table = table_sampling(home.keep(added(loss, strategy)))
    assert list(table.loc["InfoNCE"].index) == [*STUDIED, strategy]  # after the study's, before other registered ones


@pytest.mark.parametrize("loss, title, strategy", [("of_a_stranger", "of_a_stranger", "by_nobody")])
def test_what_is_not_registered_stands_for_itself(home, loss, title, strategy):
    assert loss not in LOSSES and strategy not in SAMPLERS
    assert_shown(home, loss, title, strategy)


def test_a_loss_outside_the_grid_is_shown(home):
    "A run with `replace(spec, loss='margin')`, from which on the report used to end in a KeyError."
    cell = ("first_improvement", "viclip", "margin", "uniform", "sound", 0, 20)
    home.keep([*invented(), invent(*cell)])
    report_study("mini")
    table = table_alignment("mini")
    assert list(table.index)[-1] == ("margin", "dual encoder") and len(table) == 5
    assert pd.isna(table.published.iloc[-1]) and table["t2v R@1 (sound) mean"].notna().all()


def assert_shown(home, loss, title, strategy):
    "Rows, panels and questions of a loss and a strategy."
    runs = home.keep(added(loss, strategy))
    in_words = strategy.replace("_", " ")
    for table in (table_alignment(runs), table_gap(runs)):
        assert {(title, "dual encoder"), (title, "cross-attention")} <= set(table.index)
    assert {(title, strategy), ("InfoNCE", strategy)} <= set(table_sampling(runs).index)
    for table in (table_retrieval(runs), table_foils(runs)):
        assert title in level(table, "loss") and strategy in level(table, "frames")
    asked = set(table_comparisons(runs).index)
    assert {f"{title} against InfoNCE", f"{strategy} against uniform frames"} <= asked
    assert title in texts(plot_answer(runs)) and in_words in texts(plot_answer(runs))
    assert in_words in texts(plot_curves(runs, "second_improvement"))
    assert any(title in text for text in texts(plot_curves(runs))) and f"{title}, dual encoder" in texts(plot_gap(runs))
    report_study("mini")
    page = (home.results / "README.md").read_text()
    assert f"| {title} | " in page and f" {strategy} |" in page and f" {strategy} |" in home.readme.read_text()


def test_an_unknown_head_has_its_rows(home):
    made = invented()
    heads = [altered(r, architecture="perceiver") for r in made if r["spec"]["architecture"] == "cross_attention"]
    runs = home.keep([*made, *heads])
    assert ("InfoNCE", "perceiver") in table_alignment(runs).index
    assert "perceiver against dual encoder" in table_comparisons(runs).index
    report_study("mini")
    assert "perceiver" in home.readme.read_text()


# --- other set-ups ---


def few():
    "Records of three strategies: figures of fewer panels, as these tests draw many."
    return invented(strategies=("uniform", "mean", "keyframes"))


def lone_run_elsewhere():
    "Lesson 2 on another machine, whose clips came out otherwise."
    return [altered(record, data="d2") for record in few() if record["spec"]["phase"] == "zero_shot"][-1:]


def with_four_frames():
    "The whole of the first improvement with k=4."
    return [altered(record, k=4) for record in few() if record["spec"]["phase"] == "first_improvement"]


def with_other_epochs():
    "Two runs of a phase that were trained for longer."
    return [altered(record, epochs=40) for record in few()[2:4]]


@pytest.mark.parametrize(
    "others, differs",
    [
        (lone_run_elsewhere, "data d2 (record: d1)"),
        (with_four_frames, "k 4 (record: 8)"),
        (with_other_epochs, "epochs 40 (record: 20)"),
    ],
)
def test_another_setup_leaves_the_record_alone_and_has_a_table(home, others, differs, capsys):
    home.keep(few())
    report_study("mini")
    before = home.files()
    home.keep([*few(), *others()])
    report_study("mini")
    after = home.files()
    new = sorted(set(after) - set(before))
    assert {name for name in before if before[name] != after[name]} == {"results/mini/README.md"}
    assert len(new) == 2 and all(re.fullmatch(r"results/mini/tables/setup_[0-9a-f]{8}\.(csv|md)", n) for n in new)
    said = after[new[1]].decode()
    assert said.startswith(f"# Another set-up: {differs}\n") and "| dual encoder |" in said
    assert (
        f"Another set-up: {differs}: runs that are in no table of the record; see {new[1]}." in capsys.readouterr().out
    )
    page, link = after["results/mini/README.md"].decode(), new[1].removeprefix("results/mini/")
    assert f"Runs of another set-up have a table of their own: [{differs}]({link})." in page
    home.keep(few())  # they are gone: so is their table
    report_study("mini")
    assert home.files() == before


def test_each_other_setup_has_a_table_of_its_own(home):
    home.keep([*few(), *lone_run_elsewhere(), *with_four_frames()])
    tables = setup_tables("mini")
    assert len(tables) == 2 and len(set(table_names(tables))) == 2
    assert {table.title.partition(": ")[2] for table in tables} == {"k 4 (record: 8)", "data d2 (record: d1)"}
    assert [len(table.numbers) for table in tables] == [4, 1] and all(table.in_readme for table in tables)


# --- the study done again elsewhere ---


def elsewhere(records, **spec):
    "The same runs by another checkout, later, with other numbers."
    again = [altered(record, metrics=dict(alignment_loss=9.0), **spec) for record in records]
    return [record | dict(run_by="elsewhere") for record in again]


def seeds_of(records, *seeds):
    return [record for record in records if record["spec"]["seed"] in seeds]


AGAIN = {
    "fewer seeds": lambda: elsewhere(seeds_of(few(), 0, 1)),
    "as many cells": lambda: elsewhere(few()),
    "fewer seeds on other clips": lambda: elsewhere(seeds_of(few(), 0, 1), data="d2"),
    "as many cells on other clips": lambda: elsewhere(few(), data="d2"),
}


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN)
def test_the_study_done_again_elsewhere_changes_no_table(home, again):
    home.keep(few())
    report_study("mini")
    before = home.files()
    home.keep([*again(), *few()])
    report_study("mini")
    after = home.files()
    assert {name: after[name] for name in before} == before
    report_study("mini")
    assert home.files() == after
    assert all("tables/setup_" in name for name in set(after) - set(before))


def test_fewer_seeds_of_ones_own_leave_the_committed_tables(home, root):
    "Three seeds beside the record's five."
    runs = root / "results" / "mini" / "runs.jsonl"
    committed = [json.loads(line) for line in runs.read_text(encoding="utf-8").splitlines()]
    of_study = [record for record in committed if record["spec"]["phase"] in ("zero_shot", "first_improvement")]
    home.keep(of_study)
    report_study("mini")
    before = home.files()
    home.keep([*of_study, *elsewhere(seeds_of(of_study, 0, 1, 2))])
    report_study("mini")
    assert home.files() == before


@pytest.mark.parametrize("spec", [{}, dict(data="d2")])
def test_the_fuller_record_fills_the_tables(home, spec):
    fuller = elsewhere(few() + seeds_of(invented(seeds=(3,), strategies=("uniform",)), 3), **spec)
    runs = home.keep([*few(), *fuller])
    assert set(runs.run_by) == {"elsewhere"} and len(runs) == len(fuller)


def test_a_cell_that_the_record_has_not_is_added(home):
    seed_3 = seeds_of(invented(seeds=(3,), strategies=("uniform",)), 3)
    runs = home.keep([*few(), *elsewhere([*seeds_of(few(), 0), *seed_3])])
    assert set(runs[runs.run_by == "elsewhere"].seed) == {3} and len(runs) == len(few()) + len(seed_3)


def test_whoever_made_the_record_and_does_it_again_gets_the_new(home):
    runs = home.keep([*few(), *(altered(record, metrics=dict(alignment_loss=9.0), data="d2") for record in few())])
    assert set(runs.data) == {"d2"}


def test_cosines_of_the_record_stay(home, runs):
    "The heat map is of the run that the tables show."
    save_similarity("mini", np.eye(3))
    assert np.load(save_similarity("mini", np.zeros((3, 3)))).sum() == 3  # the runs were done elsewhere
    home.keep([record | dict(run_by=checkout_id()) for record in invented()])
    assert np.load(save_similarity("mini", np.zeros((3, 3)))).sum() == 0


# --- any subset of runs ---


def of(**wanted):
    return lambda record: all(record["spec"][name] == value for name, value in wanted.items())


SUBSETS = {
    "only zero-shot": of(phase="zero_shot"),
    "only published": of(protocol="published"),
    "only sound": of(protocol="sound"),
    "only the first improvement": of(phase="first_improvement"),
    "only the second improvement": of(phase="second_improvement"),
    "one strategy": of(phase="second_improvement", sampling="keyframes", loss="hnac"),
    "one published run": of(phase="zero_shot", protocol="published"),
    "one sound run": of(phase="zero_shot", protocol="sound"),
    "one trained run": of(phase="second_improvement", protocol="sound", sampling="mean", loss="hnac", seed=1),
    "one head": of(phase="first_improvement", architecture="cross_attention", loss="infonce", protocol="published"),
}


@pytest.mark.parametrize("chosen", SUBSETS.values(), ids=SUBSETS)
def test_any_runs_give_a_report(home, chosen):
    runs = home.keep([record for record in few() if chosen(record)])
    report_study("mini")
    first = home.files()
    report_study("mini")
    assert home.files() == first and home.readme.read_text().count("kept") == 2
    names = table_names(study_tables(runs))
    assert names == [name for name in TABLES if name in names] and names[:2] == ["zero_shot", "alignment"]
    if "sound" not in set(runs.protocol):
        assert names == ["zero_shot", "alignment", "sampling", "gap"]  # no rows, no table
        assert "no runs" in home.readme.read_text()


def test_clips_without_known_facts_have_no_table_of_foils(home):
    made = few()
    for record in made:
        record["metrics"] = {
            n: v for n, v in record["metrics"].items() if not n.startswith("foil_") and "ndcg" not in n
        }
    runs = home.keep(made)
    assert table_names(study_tables(runs)) == [name for name in TABLES if name != "foils"]
    report_study("mini")
    assert table_retrieval(runs)["t2v nDCG@10"].isna().all()


def test_runs_that_kept_no_ranks_have_no_interval(home):
    made = few()
    for record in made:
        record["metrics"] = {name: v for name, v in record["metrics"].items() if not name.startswith("ranks_")}
    runs = home.keep(made)
    row = table_alignment(runs).loc[("H-NAC", "dual encoder")]
    assert row["t2v R@1 (sound) mean"] > 0 and pd.isna(row["t2v R@1 (sound) low"])
    assert "comparisons" not in table_names(study_tables(runs))
    report_study("mini")


# --- who survives ---


@pytest.fixture
def manifest(home):
    "Writes a clips.csv of a profile."

    def write(name):
        kept = ["kept", "kept", "rejected", "rejected", "rejected"]
        reasons = [
            "",
            "",
            "not fetched: gone (row 3)",
            "not fetched: gone (row 4)",
            "2.9 s of video where 4.0 s were asked for",
        ]
        columns = dict(
            status=kept, reason=reasons, start=[0.0] * 5, end=[4, 6, 8, 10, 4.0], aesthetic_score=[5, 4, 5, 4, 5]
        )
        folder = home.folder / "data_manifest" / name
        folder.mkdir(parents=True)
        names = dict(clip_id=list("abcde"), youtube_id=list("vvwwx"), split=["train", "test", "", "", ""])
        pd.DataFrame(names | columns | dict(caption=["a b c"] * 5)).to_csv(folder / "clips.csv", index=False)
        return get_profile(name)

    return write


def test_survivors_are_set_beside_all_rows(home, manifest):
    profile = manifest("mini")
    paths = write_survivors(profile)
    assert [path.name for path in paths] == ["dataset.csv", "dataset.md", "dataset.png"]
    first = home.files()
    assert write_survivors(profile) == paths and home.files() == first
    text = paths[1].read_text()
    assert "2 clips were kept of 5 rows tried: not fetched: gone 2, shorter than asked for 1." in text
    assert pd.read_csv(paths[0], index_col=0).loc["duration (s)", "mean of kept"] == 5.0


def test_profiles_that_share_a_folder_have_a_table_each(manifest):
    assert write_survivors(manifest("mini1000"))[0].name == "dataset_mini1000.csv"


def test_no_manifest_is_an_error_that_says_what_to_do(home):
    with pytest.raises(UserError, match="clips.csv; build it with `frames-matter dataset build -p mini`"):
        read_tried(get_profile("mini"))
