"""What all charts share: colours, shapes, the drawing, and the files of a figure.

Colours are CSS variables of the page, so one drawing serves light and dark mode, and one rule on a variable hides an
entry. Each entry also has its own shape and a label, so that nothing depends on colour alone.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from bakeoff.analysis.table import csv_safe
from bakeoff.errors import printable

Point = dict[str, Any]
TIP = alt.Description("tip:N")  # what a mark says where it is pointed at
INK = "currentColor"
SOFT = "var(--soft)"
# Okabe and Ito's hues and three more, dark enough for a white page, light enough for a dark one. Tests hold the first
# seven apart for the three kinds of colour blindness.
LIGHT = ("#0068ad", "#d55e00", "#0a8f4f", "#c85fa5", "#6b4e00", "#33393f", "#5aa9e6", "#7a1f3d")
DARK = ("#56b4e9", "#ff8c42", "#2fd0a5", "#e39ac6", "#f0e442", "#d3d9df", "#3f7fd6", "#d0697f")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
FINE = re.compile(r"-?\d+\.\d{2,}(e-\d+)?")
BEYOND_16_BITS = re.compile("[\U00010000-\U0010ffff]")  # Vega cuts a long label between the halves of one, and fails
FONT = "system-ui, sans-serif"

CONFIG = {
    "background": "transparent", "font": FONT, "view": {"stroke": None},
    "axis": {
        "labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK, "gridColor": INK,
        "gridOpacity": 0.1, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal",
        "domainOpacity": 0.4, "tickOpacity": 0.4, "labelOpacity": 0.8, "aria": False,
    },
    "legend": {"labelColor": INK, "labelFontSize": 12, "aria": False},
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One figure: `name` for its files, `title`, `label` (a description for those who cannot see it), SVG, data.

    `entry` is the number of its entry, if it is about one; `notes` are lines below it. `drawn` are the rows in the
    page, if it cannot have all.
    """

    name: str
    title: str
    label: str
    svg: str
    rows: list[Point]
    entry: int | None = None
    notes: tuple[str, ...] = ()
    drawn: list[Point] | None = None

    @property
    def csv(self) -> str:
        """The data as CSV in full precision."""
        return csv_of(self.rows)

    @property
    def short_csv(self) -> str:
        """The part of the data that is in the page, as CSV."""
        return csv_of(self.rows if self.drawn is None else self.drawn)

    @property
    def file(self) -> str:
        """The SVG as a separate file: on white paper, with colours in place of the page's variables."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" style="background:#ffffff" font-family="{FONT}"'
        return on_paper(re.sub(r'^<svg( viewBox="[^"]*")?[^>]*>', rf"{head}\1>", self.svg))


def safe_name(text: str) -> str:
    """Return a name as a part of a file name: letters and digits without accents, dashes for everything else."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text)[:40] or "-"


def csv_of(rows: list[Point]) -> str:
    """Return rows as CSV with all their keys; texts pass through `csv_safe`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_safe(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def hue(number: int) -> str:
    """Return the colour of the entry with this number, from 0."""
    return f"var(--entry-{number})"


def palette(theme: tuple[str, ...], count: int) -> dict[str, str]:
    """Return the colour of each of `count` entries as CSS variables; after the last colour they repeat."""
    return {f"--entry-{i}": theme[i % len(theme)] for i in range(count)}


def on_paper(svg: str) -> str:
    """Return the SVG with the light page's colours instead of variables."""
    return coloured(svg, {"currentColor": "#1b1f24", "var(--soft)": "#57606a", "var(--paper)": "#ffffff"})


def on_any(svg: str) -> str:
    """Return the SVG for a page that has no variables and may be light or dark: ink has the text's colour."""
    return coloured(svg, {"var(--soft)": "#7a848e", "var(--paper)": "#7a848e"})


def coloured(svg: str, colours: dict[str, str]) -> str:
    """Return the SVG with `colours`, and with entries' colours, in place of their placeholders."""
    svg = re.sub(r"var\(--entry-(\d+)\)", lambda m: LIGHT[int(m[1]) % len(LIGHT)], svg)
    for name, colour in {**colours, "var(--bad)": "#b3261e"}.items():
        svg = svg.replace(name, colour)
    return svg


def colors(names: list[str]) -> alt.Color:
    """Return one colour per entry, the same in every chart."""
    domain = alt.Scale(domain=names, range=[hue(i) for i in range(len(names))])
    return alt.Color("entry:N", scale=domain, legend=None)


def shapes(names: list[str]) -> alt.Shape:
    """Return one shape per entry, the same in every chart."""
    domain = alt.Scale(domain=names, range=[SHAPES[i % len(SHAPES)] for i in range(len(names))])
    return alt.Shape("entry:N", scale=domain, legend=None)


def data(name: str) -> alt.Chart:
    """Return a chart over the rows that `draw` receives under this name.

    Rows are kept out of it, because Altair copies and checks everything in a chart at every step. A channel is an
    object: if it is a string, Altair hashes its whole schema.
    """
    return alt.Chart(alt.NamedData(name))


def rounded(number: re.Match[str]) -> str:
    """Return a coordinate to a tenth of a pixel."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


def heading(title: str, note: str = "", bad: bool = False) -> alt.TitleParams:
    """Return a panel's title, with a note below it; a bad one is coloured."""
    below = {"subtitle": note, "subtitleColor": "var(--bad)" if bad else SOFT, "subtitleFontSize": 11} if note else {}
    return alt.TitleParams(title, color=INK, anchor="start", frame="group", aria=False, fontSize=13, offset=8, **below)


def draw(
    layers: Sequence[alt.Chart],
    rows: dict[str, list[Point]],
    size: tuple[int, int | dict[str, int]],
    title: alt.TitleParams | None = None,
    names: Sequence[str] = (),
) -> str:
    """Return a chart of `layers` over `rows` as a small SVG element; the page's figure has background and label.

    `size` is its width and its height, or the height of each row as {"step": pixels}. `names` are those left of the
    axis: a reader's font may be wider than the one that Vega measured them with.
    """
    room = {"left": 5 + max([1.2 * len(name) for name in names], default=0), "right": 14, "top": 5, "bottom": 5}
    # Altair's own way to layer, size and configure charts copies all of them at each step.
    spec = {
        "$schema": alt.SCHEMA_URL,
        "layer": [layer.to_dict(validate=False, context={"top_level": False}) for layer in layers],
        "width": size[0],
        "height": size[1],
        "datasets": rows,
        "config": CONFIG | {"padding": room},
    }
    if title is not None:
        spec["title"] = title.to_dict(validate=False)
    return lean(vl_convert.vegalite_to_svg(json.dumps(shown(spec))))


def shown(value: Any) -> Any:
    """Return a chart's values with every text printable: control characters make the chart library end the process."""
    if isinstance(value, str):
        return BEYOND_16_BITS.sub("\ufffd", printable(value))
    if isinstance(value, dict):
        return {key: shown(inner) for key, inner in value.items()}
    return [shown(inner) for inner in value] if isinstance(value, list | tuple) else value


def lean(svg: str) -> str:
    """Return Vega's SVG without what only Vega's runtime needs; the labels of marks become data-tip."""
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()  # type: ignore[union-attr]
    svg = re.sub(r'<path (class="background"|class="foreground")[^>]*/>', "", svg)
    svg = re.sub(r' (class|role|aria-roledescription|aria-hidden|pointer-events|font-family)="[^"]*"', "", svg)
    svg = re.sub(r' opacity="1"', "", svg)
    # Clipping cuts nothing here, and its ids, counted over a process, would be other ones in the next report.
    svg = re.sub(r'<defs>.*?</defs>| clip-path="[^"]*"', "", svg, flags=re.DOTALL)
    svg = re.sub(r' (transform|d|[xy][12]?|width|height)="[^"]*"', lambda m: FINE.sub(rounded, m[0]), svg)
    svg = svg.replace(' aria-label="', ' data-tip="').replace("<g></g>", "")
    head = f'<svg viewBox="0 0 {width} {height}" style="--width:{width}px" aria-hidden="true">'
    return re.sub(r"^<svg [^>]*>", head, svg)
