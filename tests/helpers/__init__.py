"""What several test files share: tiny models, data and runs."""

import socket
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that no process of this machine listens on."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def open_to_all(folder: Path) -> None:
    """Let other users into a folder of pytest's, which only root may enter otherwise."""
    for one in (folder, *folder.parents):
        if one.name.startswith(('test_', 'popen-', 'pytest-')):
            one.chmod(0o755)
