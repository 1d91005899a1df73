"""The page's colours as CSS: light and dark, one variable per entry, and the rules that hide an entry or an axis."""

from bakeoff.report.charts.drawing import DARK, LIGHT, palette
from bakeoff.report.figures import Axes

PAPER = {
    "ink": ("#1b1f24", "#e8ebee"), "soft": ("#57606a", "#a3adb7"), "paper": ("#ffffff", "#14171a"),
    "panel": ("#f4f6f8", "#1e2327"), "line": ("#d8dee4", "#363e46"), "good": ("#e3f3ea", "#173a2a"),
    "bad": ("#b3261e", "#ff8a80"), "link": ("#0b5cad", "#7ab8f5"), "mark": ("#9cc9b3", "#3f7a5e"),
}  # fmt: skip


def colours(selector: str, entries: int) -> str:
    """Return the variables under `selector`, dark where the reader's system is; printed, always light."""
    light = variables(selector, entries, dark=False)
    dark = variables(selector, entries, dark=True)
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n"


def variables(selector: str, entries: int, dark: bool) -> str:
    """Return one theme's rule."""
    own = {f"--{name}": pair[dark] for name, pair in PAPER.items()} | palette(DARK if dark else LIGHT, entries)
    scheme = f"color-scheme: {'dark' if dark else 'light'}; "
    return f"{selector} {{ {scheme}" + " ".join(f"{name}: {value};" for name, value in own.items()) + " }"


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
