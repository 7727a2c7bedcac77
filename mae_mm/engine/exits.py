"""How a command ends: the exit code, with one line for a user's mistake and a traceback for a bug."""

import atexit
import errno
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable

import torch
from tqdm import tqdm

from mae_mm.checkpoint.files import refusal
from mae_mm.engine.loops.batches import end_workers
from mae_mm.paths import as_installed
from mae_mm.stopping import EXIT_STOPPED, TrainingStopped, leave

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in the quota, under `ulimit -f`
MISTAKES = (ValueError, FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)


def exit_on_user_error(main: Callable[[], None], again: str = 'the same command with --resume continues') -> None:
    """Run `main`; a user's mistake ends with its message (MAE_MM_DEBUG=1: and traceback) and code 2, a stop with 3.

    `again` says how to continue after a stop.
    """
    logging.raiseExceptions = False  # a log line that a full disk does not take would print a traceback of its own
    try:
        main()
        leave_group()
        return
    except SystemExit as stop:
        code, message = stop.code, ''
    except KeyboardInterrupt:
        code, message = 130, f'stopped; {again}'
    except Exception as error:
        code, message = _ending(error, again)
        if code is None:
            raise
        if os.environ.get('MAE_MM_DEBUG'):
            traceback.print_exc()
    end_workers()
    for bar in list(getattr(tqdm, '_instances', ())):
        bar.close()  # the message gets a line of its own
    leave(code, as_installed(message))


def _ending(error: Exception, again: str) -> tuple[int | None, str]:
    """Exit code and message of an error; None for a bug."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if 'Traceback (most recent call last)' in text:  # of a loader's worker; it ends with 'TYPE: message'
        text = text.strip().splitlines()[-1].partition(': ')[2]
    if isinstance(error, TrainingStopped):
        return EXIT_STOPPED, f'stopped: {text}'
    if isinstance(error, OSError) and error.errno in FULL:
        return EXIT_STOPPED, f'stopped: {text}. Make room; {again}'
    if isinstance(error, pickle.UnpicklingError) and (refused := refusal('the file', error)):
        return 2, f'error: {refused}'
    mistake = isinstance(error, MISTAKES) or (isinstance(error, KeyError) and 'registry' in text) or (
        isinstance(error, TypeError) and 'unexpected keyword argument' in text)
    return (2, f'error: {text}') if mistake else (None, '')


def leave_group() -> None:
    """End one of several processes after success without destructors, of which gloo's may abort it (torch 2.11)."""
    if torch.distributed.is_initialized():
        end_workers()
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
