"""Faults of data sets, named before training starts."""
