"""The colours of every page, light and dark."""

PAPER = {
    "ink": ("#1b1f24", "#e8ebee"), "soft": ("#57606a", "#a3adb7"), "paper": ("#ffffff", "#14171a"),
    "panel": ("#f4f6f8", "#1e2327"), "line": ("#d8dee4", "#363e46"), "good": ("#e3f3ea", "#173a2a"),
    "bad": ("#b3261e", "#ff8a80"), "link": ("#0b5cad", "#7ab8f5"), "mark": ("#9cc9b3", "#3f7a5e"),
}  # fmt: skip


def themed(light: str, dark: str) -> str:
    """Return two themes' rules: dark where the reader's system is; printed, always light."""
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n"


def rule(selector: str, colours: dict[str, str], dark: bool) -> str:
    """Return one theme's rule, with colours of its own besides the paper's."""
    own = {f"--{name}": pair[dark] for name, pair in PAPER.items()} | colours
    scheme = f"color-scheme: {'dark' if dark else 'light'}; "
    return f"{selector} {{ {scheme}" + " ".join(f"{name}: {value};" for name, value in own.items()) + " }"
