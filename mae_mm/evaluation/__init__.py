"""Evaluation: k-NN of frozen features, reconstruction metrics, robustness."""
