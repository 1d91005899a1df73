"""What docs/verdict.md promises, and whether simulated rates keep it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from designs import METRIC, Design
from rates import Row

BEYOND = 3.0  # standard errors


def several(design: Design) -> bool:
    """Return whether intervals cover what varies, and show it: not what collapses now and then."""
    return (max(design.seeds) > 1 or design.points == 0) and "collapsing" not in design.law


def one_noisy(design: Design) -> bool:
    """Return whether one entry's seeds vary far more than the others'."""
    return bool(design.times) and min(design.times[:1]) >= 5 * max(design.times[1:])


def one_tells(design: Design) -> bool:
    """Return whether what seeds vary by is known from one entry: one is far noisier, or only one has several seeds."""
    return several(design) and (one_noisy(design) or sum(count > 1 for count in design.seeds) == 1)


def one_tells_of_two_seeds(design: Design) -> bool:
    """Return whether one entry is far noisier, and each has two seeds: one difference of two runs says by how much."""
    return one_tells(design) and max(design.seeds) == 2


def one_seed(design: Design) -> bool:
    """Return whether each entry has one seed."""
    return max(design.seeds) == 1


def many_like_documents(design: Design) -> bool:
    """Return whether a score rests on enough documents of about equal weight, and on more than two seeds or on one."""
    weighty = design.rows == "1 to 3" and design.scores == "usual" and design.documents >= 100
    return weighty and "collapsing" not in design.law and (min(design.seeds) > 2 or max(design.seeds) == 1)


@dataclass(frozen=True)
class Promise:
    """What docs/verdict.md says of a rate: its least and highest value, and of which designs."""

    text: str
    key: str
    low: float
    high: float
    of: Callable[[Design], bool]

    def beyond(self, row: Row) -> float:
        """Return by how many standard errors a row's rate lies outside (negative: inside)."""
        share, error = row[self.key]
        sides = [self.low - share] * (self.low > 0) + [share - self.high] * (self.high < 1)
        return float(max(sides) / error)


PROMISES = (
    Promise("a score's interval holds the truth", "score", 0.93, 0.97, many_like_documents),
    Promise(
        "a difference's interval holds the truth",
        "difference",
        0.93,
        1,
        lambda d: several(d) and not one_tells_of_two_seeds(d),
    ),
    Promise("the same, one entry far noisier and two seeds of each", "difference", 0.9, 1, one_tells_of_two_seeds),
    Promise("an entry is called different from itself", "itself", 0, 0.05, several),
    Promise(
        "any pair of equal entries is called different", "family", 0, 0.05, lambda d: several(d) and not one_tells(d)
    ),
    Promise(
        "the same, one entry far noisier",
        "family",
        0,
        0.06,
        lambda d: one_tells(d) and len(d.seeds) > 2 and max(d.seeds) > 2,
    ),
    Promise(
        "the same, of two entries one far noisier or with one seed",
        "family",
        0,
        0.07,
        lambda d: one_tells(d) and len(d.seeds) == 2 and max(d.seeds) > 2,
    ),
    Promise(
        "the same, one entry far noisier and two seeds of each",
        "family",
        0,
        0.1,
        one_tells_of_two_seeds,
    ),
    Promise("any pair of equal entries is called different, another is ahead", "others", 0, 0.05, several),
    Promise("the best is among those that the verdict names", "kept", 0.95, 1, several),
    Promise("an entry counts as near the best that is farther off", "far", 0, 0.05, several),
    Promise("seeds in rounds: any wrong claim", "wrong", 0, 0.05, lambda d: len(d.seeds) >= 4),
    Promise("seeds in rounds: a pair's interval at its last look holds the truth", "covered", 0.93, 1, lambda d: True),
    Promise("3 to 5 seeds: final runs saved of five fixed", "saved", 0.2, 1, lambda d: True),
    Promise(
        "3 to 8 seeds: more right tie groups at one gap than five fixed, earlier test, where seeds vary most",
        "more",
        0.15,
        1,
        lambda d: d.documents >= 1000,
    ),
    Promise("on these tasks: any pair of equal entries is called different", "these", 0, 0.05, lambda d: True),
    Promise("on these tasks: a difference's interval holds the truth", "these_holds", 0.93, 1, lambda d: True),
    Promise("tasks like these: any pair of equal entries is called different", "like", 0, 0.05, lambda d: True),
    Promise("tasks like these: a difference's interval holds the truth", "like_holds", 0.93, 1, lambda d: True),
    Promise("the interval of one more task holds its difference", "new", 0.93, 1, lambda d: "heavy" not in d.law),
    Promise("tasting: the interval of people's labels alone holds the truth", "people_holds", 0.93, 1, one_seed),
    Promise("tasting: the interval of labels joined with a judge holds the truth", "joined_holds", 0.93, 1, bool),
    Promise("found at the printed gap, several seeds", "power", 0.65, 1, lambda d: min(d.seeds) > 2),
    Promise("same ties in a rerun, several seeds", "again", 0.93, 1, lambda d: min(d.seeds) > 2),
)


def named(row: Row) -> dict[str, str]:
    """Return what a design is, in words, by column."""
    design = design_of(row)
    if design.judge:
        labels, agrees, bias = design.judge
        return {
            "entries": "2", "seeds": numbers_of(design), "documents": str(design.documents), "metric": "",
            "effect": f"{design.points:g}", "labels": f"{labels:g}", "agrees": f"{agrees:g}", "bias": f"{bias:g}",
        }  # fmt: skip
    if design.grid[0]:
        law = ", heavy tails" if "heavy" in design.law else ", one entry x 4" if design.times else ""
        return {
            "entries": str(len(design.seeds)), "seeds": "", "documents": "", "metric": "",
            "tasks": str(design.grid[0]), "bases": str(design.grid[1]), "effect": f"{design.points:g}{law}",
        }  # fmt: skip
    effect = f"{design.points:g} points" if design.points else "none"
    effect += "".join(f", {law}" for law in dict.fromkeys(design.law) if law != "normal")
    if one_noisy(design):
        effect += f", one entry x {max(design.times) / min(design.times):g}"
    elif design.times:
        effect += f", x {min(design.times):g} to {max(design.times):g}"
    kind = {"rare": "exact match, 3 %", "heavy": "heavy loss"}.get(design.scores, row["metric"].removeprefix("test/"))
    rows = "" if design.rows == "1 to 3" else f", {design.rows} rows"
    words = {
        "entries": str(len(design.seeds)),
        "seeds": f"{design.looks[0]} to {design.looks[-1]}" if design.looks else numbers_of(design),
        "documents": f"{design.documents}{rows}",
        "effect": effect,
        "metric": kind,
        "gap": f"{100 * row['gap']:.1f} points" if row["metric"] == METRIC else f"{row['gap']:.3f}",
    }
    return words | ({"times": f"{row['times']:g} gaps"} if "times" in row else {})


def numbers_of(design: Design) -> str:
    """Return the number of seeds, or those of each entry."""
    return str(design.seeds[0]) if len(set(design.seeds)) == 1 else ", ".join(map(str, design.seeds))


def design_of(row: Row) -> Design:
    """Return the design of a row that may have been read from a file."""
    return Design(**{k: tuple(v) if isinstance(v, list) else v for k, v in row["design"].items()})


SHOWN = ("entries", "tasks", "bases", "labels", "agrees", "bias", "seeds", "documents", "effect", "metric")


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, ["---"] * len(columns), *rows))


def promises(rows: Sequence[Row]) -> str:
    """Return a line a promise: asked for, of how many rates, the worst of them, and whether it is held."""
    found = []
    for promise in PROMISES:
        among = [row for row in rows if promise.key in row and promise.of(design_of(row))]
        if not among:
            found.append((promise.text, "", "0", "", "", "not measured"))
            continue
        worst = max(among, key=promise.beyond)
        share, error = worst[promise.key]
        asked = [f"at least {100 * promise.low:g}"] * (promise.low > 0) + [f"at most {100 * promise.high:g}"] * (
            promise.high < 1
        )
        words = named(worst)
        where = "; ".join(f"{key}: {words[key]}" for key in SHOWN if words.get(key))
        held = "held" if promise.beyond(worst) <= BEYOND else "NOT HELD"
        cells = (promise.text, ", ".join(asked), f"{len(among)}", f"{100 * share:.1f} ({100 * error:.1f})", where, held)
        found.append(cells)
    return lines(("promise", "asked for, %", "rates", "the worst (standard error)", "its design", "held?"), found)
