"""What runs when somebody types ``vistune``."""

from __future__ import annotations

import logging
import signal
import sys
from typing import NoReturn

from vistune.cli import data, models, scores, use  # each adds its commands, in the order of --help
from vistune.cli.app import app
from vistune.errors import VistuneError

COMMANDS = (data, models, scores, use)
USAGE_ERROR, INTERRUPTED = 2, 130


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill, by a name that the command-line library does not make an exit of its own."""


def _interrupt(*_: object) -> NoReturn:
    raise _Interrupted


def hush() -> None:
    """Silence what torchao says when it is imported, which transformers does: what this machine cannot load,
    and what is deprecated. Nobody who trains or serves can mend either."""
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def main() -> NoReturn:
    """Run the command line; what the user can mend is told without a traceback."""
    hush()
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except VistuneError as error:
        print(f"vistune: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    except _Interrupted:
        print("vistune: interrupted; finished steps are kept, the same command goes on.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)
