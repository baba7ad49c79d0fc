"How a benchmark of this folder ends; none itself, as its name says."

import sys
from collections.abc import Callable

from frames_matter.base.errors import UserError


def run_script(main: Callable[..., None], *arguments: object) -> None:
    "Run a benchmark: what it finds wanting is one line on the standard error, and exit code 2."
    try:
        main(*arguments)
    except UserError as e:
        print(e, file=sys.stderr)
        sys.exit(2)
