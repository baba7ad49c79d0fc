"""Every fault that tests/fault_site.py can inject, injected: how each was to end, and how it ended.

    frames-matter bench faults

One build of a row for each fault, from a site on loopback that misbehaves for real; waits are short, all else is as ever. Rows that name no video or no possible time go through the selection.
The command fails if any ends otherwise than the table says.
"""

import functools
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from unittest import mock

import pandas as pd

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_write, project_root
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.data import build, fetch
from frames_matter.data.ledger import read_states
from frames_matter.data.rows import select_rows

sys.path.insert(0, str(project_root() / "tests"))
from fault_site import FAULTS, MANNERS, fault_of, make_films, row, rows, serve_faults


def ends_of(folder):  # name -> how it ended
    "Build a row of each fault, in a home of its own."
    with (
        serve_faults(make_films(folder / "films")) as site,
        mock.patch.dict(os.environ, FRAMES_MATTER_HOME=str(folder)),
        mock.patch.object(build, "manners_of", lambda profile: MANNERS),
        mock.patch.object(build, "Breaker", functools.partial(fetch.Breaker, limit=len(FAULTS))),
    ):  # or it would stop at so many failures
        profile = get_profile(
            "smoke", source="hub", url_template=site.template, n_clips=len(FAULTS), n_pool=0, workers=4
        )
        atomic_write(
            data_dir(profile) / "metadata.jsonl", "".join(json.dumps(row(f"{name}01")) + "\n" for name in FAULTS)
        )
        build.build_dataset(profile, progress=False)
        told = read_states(data_dir(profile) / "ledger.sqlite", "youtube_id", "state", "kind", "attempts", "reason")
        return {
            fault_of(name): dict(
                ended={"checked": "kept"}.get(state, state), kind=kind or "", attempts=attempts, reason=reason or ""
            )
            for name, state, kind, attempts, reason in told
        }


def as_told(name, end):
    "Whether a fault ended as it must."
    fault = FAULTS[name]
    return (
        end["ended"] == fault.ends
        and end["kind"] == (fault.kind or end["kind"])
        and fault.word in end["reason"]
        and end["attempts"] == (fault.attempts or MANNERS.attempts)
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        ends = ends_of(Path(folder))
    table = [dict(fault=name, site=FAULTS[name].what, must=FAULTS[name].ends, **end) for name, end in ends.items()]
    bad, words = zip(*rows())
    chosen = select_rows(pd.DataFrame(bad), get_profile("smoke"))
    told = [
        dict(
            row=" ".join([ascii(r["YoutubeID"])[:40], r["Start_timestamp"], r["End_timestamp"]]),
            ended=s or "taken",
            reason=why,
        )
        for r, s, why in zip(bad, chosen.status, chosen.reason)
    ]
    record = {
        "command": "frames-matter bench faults",
        "what": f"{len(table)} faults of a site or its files and {sum(map(bool, words))} impossible rows, injected on loopback",
        "manners": asdict(MANNERS),
        "faults": table,
        "rows": told,
        "versions": {
            "python": platform.python_version(),
            "yt-dlp": metadata.version("yt-dlp"),
            "ffmpeg": Path(find_ffmpeg()).name,
        },
    }
    atomic_write(
        project_root() / "results" / "bench" / "faults.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    )
    for row in table:
        print(
            f"{row['fault']:10} {row['site']:48} {row['ended']:9} {row['kind']:12} {row['attempts']:2} {row['reason']}"
        )
    print(f"{sum(r['ended'] == 'rejected' for r in told)} of {sum(map(bool, words))} impossible rows rejected.")
    wrong = [name for name, end in ends.items() if not as_told(name, end)] + [
        r["row"]
        for r, word in zip(told, words)
        if r["ended"] != ("rejected" if word else "taken") or word not in r["reason"]
    ]
    if wrong:
        raise UserError(f"Ended otherwise than tests/fault_site.py says: {', '.join(wrong)}.")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(print(e, file=sys.stderr) or 2)
