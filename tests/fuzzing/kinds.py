"Every kind of input, by name, and the corpus that they spoil."

import json
import os
import shutil
from pathlib import Path
from unittest import mock

from frames_matter.base.files import project_root
from frames_matter.data.build import build_dataset
from frames_matter.data.own import register_own

from . import arrays, checkpoints, films, folders, records, tables

KINDS = {
    kind.__name__: kind
    for kind in (
        films.damaged_film,
        films.other_header,
        films.disguised_list,
        films.built_folder,
        tables.own_table,
        tables.internvid_lines,
        tables.internvid_parquet,
        tables.manifest,
        folders.folder,
        folders.tar,
        checkpoints.checkpoint_file,
        checkpoints.pickle_file,
        checkpoints.merges_file,
        records.profile,
        records.override,
        records.runs,
        records.ledger,
        records.export,
        arrays.captions,
        arrays.metrics,
        arrays.losses,
        arrays.frames,
        arrays.comparisons,
    )
}


def make_corpus(folder: Path) -> None:
    "Films in many containers, a home in which five of them were built as `mine`, and records of finished runs."
    films.make_films(folder / "films")
    given, home = folder / "given", folder / "home"
    given.mkdir()
    for n, name in enumerate(films.GOOD):
        shutil.copy(folder / "films" / name, given / f"good{n}{Path(name).suffix}")
        (given / f"good{n}.txt").write_text(f"Good film {n}.")
    runs = (project_root() / "results" / "mini" / "runs.jsonl").read_bytes().splitlines(keepends=True)
    of_phases = {json.loads(line)["spec"]["phase"]: [] for line in runs}
    for line in runs:
        of_phases[json.loads(line)["spec"]["phase"]].append(line)
    (folder / "runs.jsonl").write_bytes(b"".join(line for lines in of_phases.values() for line in lines[:5]))
    with mock.patch.dict(os.environ, FRAMES_MATTER_HOME=str(home)):
        build_dataset(register_own(given, name="mine", like="smoke"), progress=False)
