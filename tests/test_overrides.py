"Whatever is given for whatever field of a profile is taken or refused in one sentence, at once; names are names."

import dataclasses
import json
import math
import re
import subprocess
import sys
import time
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch

import frames_matter as fm
from frames_matter.base.errors import UserError
from frames_matter.base.profiles import DESCRIBED, PROFILES, Profile, draft, get_profile, register
from frames_matter.cli import parse_overrides, run_command
from frames_matter.model.folder import load_head

FIELDS = [f.name for f in dataclasses.fields(Profile) if f.name != "name"]
NUMBERS = ["-1", "0", "-0.0", "NaN", "Infinity", "-Infinity", "1e400", "1e308", "-5", "1e-300", "1000000000000000000"]
LISTS = ["[]", "[0]", "[0,0]", "[-1]", "[1.5]", "[NaN]", "[true]", "[[1]]", "[null]", '["a"]', "[1000000000000000000]"]
TEXTS = ["", " ", "abc", "../../evil", "/etc/passwd", "..", "a/b", "a" * 5000, "\x1b[31m", "\u202e", "\udcff"]
PLACES = ["hub:", "hub:a/b", "hub:../../x/y", "hub:a/b/../../c", "https://u:p@h/{id}", "{id}", "{id!r}", "{0}", "~"]
OTHERS = ["null", "true", "{}", '{"a":1}', "9" * 5000, "[" * 100_000, "1_000", "0x10", "٣", '"\\ud800"', "[0,1"]


def assert_sentence(text):
    "One that a person can read on a terminal."
    assert "\n" not in text and text.isprintable() and len(text) < 700, text
    assert text.endswith(".") and " object at " not in text and "0x7" not in text, text


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_is_taken_or_refused_in_a_sentence(field):
    "Profiles that differ in source and device; what is taken can be written down as JSON."
    for value in NUMBERS + LISTS + TEXTS + PLACES + OTHERS:
        for name in ("smoke", "internvid"):
            try:
                profile = get_profile(name, **parse_overrides([f"{field}={value}"]))
            except UserError as e:
                assert_sentence(str(e))
            else:
                json.dumps(dataclasses.asdict(profile), allow_nan=False).encode()


NEVER = [-1e9, math.nan, math.inf, 10**18, 10**5000, None, [], {}]  # of any field
REFUSED = {  # of one field
    "n_pool": [-1],
    "max_seconds": [-1, 0],
    "weight_decay": [-1],
    "hard_negative_weight": [-1],
    "epochs_first": [-1, 1.5],
    "epochs_second": [-1],
    "processes": [0, -1],
    "patience": [-1],
    "per_host": [0, -1],
    "per_second": [-1],
    "min_score": [-math.inf],
    "engine": ["steam", 1],
    "device": ["tpu"],
    "n_clips": [-1, 0, 2, 3, True, 50.0, "50"],
    "k": [0, 1.5],
    "batch_size": [0, 1],
    "image_size": [0, 32, 224],
    "workers": [0],
    "temperature": [0.0],
    "candidates": [-3, 0],
    "seeds": [0, ["0"], [0, "1"], [0.5], [-1], [2**32], [0, 0], [True], "0", {"0": 1}, [[0]]],
    "seed": [-1, 2**32, "42", 1.5],
    "protocols": [["sound", "sound"], ["fair"], "sound", [0]],
    "learning_rate": [-1e-4, 0, 1e-300, "1e-4", 10**400],
    "min_seconds": [-1, 16],
    "results": ["../../evil", "/tmp/evil", "..", ".", "a/b", "a\\b", "a\n", "\x1b[2J", "e" * 41, "é"],
    "revision": ["../x", "-f", "a b", "a..b"],
    "weights": ["hub:../../x/y", "hub:a/b/../c", "https://me:word@example.org/w.pt"],
    "bpe": ["hub:a/b", "\udcff"],
    "preprocessing": ["theirs", ""],
    "rule": ["last"],
    "url_template": ["https://example.org/", "https://me:word@example.org/{id}"],
    "rows": ["https://example.org/a.jsonl?token=word", "a\0b"],
    "address": ["ray://me:word@host:10001"],
}


@pytest.mark.parametrize("field", FIELDS)
def test_what_no_run_could_use_is_refused_at_once(field):
    for value in NEVER + REFUSED.get(field, []):
        began = time.monotonic()
        with pytest.raises(UserError) as e:
            get_profile("smoke", **{field: value})
        assert_sentence(str(e.value))
        assert field in str(e.value) or field in ("protocols", "bpe", "weights"), str(e.value)
        assert "word@" not in str(e.value) and "=word" not in str(e.value) and time.monotonic() - began < 30


PROGRAMMERS = re.compile(r"[<>]=|\bint\b|\bfloat\b|\bstr\b|\barray\b|\bexpected\b|\$|\^|\(\)")
LIMITS = get_type_hints(Profile, include_extras=True)


def outside(kind):
    "Of a field's type and limits: what JSON may give that is just outside, each with what is then to be said of it."
    if get_origin(kind) is Literal or kind is bool:
        return [(5, word) for word in get_args(kind) or ("true or false",)]
    plain, limits = get_args(kind)
    if plain is str:
        return [(5, "UTF-8" if "4096" in limits.pattern else "letters" if "40" in limits.pattern else "commit")]
    if get_origin(plain) is tuple:
        ends = f"a list of {limits.min_length} to {limits.max_length} entries"
        of_an_entry = [([value], said) for value, said in outside(get_args(plain)[0])]
        return [([], ends), (0, ends), ({}, ends), *of_an_entry]
    step = 1 if plain is int else (abs(limits.ge) or 1) / 2
    ends = f"{'whole ' * (plain is int)}number from {limits.ge} to {limits.le}"
    return [(value, ends) for value in (limits.ge - step, limits.le + 1, -1e9, "x", None, True)]


@pytest.mark.parametrize("field", FIELDS)
def test_a_refusal_names_the_field_what_was_given_and_what_is_allowed(field):
    "Of every field, just outside its limits; in words of no programming language."
    for value, allowed in outside(LIMITS[field]):
        with pytest.raises(UserError) as e:
            get_profile("smoke", **parse_overrides([f"{field}={json.dumps(value)}"]))
        assert_sentence(str(e.value))
        assert repr(field) in str(e.value) and allowed in str(e.value), (value, str(e.value))
        assert f", not {value!r}" in str(e.value) and not PROGRAMMERS.search(str(e.value)), (value, str(e.value))


def test_limits_admit_what_is_used():
    "Every profile that is shipped, and values at the ends."
    for name in PROFILES:
        assert get_profile(name, **{f: getattr(PROFILES[name], f) for f in FIELDS}) == PROFILES[name]
    taken = dict(seeds=[0, 2**32 - 1], n_pool=0, epochs_first=0, min_score=-1, patience=0, results="mine", n_clips=4)
    profile = get_profile("smoke", **taken)
    assert profile.seeds == (0, 2**32 - 1) and profile.patience == 0.0


def test_an_error_helps():
    with pytest.raises(UserError, match=r"must be a list of 1 .* not 0; write it as in -o 'seeds=\[0\]'"):
        get_profile("smoke", **parse_overrides(["seeds=0"]))
    for pair, said in {"name=x": "Unknown profile field 'name'", "k": "FIELD=VALUE", "like=mini": "Unknown"}.items():
        with pytest.raises(UserError, match=said):
            parse_overrides([pair])
    said = {
        "n_clip=3": r"Unknown profile field 'n_clip' \(did you mean n_clips\?\); `python -m pydoc ",
        "epoch=3": r"'epoch' \(did you mean epochs_first or epochs_second\?\); `python",
        "lr=1": r"\(did you mean learning_rate\?\)",
        "losses=1": r"Unknown profile field 'losses'; `python",
        "=5": "Override '=5' is not of the form FIELD=VALUE",
        "k=x": "must be a whole number from 1 to 1024, not 'x'",
        "protocols=banana": r'a list of 1 .* not .banana.; write it as in -o .protocols=\["published","sound"\].',
        "source=Hub": r"\(did you mean hub\?\)",
        "device=mps": "Unknown device 'mps'; valid: cpu, cuda",
        "device=gpu": r"\(did you mean cuda\?\); valid: cpu, cuda",
        "precision=float32": r"\(did you mean fp32\?\)",
        "precision=bfloat16": r"\(did you mean bf16\?\)",
        "address=auto": "add --engine ray",
    }
    for pair, words in said.items():
        with pytest.raises(UserError, match=words):
            get_profile("smoke", **parse_overrides([pair]))
    with pytest.raises(UserError, match=r"Unknown profile 'smok' \(did you mean smoke\?\); valid: smoke, mini"):
        get_profile("smok")
    with pytest.raises(UserError, match="given twice"):
        parse_overrides(["k=4", "k=5"])


def test_fields_are_described_where_errors_and_help_say():
    "The command is run, and every field has its entry there."
    command = re.search("`python (.*?)`", DESCRIBED)[1]
    told = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=True).stdout
    entries = re.findall(r"^ \|  (\w+(?:, \w+)*)$(?=\n \|      \S)", told, re.MULTILINE)
    assert {name for entry in entries for name in entry.split(", ")} >= set(FIELDS)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".", "..", "a\n", "x" * 41, "a b", "\x1b[31m", "/tmp/x", "é"])
def test_a_profile_is_called_by_a_name(name, tmp_path, monkeypatch):
    "Wherever it is given, and nothing is written."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "home"))
    for make in (draft, register):
        with pytest.raises(UserError, match="cannot be a profile's name"):
            make(name)
    with pytest.raises(UserError, match="Unknown profile"):
        get_profile(name)
    assert not any(tmp_path.rglob("*"))


ESCAPES = [{"results": "../../evil"}, {"results": "/tmp/evil"}, {"name": "../../evil"}, {"source": 5}, {"k": None}]


@pytest.mark.parametrize("fields", ESCAPES, ids=str)
@pytest.mark.parametrize(
    "command", ["report", "dataset build", "dataset verify", "reproduce", "dataset export --to out"]
)
def test_a_registered_profile_is_checked_where_it_is_read(fields, command, tmp_path, monkeypatch, capsys):
    "A profile.json that came with somebody's folder: no command goes by it, nothing is written anywhere."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "a" / "home"))
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "a" / "home" / "data_manifest" / "theirs" / "profile.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"like": "smoke", "fields": fields}))
    assert run_command([*command.split(), "--profile", "theirs"]) == 2
    said = capsys.readouterr().err.strip()
    assert_sentence(said)
    assert "profile.json is damaged" in said and "register theirs again" in said
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [record]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told_at_once(tmp_path, monkeypatch, capsys):
    "By the lessons, by the laboratories and by whatever loads a model; before a file is sought or written."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    for line in ("reproduce -p smoke -o device=cuda", "reproduce -p smoke -o device=cuda --full"):
        assert run_command(line.split()) == 2
        said = capsys.readouterr().err.strip()
        assert_sentence(said)
        assert "wants an NVIDIA GPU" in said and not any(tmp_path.iterdir())
    for device in ("cuda", "cuda:7", "mps", "gpu", torch.device("cuda")):
        for load in (fm.load, fm.load_viclip, lambda source, device: load_head(tmp_path, device)):
            with pytest.raises(UserError, match="This machine has no device") as e:
                load("hub:nobody/nothing/none.pt", device=device)
            assert_sentence(str(e.value))
    assert fm.load_viclip(device="cpu").temp.device.type == "cpu"


@pytest.mark.parametrize(
    "line, said",
    [
        ("-o weights=none.pt", "No file at none.pt; give a path"),
        ("-o bpe=none.txt.gz", "No file at none.txt.gz; give a path"),
        ("-o weights=.", ". is a folder and no file; give a path"),
        ("-o weights=/dev/null", "No file at /dev/null; give a path"),
    ],
)
def test_lessons_do_not_begin_without_weights(line, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run_command(["reproduce", "--profile", "smoke", *line.split()]) == 2
    assert said in capsys.readouterr().err and not any(tmp_path.iterdir())
