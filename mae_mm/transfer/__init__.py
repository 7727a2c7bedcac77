"""Does pre-training help? Suites, runs, comparisons, ablations and their reports."""
