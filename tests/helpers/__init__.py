"""What several test files share: tiny models, data and runs."""

import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that no process of this machine listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]
