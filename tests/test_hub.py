"""Fetching from the hub: huggingface_hub's own client, in a process of its own, against a hub on loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import COMMIT, serve_hub

from frames_matter.base.errors import UserError
from frames_matter.base.hub import hub_file, hub_list

FETCH = """
import json, sys, warnings
warnings.simplefilter("ignore")
from frames_matter.base.errors import UserError
from frames_matter.base.hub import commit_of, hub_file, resolve_file
out = []
for source in sys.argv[1:]:
    try:
        path = resolve_file(source)
        head = path.read_bytes()[:16].hex()
        out.append({"path": str(path), "size": path.stat().st_size, "commit": commit_of(path), "head": head})
    except UserError as e:
        out.append({"error": str(e)})
print(json.dumps(out))
"""


def fetch(hub, home, *sources, **env):
    "What `resolve_file` makes of each source, in a new process: its file, or the sentence of its error."
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *sources],
        env={**os.environ, **hub.env(home), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


LARGE = bytes(range(256)) * 4000  # 1 MB
HUGE = bytes(range(251)) * 100_000  # 25 MB: the client writes pieces of 10 MB, and goes on from the last whole one
PIECE = 10 * 1024**2
FILES = {
    "owner/models/weights.pth": LARGE,
    "owner/models/sub/bpe.txt.gz": b"small",
    "datasets/owner/rows/a.parquet": b"rows",
}
WEIGHTS = "hub:owner/models/weights.pth"


def test_files_are_fetched_once_and_found_again_without_a_network(tmp_path):
    with serve_hub(FILES, revisions=("main", "v1")) as hub:
        large, small, rows, again = fetch(
            hub,
            tmp_path,
            WEIGHTS,
            "hub:owner/models/sub/bpe.txt.gz",
            "hub:datasets/owner/rows/a.parquet",
            f"{WEIGHTS}@v1",
        )
        assert (large["size"], large["head"], large["commit"]) == (len(LARGE), LARGE[:16].hex(), COMMIT)
        assert small["size"] == 5 and rows["size"] == 4 and again["path"] == large["path"]
        assert hub.asked("GET", "weights.pth") == 1, "the file was fetched again"
        before = len(hub.requests)
        (pinned,) = fetch(hub, tmp_path, f"{WEIGHTS}@{COMMIT}")
        (offline,) = fetch(hub, tmp_path, WEIGHTS, HF_HUB_OFFLINE="1")
        assert pinned["path"] == offline["path"] == large["path"] and len(hub.requests) == before, (
            "a pinned or offline file was asked for"
        )
        (absent,) = fetch(hub, tmp_path, "hub:owner/models/other.pth", HF_HUB_OFFLINE="1")
        assert "HF_HUB_OFFLINE" in absent["error"] and len(hub.requests) == before
    (after,) = fetch(hub, tmp_path, WEIGHTS)  # the hub is gone, the cache is not
    assert after["path"] == large["path"]


def test_a_connection_cut_in_the_middle_goes_on_where_it_stopped(tmp_path):
    with serve_hub({"owner/models/weights.pth": HUGE}, cut={"weights.pth": PIECE + 1_000_001}, cuts_left=2) as hub:
        (found,) = fetch(hub, tmp_path, WEIGHTS)
        assert found["size"] == len(HUGE)
        ranges = [r for m, p, _, r in hub.requests if m == "GET" and p.endswith("weights.pth")]
        assert ranges == [None, f"bytes={PIECE}-", f"bytes={2 * PIECE}-"], ranges
    assert Path(found["path"]).read_bytes() == HUGE


def test_a_token_goes_to_the_hub_and_to_no_other_host(tmp_path):
    with serve_hub(FILES, gated={"owner/models"}, token="hf_good") as hub:
        (found,) = fetch(hub, tmp_path, WEIGHTS, HF_TOKEN="hf_good")
        assert found["size"] == len(LARGE)
        assert all(token == ("/cdn/" not in path) for _, path, token, _ in hub.requests), hub.requests


def test_a_token_left_by_a_login_is_not_used(tmp_path):
    (tmp_path / "token").write_text("hf_good")
    with serve_hub(FILES, gated={"owner/models"}, token="hf_good") as hub:
        (found,) = fetch(hub, tmp_path, WEIGHTS)
        assert "gated" in found["error"] and not any(token for *_, token, _ in hub.requests)


@pytest.mark.parametrize("source", [WEIGHTS, "hub:datasets/owner/rows/a.parquet"])
def test_gated_files_say_which_page_and_which_variable(tmp_path, source):
    with serve_hub(FILES, gated={"owner/models", "owner/rows"}, token="hf_good", stranger="hf_stranger") as hub:
        page = f"{hub.url}/" + ("datasets/owner/rows" if "datasets" in source else "owner/models")
        (none,) = fetch(hub, tmp_path, source)
        assert f"accept the terms on {page}," in none["error"] and "set HF_TOKEN" in none["error"]
        (stranger,) = fetch(hub, tmp_path, source, HF_TOKEN="hf_stranger")
        assert f"accept the terms on {page} with that account" in stranger["error"]
        (wrong,) = fetch(hub, tmp_path, source, HF_TOKEN="hf_wrong")
        assert "refuses the token in HF_TOKEN" in wrong["error"]


def test_what_is_not_there_is_named(tmp_path):
    with serve_hub(FILES, token="hf_good") as hub:
        entry, revision, repository = fetch(
            hub, tmp_path, "hub:owner/models/absent.pth", f"{WEIGHTS}@v9", "hub:owner/absent/x.pth"
        )
        assert "no such file: absent.pth" in entry["error"]
        assert "no such revision" in revision["error"] and "v9" in revision["error"]
        assert f"no repository {hub.url}/owner/absent" in repository["error"] and "set HF_TOKEN" in repository["error"]
        (known,) = fetch(hub, tmp_path, "hub:owner/absent/x.pth", HF_TOKEN="hf_good")
        assert "no repository" in known["error"]


def test_a_hub_that_is_gone_or_broken(tmp_path):
    with serve_hub(FILES) as hub:
        pass
    (gone,) = fetch(hub, tmp_path, WEIGHTS)
    assert "check the network" in gone["error"] and hub.url in gone["error"]
    with serve_hub(FILES, broken=403) as hub:
        (refused,) = fetch(hub, tmp_path, WEIGHTS)
    assert "error" in refused and len(refused["error"].splitlines()) == 1


def test_a_repository_that_moved_is_followed(tmp_path):
    with serve_hub(FILES, moved={"old/name": "owner/models"}) as hub:
        (found,) = fetch(hub, tmp_path, "hub:old/name/weights.pth")
        assert found["size"] == len(LARGE)


def test_a_path_is_taken_as_it_is(tmp_path):
    (tmp_path / "own.pth").write_bytes(b"x")
    with serve_hub(FILES) as hub:
        found, absent = fetch(hub, tmp_path, str(tmp_path / "own.pth"), str(tmp_path / "absent.pth"))
        assert (
            found["path"] == str(tmp_path / "own.pth")
            and found["commit"] is None
            and "absent.pth" in absent["error"]
            and not hub.requests
        )


def test_a_connection_that_keeps_breaking_leaves_nothing_behind(tmp_path):
    with serve_hub(FILES, cut={"weights.pth": 10}, cuts_left=99) as hub:
        (found,) = fetch(hub, tmp_path, WEIGHTS)
        assert "could not be fetched whole" in found["error"] and hub.asked("GET", "weights.pth") > 1
    assert not [
        p
        for p in tmp_path.rglob("*")
        if p.is_file() and p.stat().st_size == len(LARGE) or p.name.endswith(".incomplete")
    ]


@pytest.mark.parametrize("name", ["a b/c!", "owner/", "owner//repository", "../x/y"])
def test_a_repository_that_cannot_be_one_is_told_of_a_file_and_of_a_list(name):
    for ask in (lambda: hub_file(name, "weights.pth"), lambda: hub_list(name)):
        with pytest.raises(UserError, match="is no repository's name; write owner/repository"):
            ask()


READY = """
import json, sys
from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.study.lessons import assert_ready
for overrides in json.loads(sys.argv[1]):
    try:
        assert_ready(get_profile("internvid", device="cpu", precision="fp32", **overrides))
        print(json.dumps(""))
    except UserError as e:
        print(json.dumps(str(e)))
"""


def ready(hub, home, *overrides, **env):
    "What `assert_ready` says of each of these profiles, in one new process; '' where all is well."
    done = subprocess.run(
        [sys.executable, "-c", READY, json.dumps(overrides)],
        env={**os.environ, **hub.env(home), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


SMALL = "hub:owner/models/sub/bpe.txt.gz"
HERE = {"weights": WEIGHTS, "bpe": SMALL}
ABSENT = {
    "no such file: absent.pth": {"weights": "hub:owner/models/absent.pth"},
    "no such file: absent.gz": {"bpe": "hub:owner/models/absent.gz"},
    "no such revision for weights.pth of owner/models at v9": {"revision": "v9"},
    "no such revision for sub/bpe.txt.gz of owner/models at v8": {"bpe": f"{SMALL}@v8"},
    "shows no repository": {"weights": "hub:owner/absent/x.pth"},
    "No file at none.gz": {"bpe": "none.gz"},
}


def test_lessons_are_not_begun_for_what_the_hub_has_not_got(tmp_path):
    "One sentence each, the one that fetching it would end in; no file is fetched to find out."
    with serve_hub(FILES, revisions=("main", "v1")) as hub:
        tried = [HERE, HERE | {"revision": "v1"}, *(HERE | fields for fields in ABSENT.values())]
        well, tagged, *told = ready(hub, tmp_path, *tried)
        assert well == tagged == ""
        for said, sentence in zip(ABSENT, told, strict=True):
            assert said in sentence and "\n" not in sentence and sentence.endswith("."), sentence
        assert {method for method, *_ in hub.requests} == {"HEAD"}, hub.requests
        asked = [path for _, path, *_ in hub.requests if "/resolve/" in path]
        assert len(asked) <= 2 * len(tried) - 1, "a file was asked for twice"
        assert not list(tmp_path.rglob("blobs/*"))


def test_lessons_are_not_begun_for_what_may_not_be_had(tmp_path):
    with serve_hub(FILES, gated={"owner/models"}, token="hf_good", stranger="hf_stranger") as hub:
        assert ready(hub, tmp_path, HERE, HF_TOKEN="hf_good") == [""]
        for token, said in {"": "then set HF_TOKEN", "hf_no": "refuses"}.items():
            (told,) = ready(hub, tmp_path, HERE, HF_TOKEN=token)
            assert said in told and "\n" not in told, told
        assert {method for method, *_ in hub.requests} == {"HEAD"}, hub.requests


def test_lessons_begin_without_a_hub_if_its_files_are_here(tmp_path):
    "Whether it is not to be asked, or is gone; and what is not here is told at once."
    with serve_hub(FILES) as hub:
        fetch(hub, tmp_path, WEIGHTS, SMALL)
        before = len(hub.requests)
        well, absent = ready(hub, tmp_path, HERE, HERE | ABSENT["no such file: absent.gz"], HF_HUB_OFFLINE="1")
        assert well == "" and "absent.gz" in absent and "HF_HUB_OFFLINE is set" in absent
        assert len(hub.requests) == before
    well, pinned, absent = ready(
        hub, tmp_path, HERE, HERE | {"revision": COMMIT}, HERE | ABSENT["no such file: absent.gz"]
    )
    assert well == pinned == "" and f"{hub.url} does not answer" in absent and "check the network" in absent
