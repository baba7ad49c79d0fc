"What `frames-matter reproduce` says of its runs beside the record: from invented records and tampered copies of them."

import copy
import json

import pytest
from test_report import Home, altered, few, invent, seeds_of
from test_reproduce import notebook

from frames_matter.base.files import checkout_id
from frames_matter.base.profiles import get_profile
from frames_matter.cli import run_command
from frames_matter.labs.registry import report
from frames_matter.report.reproduction import (
    EQUAL,
    INSIDE,
    OUTSIDE,
    UNTOLD,
    compare_with_record,
    reproduction_of,
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    return Home(tmp_path.resolve())


def again(records, metrics=None, **spec):
    "The same runs by this checkout, later."
    return [altered(record, metrics, **spec) | dict(run_by=checkout_id()) for record in records]


def one_run(records, **wanted):
    "The first run of the first improvement's own cell under the sound protocol, seed 1, or of what is wanted."
    wanted = dict(phase="first_improvement", protocol="sound", seed=1) | wanted
    return next(r for r in records if all(r["spec"][name] == value for name, value in wanted.items()))


def with_fewer_hits(record, n, way="t2v"):
    "A copy in which n queries that were answered first are answered second."
    record = copy.deepcopy(record)
    ranks = record["metrics"][f"ranks_{way}"]
    for i in [i for i, rank in enumerate(ranks) if rank == 1][:n]:
        ranks[i] = 2.0
    return record


def verdicts(found, number):
    return set(found.numbers[found.numbers.number == number].verdict)


# --- number by number ---


def test_the_same_numbers_are_equal(home):
    found = reproduction_of(again(few()), few())
    assert set(found.numbers.verdict) == {EQUAL} and not (found.missing or found.added or found.of_other_setup)
    numbers = ["t2v R@1", "v2t R@1", "t2v MRR", "alignment loss", "cosine gap, mean negative", "foil, early / late"]
    assert {*numbers, "cosine gap, hardest negative"} <= set(found.numbers.number)
    means = found.numbers[found.numbers.seeds == "0, 1 and 2"]
    assert len(means.drop_duplicates(["architecture", "loss", "sampling", "protocol"])) == 2 * (4 + 6)


def test_rounding_is_equal(home):
    own = again(few(), metrics=None)
    for record in own:
        record["metrics"]["alignment_loss"] += 3e-7
    assert set(reproduction_of(own, few()).numbers.verdict) == {EQUAL}


@pytest.mark.parametrize("n, expected", [(5, INSIDE), (60, OUTSIDE)])
@pytest.mark.parametrize("way", ["t2v", "v2t"])
def test_a_recall_is_held_against_its_interval_over_queries(home, way, n, expected):
    run = one_run(few())
    moved = again([with_fewer_hits(run, n, way)])
    found = reproduction_of(moved, few())
    assert verdicts(found, f"{way} R@1") == {expected} and found.count(OUTSIDE) == (n == 60) * (1 + (way == "t2v"))
    row = found.numbers[found.numbers.number == f"{way} R@1"].iloc[0]
    assert row.record - row.here == pytest.approx(100 * n / 240) and row.low < row.record < row.high


@pytest.mark.parametrize(
    "metric, number", [("alignment_loss", "alignment loss"), ("cosine_gap_mean", "cosine gap, mean negative")]
)
@pytest.mark.parametrize("deviations, expected", [(0.3, INSIDE), (-0.3, INSIDE), (9, OUTSIDE), (-9, OUTSIDE)])
def test_a_loss_is_held_against_what_other_seeds_make_of_it(home, metric, number, deviations, expected):
    record = few()
    run = one_run(record)
    same = ("phase", "architecture", "loss", "sampling", "protocol")
    cell = [r["metrics"][metric] for r in record if all(r["spec"][name] == run["spec"][name] for name in same)]
    mean = sum(cell) / len(cell)
    spread = (sum((value - mean) ** 2 for value in cell) / (len(cell) - 1)) ** 0.5
    moved = again([run], metrics={metric: mean + deviations * spread})
    assert verdicts(reproduction_of(moved, record), number) == {expected}


def test_one_bad_seed_shows_in_its_run_and_where_all_are_bad_in_the_mean(home):
    cell = [one_run(few(), seed=seed) for seed in range(3)]
    own = again([with_fewer_hits(cell[0], 30), *cell[1:]])
    outside = reproduction_of(own, few()).outside
    assert set(outside[outside.number == "t2v R@1"].seeds) == {"0"}
    own = again([with_fewer_hits(record, 60) for record in cell])
    assert "0, 1 and 2" in set(reproduction_of(own, few()).outside.seeds)


def test_what_one_seed_cannot_tell_decides_nothing(home):
    own = again([one_run(few(), phase="zero_shot", seed=0)], metrics=dict(alignment_loss=0.5))
    found = reproduction_of(own, few())
    assert verdicts(found, "alignment loss") == {UNTOLD} and not len(found.outside)


@pytest.mark.parametrize("gone", [None, "missing"])
def test_a_number_that_the_record_has_and_this_has_not_is_outside(home, gone):
    own = again([one_run(few())], metrics=dict(alignment_loss=None))
    if gone:
        del own[0]["metrics"]["alignment_loss"]
    assert verdicts(reproduction_of(own, few()), "alignment loss") == {OUTSIDE}


def test_a_number_that_only_this_has_decides_nothing(home):
    record = few()
    one_run(record)["metrics"]["alignment_loss"] = None
    assert verdicts(reproduction_of(again([one_run(few())]), record), "alignment loss") == {UNTOLD}


# --- which runs ---


def test_other_bytes_are_the_same_run(home):
    found = reproduction_of(again(few(), data="d2"), few())
    assert len(found.here) == len(few()) and set(found.numbers.verdict) == {EQUAL}


@pytest.mark.parametrize("field", [dict(k=4), dict(epochs=3), dict(learning_rate=0.1), dict(weights_sha="w2")])
def test_another_setup_is_not_compared(home, field):
    first = [record for record in few() if record["spec"]["phase"] == "first_improvement"]
    found = reproduction_of(again(first, **field), few())
    assert not found.here and found.of_other_setup == len(first) and not found.added
    home.keep([*few(), *again(first, **field)])
    said, is_within = compare_with_record("mini")
    assert is_within and f"{len(first)} runs here are of another set-up and not compared." in said
    assert not (home.results / "reproduction.md").exists()


def test_cells_that_only_one_of_the_two_has_are_counted(home):
    lost = few()[:-1]
    more = invent("second_improvement", "fusion", "infonce", "uniform", "sound", 7, 10)
    found = reproduction_of(again([*lost, more]), few())
    assert (len(found.here), found.missing, found.added, found.of_other_setup) == (len(lost), 1, 1, 0)
    found = reproduction_of(again(few()), lost)
    assert (len(found.here), found.missing, found.added) == (len(lost), 0, 1)


def test_the_newest_of_ones_own_runs_counts(home):
    old = [record | dict(finished="2026-04-01") for record in again([one_run(few())], dict(alignment_loss=99.0))]
    new = again([one_run(few())], data="d2")
    for own in ([*old, *new], [*new, *old]):
        assert set(reproduction_of(own, few()).numbers.verdict) == {EQUAL}


def test_the_record_is_that_of_the_tables(home):
    stray = [altered(record, dict(alignment_loss=99.0), data="d3") for record in few()[:3]]
    found = reproduction_of(again(few()), [*stray, *few()])
    assert set(found.numbers.verdict) == {EQUAL} and {r["spec"]["data"] for r in found.record} == {"d1"}


# --- what is said ---


def test_a_reproduction_is_said_in_three_lines_and_has_a_page(home):
    home.keep([*few(), *again(few(), data="d2")])
    said, is_within = compare_with_record("mini")
    counts, where, verdict = said.splitlines()
    assert is_within and verdict == "The record of mini is reproduced."
    assert counts.startswith(f"{len(few())} runs compared with the record: of ") and "0 are outside." in counts
    assert where == "Number by number in results/mini/reproduction.md."
    page = (home.results / "reproduction.md").read_text()
    assert "| data | d2 | d1 |" in page and f"| checkout | {checkout_id()} | test |" in page
    assert "All numbers are equal." in page


def test_what_is_outside_is_named(home):
    wrong = [r for r in few() if r["spec"]["phase"] == "first_improvement" and r["spec"]["protocol"] == "sound"]
    home.keep([*few(), *again(wrong, dict(alignment_loss=99.0))])
    said, is_within = compare_with_record("mini")
    assert not is_within and "; 1 more." in said.splitlines()[0]
    assert "Outside: first improvement, cross-attention, H-NAC, uniform, sound; " in said
    assert said.splitlines()[-1] == "The record of mini is not reproduced: 16 numbers lie outside its intervals."
    page = (home.results / "reproduction.md").read_text()
    assert page.count("| outside |\n") == 16 and "| 99 |" in page


def test_whoever_made_the_record_has_nothing_to_compare(home):
    home.keep(again(few()))
    said, is_within = compare_with_record("mini")
    assert is_within and said == "This checkout made the record of mini: there is no other to compare it with."
    elsewhere = get_profile("mini", results="apart")
    (home.folder / "results" / "apart").mkdir()
    home.store.rename(home.folder / "results" / "apart" / "runs.jsonl")
    assert compare_with_record(elsewhere) == ("There is no record of mini to compare with.", True)
    home.keep(again(few()))
    home.readme.write_text("# Without places\n")
    assert compare_with_record("mini") == ("There is no record of mini to compare with.", True)
    assert not (home.results / "reproduction.md").exists()


def test_a_fresh_clone_has_nothing_to_compare(home):
    home.keep(few())
    said, is_within = compare_with_record("mini")
    assert is_within and said.startswith("No run here is one of the record of mini: there is nothing to compare.")


# --- the command ---


@pytest.fixture
def smoke(home, monkeypatch):
    "A home whose store of smoke holds a record and, by this checkout, the same with other numbers."
    monkeypatch.chdir(home.folder)
    (home.folder / "nbs" / "lessons").mkdir(parents=True)
    notebook(home.folder / "nbs" / "lessons" / "01_a.ipynb", "1 + 1")
    record = [altered(r, profile="smoke") for r in seeds_of(few(), 0) if r["spec"]["phase"] != "second_improvement"]
    path = home.folder / "results" / "smoke" / "runs.jsonl"
    path.parent.mkdir()

    def keep(*own):
        path.write_text("".join(json.dumps(r) + "\n" for r in [*record, *again(own)]))
        return path.with_name("reproduction.md")

    return record, keep


@pytest.mark.parametrize("flips, code", [(0, 0), (5, 0), (60, 1)])
def test_the_exit_code_says_whether_the_record_is_reproduced(smoke, capsys, flips, code):
    record, keep = smoke
    page = keep(*(with_fewer_hits(r, flips) if r["spec"]["protocol"] == "sound" else r for r in record))
    assert run_command(["reproduce", "--profile", "smoke"]) == code
    out = capsys.readouterr().out.splitlines()
    assert out[-1].startswith("The record of smoke is reproduced." if code == 0 else "The record of smoke is not")
    assert "Number by number in results/smoke/reproduction.md." in out[-2] and page.is_file()


def test_without_a_record_the_command_says_so(smoke, capsys):
    record, keep = smoke
    page = keep()
    path = page.with_name("runs.jsonl")
    path.write_text("".join(json.dumps(r) + "\n" for r in again(record)))
    assert run_command(["reproduce", "--profile", "smoke"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "There is no record of smoke to compare with."


def test_a_report_compares_nothing(smoke, capsys):
    record, keep = smoke
    page = keep(*(with_fewer_hits(r, 60) if r["spec"]["protocol"] == "sound" else r for r in record))
    report("smoke")
    assert not page.exists() and "record" not in capsys.readouterr().out


def test_git_leaves_the_page_alone(root):
    assert "results/*/reproduction.md" in (root / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_help_tells_of_the_exit_code(capsys):
    assert run_command(["reproduce", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The exit code is 1 if one of them lies outside the record's interval" in said
