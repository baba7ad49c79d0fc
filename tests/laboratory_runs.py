"Running a laboratory's specification by what its runs do."

from frames_matter.base.registry import resolve
from frames_matter.labs.registry import LABORATORIES
from frames_matter.study.runner import run


def run_of(spec, **options):
    "The record of a run of a laboratory."
    return run(spec, resolve(LABORATORIES[spec.phase].procedure), **options)
