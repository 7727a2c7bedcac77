"""What an encoder is worth without training it: k-NN, metrics, robustness."""
