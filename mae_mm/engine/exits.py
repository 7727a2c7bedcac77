"""How a command ends: a user's mistake with one line, a bug with its traceback, and the exit code for each."""

import atexit
import errno
import logging
import os
import pickle
import sys
import traceback
from collections.abc import Callable

import torch

from mae_mm.checkpoint.files import refusal
from mae_mm.engine.loops.batches import end_workers
from mae_mm.stopping import EXIT_STOPPED, TrainingStopped, leave

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, in the quota, under `ulimit -f`


def exit_on_user_error(main: Callable[[], None]) -> None:
    """Run `main`; a user's mistake ends with its message alone and exit code 2, Ctrl-C with a hint and 130.

    Mistakes are ValueError, FileNotFoundError, and what constructors and registries do not know. A training that stops
    itself (`TrainingStopped`), or a disk that is full, ends with its message and code 3. `MAE_MM_DEBUG=1` in the
    environment prints the traceback, too.
    """
    logging.raiseExceptions = False  # a line that a full disk does not take would print a traceback of its own
    try:
        main()
        leave_group()
        return
    except TrainingStopped as reason:
        _debug()
        code, message = EXIT_STOPPED, f'stopped: {_own_words(reason)}'
    except SystemExit as stop:
        code, message = stop.code, ''
    except KeyboardInterrupt:
        code, message = 130, 'stopped; the same command with --resume goes on from the newest checkpoint'
    except (ValueError, FileNotFoundError, FileExistsError, TypeError) as error:
        if isinstance(error, TypeError) and 'unexpected keyword argument' not in str(error):
            raise
        _debug()
        code, message = 2, f'error: {_own_words(error)}'
    except (KeyError, pickle.UnpicklingError) as error:
        text = refusal('the file', error) if isinstance(error, pickle.UnpicklingError) else error.args[0]
        if text is None or (isinstance(error, KeyError) and 'registry' not in str(text)):
            raise
        _debug()
        code, message = 2, f'error: {text}'
    except OSError as error:
        if error.errno not in FULL and not isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
            raise
        _debug()
        code, message = 2, f'error: {error}'
        if error.errno in FULL:
            code, message = EXIT_STOPPED, (
                f'stopped: {error}. Make room; the checkpoints written before are intact, and the same command with '
                '--resume goes on from the newest')
    end_workers()
    leave(code, message)


def _own_words(error: Exception) -> str:
    """The message; a loader's worker sends its whole traceback as one, which ends with 'TYPE: message'."""
    text = str(error)
    if 'Traceback (most recent call last)' in text:
        text = text.strip().splitlines()[-1].partition(': ')[2]
    return text


def _debug() -> None:
    if os.environ.get('MAE_MM_DEBUG'):
        traceback.print_exc()


def leave_group() -> None:
    """End a process of several, after a run that went well, without the destructors of its threads and connections.

    Now and then one of them aborts such a process ("terminate called without an active exception", gloo, torch 2.11):
    at the interpreter's end, and after `destroy_process_group` more often still. What Python registered is done.
    """
    if torch.distributed.is_initialized():
        end_workers()
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
