"""How a training may end, other than well."""

import os
import sys
from pathlib import Path
from typing import NoReturn

EXIT_STOPPED = 3  # the run stopped itself and said why: a full disk, too many unreadable files, numbers not finite
EXIT_PREEMPTED = 75  # asked to stop by a signal, checkpoint written: start it again (EX_TEMPFAIL of sysexits.h)


class TrainingStopped(RuntimeError):
    """A run that stops itself; the message says why and what to do, and needs no traceback."""


class UnreadableData(TrainingStopped):
    """So many images in a row cannot be read that the data must be gone; what was trained so far is good."""


class RollBack(TrainingStopped):
    """Raised by a hook inside an iteration: the loop goes back to the last good checkpoint, with another data order.

    Under a loop that cannot go back it ends the run.
    """


def leave(code: int | str | None, message: str = '') -> NoReturn:
    """End the process with a code and a message on standard error.

    Both go to `tools/dist_train.sh`, too: torchrun would tell it 1 for any code, and prints its own report below.
    """
    if message:
        print(message, file=sys.stderr)
    if code and os.environ.get('MAE_MM_EXIT_FILE'):
        Path(os.environ['MAE_MM_EXIT_FILE']).write_text('\n'.join([str(code), message]), errors='backslashreplace')
    raise SystemExit(code)
