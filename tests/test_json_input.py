"JSON from outside: whatever stands in somebody else's file is the right value or one sentence, never a raw error."

import json
import math
from typing import Annotated, TypedDict

import pytest
from msgspec import Meta

from frames_matter.base.errors import UserError, shown
from frames_matter.base.files import spec_hash
from frames_matter.base.json_input import finite, parse_json, read_json
from frames_matter.base.profiles import get_profile
from frames_matter.cli import run_command
from frames_matter.study.store import read_records, runs_path, store

NO_JSON = {
    "empty": b"",
    "text": b"hello",
    "half": b'{"a": [1, 2',
    "two": b"{} {}",
    "NaN": b'{"a": NaN}',
    "infinity": b'{"a": -Infinity}',
    "deep lists": b"[" * 200_000,
    "deep, closed": b"[" * 200_000 + b"]" * 200_000,
    "deep dicts": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "digits": b'{"a": ' + b"7" * 5000 + b"}",
    "exponent": b'{"a": 1e999}',
    "latin-1": '{"a": "Zürich"}'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "half letter": b'{"a": "\\ud800"}',
    "half letter, raw": b'{"a": "\xed\xa0\x80"}',
    "control": b'{"a": "\x01"}',
    "zero bytes": b"\0" * 30,
    "comment": b'{"a": 1} // one',
    "single quotes": b"{'a': 1}",
    "comma": b'{"a": 1,}',
    "gzip": b"\x1f\x8b\x08\x00" + bytes(40),
}
VALUES = [
    "null",
    "true",
    "-1",
    "1.5",
    '"x"',
    '"\\u001b[2J"',
    "[]",
    "{}",
    "[[1]]",
    '["a"]',
    "1e308",
    "[null]",
    '"../../x"',
]


class Film(TypedDict):
    name: str
    seconds: Annotated[float, Meta(ge=0)]


def assert_sentence(text):
    assert text.isprintable() and text.endswith(".") and len(text) < 600 and " at 0x" not in text, text


@pytest.mark.parametrize("data", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json_is_a_sentence(data, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UserError) as e:
        read_json(tmp_path / "a.json")
    assert_sentence(str(e.value))
    assert "a.json" in str(e.value) and "run the command again" in str(e.value)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("text", ["%s", '{"name": %s, "seconds": 1}', '{"name": "a", "seconds": %s}', '{"name": %s}'])
def test_a_schema_holds_or_says_what_is_wrong(text, value):
    try:
        found = parse_json(text % value, Film)
    except UserError as e:
        assert_sentence(str(e))
    else:
        assert isinstance(found["name"], str) and found["seconds"] >= 0


def test_the_right_value():
    "With a byte order mark or without; further fields stay; whole numbers stay whole."
    text = '{"name": "Zürich 🎬", "seconds": 2, "more": [1, 2.5, null]}'
    expected = {"name": "Zürich 🎬", "seconds": 2, "more": [1, 2.5, None]}
    assert parse_json(text, Film) == parse_json("\ufeff" + text, Film) == parse_json(text.encode(), Film) == expected
    assert isinstance(parse_json(text, Film)["seconds"], int)


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: None, lambda p: p.symlink_to(p)])
def test_a_file_that_is_none_is_a_sentence(make, tmp_path):
    make(tmp_path / "a.json")
    with pytest.raises(UserError) as e:
        read_json(tmp_path / "a.json")
    assert_sentence(str(e.value))


def test_what_is_not_finite_is_written_as_nothing():
    record = {"loss": [1.0, math.nan, -math.inf], "deep": {"a": (math.inf,)}, "n": 3, "is": True, "none": None}
    assert finite(record) == {"loss": [1.0, None, None], "deep": {"a": [None]}, "n": 3, "is": True, "none": None}


def test_a_message_obeys_nothing_and_holds_no_address_of_memory():
    told = shown(f"cannot read {object()!r}\x1b[31m\u202e \udcff")
    assert told.isprintable() and "0x" not in told and "<object object>" in told


def record_of(**changes):
    "What the store takes for a run."
    spec = dict(profile="smoke", phase="zero_shot", architecture="dual", loss="none", sampling="uniform")
    spec |= dict(protocol="sound", seed=0, epochs=0)
    record = dict(spec=spec, spec_hash=spec_hash(spec), metrics={"t2v_r1": 50.0}, curves={}, run_by="0" * 12)
    return record | changes


DAMAGED = [dict(spec=value) for value in (None, [], "x", {}, {"phase": 1})]
DAMAGED += [dict(spec_hash=value) for value in (None, 5, ["a"])]
DAMAGED += [
    dict(metrics=value) for value in (None, [], {"t2v_r1": "x"}, {"t2v_r1": [1]}, {"ranks_t2v": 5}, {"rsum": {}})
]
DAMAGED += [dict(curves=value) for value in ([], {"train_loss": 1}, {"train_loss": ["a"]}, {"train_loss": [[1]]})]


@pytest.mark.parametrize("change", DAMAGED, ids=str)
@pytest.mark.parametrize("command", ["report", "reproduce"])
def test_a_record_that_nobody_could_read_is_named(change, command, tmp_path, monkeypatch, capsys):
    "Which line of which file; the store does not take such a record in the first place."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    profile = get_profile("smoke")
    path = runs_path(profile)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record_of()) + "\n" + json.dumps(record_of(**change)) + "\n")
    with pytest.raises(UserError, match="Line 2 of .*runs.jsonl is damaged; delete that line"):
        read_records(path)
    if command == "report":
        assert run_command(["report", "--profile", "smoke"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    before = path.read_bytes()
    with pytest.raises(ValueError):
        store(profile, record_of(**change))
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", NO_JSON.values(), ids=NO_JSON)
def test_a_line_that_is_no_json_is_named(data, tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(json.dumps(record_of()).encode() + b"\n" + data.replace(b"\n", b" ") + b"\n")
    if data.strip():
        with pytest.raises(UserError, match="Line 2 of "):
            read_records(path)
    else:
        assert len(read_records(path)) == 1


def test_a_run_that_went_astray_breaks_no_later_one(tmp_path, monkeypatch):
    "A loss of NaN is written as null, and read again."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    profile = get_profile("smoke")
    store(profile, record_of(metrics={"t2v_r1": math.nan}, curves={"train_loss": [1.0, math.inf]}))
    (found,) = read_records(runs_path(profile))
    assert found["metrics"] == {"t2v_r1": None} and found["curves"] == {"train_loss": [1.0, None]}


@pytest.mark.parametrize("data", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("command", ["report", "dataset build", "reproduce"])
def test_a_profile_that_is_no_json_is_told(data, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    record = tmp_path / "data_manifest" / "theirs" / "profile.json"
    record.parent.mkdir(parents=True)
    record.write_bytes(data)
    assert run_command([*command.split(), "--profile", "theirs"]) == 2
    said = capsys.readouterr().err.strip()
    assert_sentence(said)
    assert "is damaged: it is not the JSON of a profile; delete it and register theirs again" in said
