"""Exports a trained entry for other programs; exports are read back, scored and described. It loads no torch."""

from bakeoff.export.export import Export, export_run
from bakeoff.export.options import TARGETS, Options

__all__ = ["TARGETS", "Export", "Options", "export_run"]
