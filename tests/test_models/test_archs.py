from mae_mm.models.archs import last_of_quarters


def test_quarters_are_the_published_global_blocks() -> None:
    """ViTDet: B, L and H (arXiv:2203.16527, section 4)."""
    assert last_of_quarters(12) == {2, 5, 8, 11}
    assert last_of_quarters(24) == {5, 11, 17, 23}
    assert last_of_quarters(32) == {7, 15, 23, 31}
