"""Temporary."""

import json
from pathlib import Path

from bakeoff.records import Folder, write_text
from bakeoff.report.table import markdown_table


def write_report(folder: str | Path) -> Path:
    """t"""
    f = Folder(folder)
    write_text(f.report_file, "<html>" + "x" * 1000 + markdown_table(json.loads(f.results_file.read_text())))
    return f.report_file
