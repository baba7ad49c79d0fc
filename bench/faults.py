"""Every fault that tests/fault_site.py can inject, injected: how each was to end, and how it ended.

    frames-matter bench faults

Each row goes through fetching, cutting and checking, from a site on loopback that misbehaves for real; waits are short, all else is as in a build. Rows that name no video or no possible
time go through the selection. The command fails if any ends otherwise than the table says.
"""
import json, platform, sys, tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pandas as pd

from frames_matter.core import UserError, atomic_write, find_ffmpeg, get_profile, project_root
from frames_matter.dataset import check_clip, cut_clip
from frames_matter.fetch import Hosts, fetch_source
from frames_matter.select import Rejected, select_rows

sys.path.insert(0, str(project_root()/"tests"))
from fault_site import FAULTS, MANNERS, SPAN, make_films, rows, serve_faults

def end_of(name, site, folder): # -> kept or rejected, kind of failure, attempts, reason
    "What becomes of a row whose video has a fault."
    attempts = None
    try:
        got = fetch_source(name, site.address(name), [SPAN], folder, MANNERS, Hosts())
        attempts, (start, end) = got.attempts, (t - got.offset for t in SPAN)
        check_clip(cut_clip(got.path, folder/"clips"/f"{name}.mp4", start, end), start, end)
        return dict(ended="kept", kind="", attempts=attempts, reason="")
    except Rejected as e: return dict(ended="rejected", kind=getattr(e, "kind", ""), attempts=attempts or e.attempts, reason=str(e))

def as_told(name, end):
    "Whether a fault ended as it must."
    fault = FAULTS[name]
    return end["ended"] == fault.ends and end["kind"] == fault.kind and fault.word in end["reason"] and end["attempts"] == (fault.attempts or MANNERS.attempts)

def main():
    with tempfile.TemporaryDirectory() as folder, serve_faults(make_films(Path(folder)/"films")) as site:
        ends = {name: end_of(name, site, Path(folder)/"sources") for name in FAULTS}
    table = [dict(fault=name, site=FAULTS[name].what, must=FAULTS[name].ends, **end) for name, end in ends.items()]
    bad, words = zip(*rows())
    chosen = select_rows(pd.DataFrame(bad), get_profile("smoke"))
    told = [dict(row=" ".join([ascii(r["YoutubeID"])[:40], r["Start_timestamp"], r["End_timestamp"]]), ended=s or "taken", reason=why) for r, s, why in zip(bad, chosen.status, chosen.reason)]
    record = {"command": "frames-matter bench faults", "what": f"{len(table)} faults of a site or its files and {sum(map(bool, words))} impossible rows, injected on loopback", "manners": asdict(MANNERS), "faults": table, "rows": told,
              "versions": {"python": platform.python_version(), "yt-dlp": metadata.version("yt-dlp"), "ffmpeg": Path(find_ffmpeg()).name}}
    atomic_write(project_root()/"results"/"bench"/"faults.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for row in table: print(f"{row['fault']:10} {row['site']:48} {row['ended']:9} {row['kind']:12} {row['attempts']:2} {row['reason']}")
    print(f"{sum(r['ended'] == 'rejected' for r in told)} of {sum(map(bool, words))} impossible rows rejected.")
    wrong = [name for name, end in ends.items() if not as_told(name, end)] + [r["row"] for r, word in zip(told, words) if r["ended"] != ("rejected" if word else "taken") or word not in r["reason"]]
    if wrong: raise UserError(f"Ended otherwise than tests/fault_site.py says: {', '.join(wrong)}.")

if __name__ == "__main__":
    try: main()
    except UserError as e: sys.exit(print(e, file=sys.stderr) or 2)
