"""How a training may end other than by finishing."""

import os
import platform
import sys
from pathlib import Path
from typing import NoReturn

EXIT_STOPPED = 3  # the run stopped itself and reported why: full disk, too many unreadable files, NaN
EXIT_PREEMPTED = 75  # stopped by a signal, checkpoint written: start it again (EX_TEMPFAIL of sysexits.h)


class TrainingStopped(RuntimeError):
    """A run stops itself; the message says why and what to do, so no traceback is printed."""


class UnreadableData(TrainingStopped):
    """So many images in a row cannot be read that the data must be missing; the weights so far are good."""


class RollBack(TrainingStopped):
    """A hook requests to return to the last good checkpoint, with another data order.

    Under a loop that cannot return it ends the run.
    """


def leave(code: int | str | None, message: str = '') -> NoReturn:
    """End the process with a code and a message on standard error.

    Both are also written for the scripts that start several processes, because torchrun ends with 1 for any code, and
    srun with the highest of all.
    """
    if message:
        print(message, file=sys.stderr)
    if code and (name := os.environ.get('MAE_MM_EXIT_FILE')):
        partial = Path(f'{name}.{platform.node()}.{os.getpid()}')  # others write it, too, and may be killed meanwhile
        partial.write_text('\n'.join([str(code), message]), errors='backslashreplace')
        partial.replace(name)
    raise SystemExit(code)
