"""Sizes of the tiny models: 32 px, patches of 8, width 32, depth 2."""

ENCODER = dict(arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8)
DECODER = dict(embed_dim=16, depth=1, num_heads=2)
