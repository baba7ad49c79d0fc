"What opens a private store is used, and is in nothing that is written down."

import pytest

from frames_matter.base.addresses import is_secret, text_without_secrets, without_secrets
from frames_matter.base.profiles import Profile
from frames_matter.cli import run_command
from frames_matter.data.ledger import Ledger, read_states, source_name, told_reason
from frames_matter.data.loopback import serve_folder
from frames_matter.data.manifest import portable_address
from frames_matter.data.own_clip import readable_stem, split_group

HIDDEN = {
    "https://me:word@example.org/a.mp4": "https://example.org/a.mp4",
    "https://word@example.org:8080/a.mp4?id=3#t=1": "https://example.org:8080/a.mp4?id=3#t=1",
    "ftp://me:word@example.org/a.mp4": "ftp://example.org/a.mp4",
    "rtsp://me:wo%40rd@[2001:db8::1]:554/a": "rtsp://[2001:db8::1]:554/a",
    "https://b.s3.amazonaws.com/a.mp4?X-Amz-Algorithm=A&X-Amz-Credential=word&X-Amz-Date=2&X-Amz-Signature=word": (
        "https://b.s3.amazonaws.com/a.mp4"
    ),
    "https://storage.googleapis.com/b/a.mp4?GoogleAccessId=me&Expires=1&Signature=word": (
        "https://storage.googleapis.com/b/a.mp4"
    ),
    "https://a.blob.core.windows.net/a.mp4?sv=2&st=1&se=2&sr=b&sp=r&sig=word": "https://a.blob.core.windows.net/a.mp4",
    "https://d.cloudfront.net/a.mp4?Policy=p&Signature=word&Key-Pair-Id=k": "https://d.cloudfront.net/a.mp4",
    "https://example.org/a.mp4?access_token=word&id=7": "https://example.org/a.mp4?id=7",
    "https://example.org/a.mp4?id=7&API_KEY=word": "https://example.org/a.mp4?id=7",
    "https://example.org/a.mp4?password=word": "https://example.org/a.mp4",
    "https://b.s3.amazonaws.com/a.mp4?X-Amz-Algorithm=A&X-Amz-Signature=word&id=3": (
        "https://b.s3.amazonaws.com/a.mp4?id=3"
    ),
}
PLAIN = [
    "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=3",
    "https://example.org/a.mp4?id=7&st=3&expires=5",
    "https://example.org/@user/a.mp4",
    "https://example.org/a.mp4?se=4",
    "films/a@b.mp4",
    "C:/films/a.mp4",
    "http://[broken/a.mp4",
    "",
]


@pytest.mark.parametrize("address", HIDDEN)
def test_what_opens_a_store_is_left_out(address):
    assert without_secrets(address) == HIDDEN[address] == portable_address(address) and is_secret(address)
    assert told_reason(f"not fetched: GET {address} failed") == f"not fetched: GET {HIDDEN[address]} failed"
    assert source_name(dict(address=address)) == source_name(dict(address=HIDDEN[address]))


@pytest.mark.parametrize("address", PLAIN)
def test_what_opens_nothing_stays(address):
    assert without_secrets(address) == address and not is_secret(address)
    assert text_without_secrets(f"see {address} .") == f"see {address} ."


@pytest.mark.parametrize("address", [*HIDDEN, *filter(None, PLAIN)])
def test_a_ledger_holds_an_address_without_it(address, tmp_path):
    "As the row's own, and in the reason that it failed for."
    row = dict(clip_id="a", youtube_id="v", start=0, end=3, caption="c", address=address, status="", reason="")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.begin("x", tmp_path / "clips")
        ledger.add([row])
        reason = f"<Reader object at 0x7f3c2a9d1e40> failed on {address}\x1b[2J"
        ledger.record(dict(state="rejected", rows=[0], kind="fetch", reason=reason))
    ((written, told),) = read_states(tmp_path / "ledger.sqlite", "address", "reason")
    kept = HIDDEN.get(address, address)
    assert written == kept and told == f"<Reader object> failed on {kept}?[2J"


def test_a_reason_holds_nothing_that_a_terminal_obeys_and_no_address_of_memory():
    assert told_reason("bad <_io.BytesIO object at 0x7f3c2a9d1e40> \x1b[2J") == "bad <_io.BytesIO object> ?[2J"
    assert told_reason(None) is None and told_reason("") == ""


@pytest.mark.parametrize("address", HIDDEN)
def test_no_name_is_made_of_it(address):
    "Whether the address stands for the clip or for its source; and signed anew it is the same source."
    assert "word" not in readable_stem(address) and "word" not in split_group(address, "clip")
    assert split_group(address, "clip") == split_group(HIDDEN[address], "clip")


def test_nothing_that_is_written_holds_it(tmp_path, monkeypatch, capfd):
    "Films that are had, one that is gone, a second build that goes by what was written, and one of other rows."
    home = tmp_path / "home"
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films").mkdir()
    from test_refused import make_film

    for i in range(5):
        make_film(tmp_path / "films" / f"f{i}.mp4", f"64x{48 + 2 * i}", 4)
    with serve_folder(tmp_path / "films") as url:
        base = url.replace("http://", "http://me:s3cret-word@")
        names = [*(f"f{i}" for i in range(5)), "gone"]
        rows = [f"{base}/{n}.mp4?X-Amz-Signature=s3cret-sig&X-Amz-Date=1&id={n},0,3,A film {n}.\n" for n in names]
        (tmp_path / "my.csv").write_text("url,start,end,caption\n" + "".join(rows))
        more = ["-o", "private_addresses=true"] if hasattr(Profile, "private_addresses") else []
        build = ["dataset", "build", "--from", "my.csv", "--like", "smoke", "-o", "patience=0", *more]
        for line in (
            build,
            ["dataset", "verify", "-p", "my"],
            ["dataset", "build", "-p", "my"],
            [*build, "-o", "n_clips=4"],
        ):
            assert run_command(line) == 0
    told = "".join(capfd.readouterr())
    assert "signatures of addresses are used and not written down" in told
    written = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} | {"told": told.encode()}
    assert [place for place, content in written.items() if b"s3cret" in content] == []
    table = (home / "data_manifest" / "my" / "clips.csv").read_text()
    assert f"{url}/f0.mp4?id=f0" in table
