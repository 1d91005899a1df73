"""For whoever writes a method: tiny models of every family to try it on."""

from bakeoff.testing.families import FAMILIES, ROWS, family_base, family_config, family_shape

__all__ = ["FAMILIES", "ROWS", "family_base", "family_config", "family_shape"]
