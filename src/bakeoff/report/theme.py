"""The page's colours as CSS: light and dark, one variable per entry, and the rules that hide an entry or an axis."""

from bakeoff.report.charts.drawing import DARK, LIGHT, palette
from bakeoff.report.figures import Axes
from bakeoff.report.paper import rule, themed


def colours(selector: str, entries: int) -> str:
    """Return the variables under `selector`, dark where the reader's system is; printed, always light."""
    light = rule(selector, palette(LIGHT, entries), dark=False)
    return themed(light, rule(selector, palette(DARK, entries), dark=True))


def switches(entries: int, axes: Axes) -> str:
    """Return the rules that hide the entries switched off in figures, and figures of axes that are not chosen."""
    rules = [
        f"body:has(#entry-{i}:not(:checked)) main :is(.drawing :is([fill='var(--entry-{i})'], "
        f"[stroke='var(--entry-{i})']), [data-entry='{i}']) {{ display: none; }}"
        for i in range(entries)
    ]
    rules += [
        f".axes:not(:has(#quality-{quality}:checked):has(#cost-{cost}:checked)) "
        f"[data-axes='{quality} {cost}'] {{ display: none; }}"
        for quality, cost in axes.figures
    ]
    return "\n".join(rules) + "\n"
