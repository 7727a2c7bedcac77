"""Measurements against peers: interleaved in one process, medians, with the environment beside them."""
