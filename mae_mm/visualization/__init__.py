"""Pictures of what models see."""
