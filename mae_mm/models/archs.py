"""Published sizes of the ViT."""

ARCHS = {
    'tiny': dict(embed_dim=192, depth=12, num_heads=3),
    'small': dict(embed_dim=384, depth=12, num_heads=6),
    'base': dict(embed_dim=768, depth=12, num_heads=12),
    'large': dict(embed_dim=1024, depth=24, num_heads=16),
    'huge': dict(embed_dim=1280, depth=32, num_heads=16),
}


def read_arch(arch: str | dict) -> dict:
    """The sizes of a named architecture, or those given: embed_dim, depth, num_heads; mlp_ratio where it is not 4."""
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(
                f'arch={arch!r} must be one of {", ".join(ARCHS)}, or dict(embed_dim=, depth=, num_heads=)')
        return ARCHS[arch]
    if set(arch) - {'mlp_ratio'} != {'embed_dim', 'depth', 'num_heads'}:
        raise ValueError(f'arch={dict(arch)} must have embed_dim, depth and num_heads, and may have mlp_ratio')
    if arch['embed_dim'] % arch['num_heads']:
        raise ValueError(f'arch={dict(arch)}: embed_dim must be a multiple of num_heads')
    return arch


def last_of_quarters(depth: int) -> set[int]:
    """The last block of each quarter: where ViTDet's windows meet, and where MAE taps the ViT for detection."""
    return {depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)} - {-1}
