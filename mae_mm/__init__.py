"""Masked-autoencoder pre-training of a plain ViT, and its transfer, as an OpenMMLab plugin."""

__version__ = '0.2.0'
