"""Does pre-training help? Comparisons with training from random weights, ablations, and their reports.

A *protocol* is one way to use a checkpoint, for example fine-tuning. A *suite* is a set of protocols with the same task
and metrics. A *run* is one training of a protocol, from one start (random weights or a checkpoint), with one seed. A
*table* is a set of ablations; a *row* is one of them, a pre-training and its transfers; a *stage* is one training of a
row. A *job* is any of these trainings, as `jobs` makes it in a process of its own.
"""
