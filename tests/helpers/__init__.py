"""What several test files share: tiny models, data and runs."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
