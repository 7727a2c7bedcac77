"""Encoder, decoders, targets and masks of the masked autoencoder, and what transfers add to the encoder."""
