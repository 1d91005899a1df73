"""Which method works with which family, found by testing."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import get_args

import torch

from bakeoff.compute.model.base import adapt, count_parameters, trainable
from bakeoff.compute.model.device import forked_random
from bakeoff.compute.run.checks import fingerprints, only_moved
from bakeoff.compute.training.gradient_reach import adapted_shape
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import start
from bakeoff.config.sections import ProtocolConfig
from bakeoff.errors import DivergedError, SetupError
from bakeoff.methods import build_method, method_class, method_names
from bakeoff.store.records import Quantize
from bakeoff.testing.families import FAMILIES, ROWS, family_base, family_shape

STEPS = 2  # LoRA's first factor moves in the second
PACKED = "qwen2"  # the family that is tried in few bits


Matrix = dict[str, dict[str, str | None]]


def capability_matrix(names: Sequence[str] = ()) -> Matrix:
    """Return, for each of these methods (none: all) and each family, None if it works, else why not.

    One family is also tried with a packed base.
    """
    packed = {f"{PACKED} {quantize}": quantize for quantize in get_args(Quantize)[1:]}
    return {
        name: {family: probe(name, family) for family in FAMILIES}
        | {heading: probe(name, PACKED, quantize) for heading, quantize in packed.items()}
        for name in names or method_names()
    }


def matrix_page(matrix: Matrix) -> str:
    """Return the matrix as Markdown: a table of yes and no, and below it every reason with its families."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    lines = [
        "# What works with which family",
        "",
        "`bakeoff methods --matrix` writes this table. For each cell it counts the parameters of a tiny random",
        f"model of the family from shapes, adapts the model and trains it for {STEPS} steps ({versions}).",
        f"The last two columns are for a base in fewer bits (`quantize`): {PACKED} in nf4 and in int8.",
        "",
        matrix_table(matrix),
    ]
    return "\n".join(lines)


def matrix_table(matrix: Matrix) -> str:
    """Return the table in Markdown, with the reasons below it."""
    families = list(next(iter(matrix.values())))
    lines = ["| method | " + " | ".join(families) + " |", "|---" * (len(families) + 1) + "|"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, cells in matrix.items():
        lines.append(f"| {name} | " + " | ".join("no" if reason else "yes" for reason in cells.values()) + " |")
        for family, reason in cells.items():
            if reason:
                reasons.setdefault((name, reason.removeprefix(f"{name}: ")), []).append(family)
    lines += ["", *(f"- {name}, not with {', '.join(at)}: {reason}" for (name, reason), at in reasons.items())]
    return "\n".join(lines)


def probe(name: str, family: str, quantize: Quantize = "none") -> str | None:
    """Return None if a method trains on a family's tiny model, else the reason that it gives for refusing.

    It works if it can be counted on the meta device, has the same count on the real model, takes two steps of the loop
    to finite losses, and changes all weights that it trains and no others. If one of these fails, the reason begins
    with "fails".
    """
    method = build_method(name, {"method": name, **method_class(name).tiny})
    quantize = method.quantize or quantize
    try:
        base = family_base(family, quantize)
        planned = count_parameters(adapted_shape(family_shape(family, quantize), method))
        with forked_random():
            torch.manual_seed(0)
            adapted = adapt(base, method)
            start(base, adapted, method, ROWS, len(ROWS))
            counted, before, trained = count_parameters(adapted), fingerprints(adapted), set(trainable(adapted))
            protocol = ProtocolConfig(epochs=STEPS + 1, batch_size=len(ROWS), warmup_share=0, precision="fp32")
            # Not to its end, where it would hold its best weights: two steps need not be better than none.
            Trainer(base, adapted, method, protocol, 0, lambda *_: None).train(ROWS, ROWS, STEPS)
    except SetupError as error:
        return str(error)
    except DivergedError as error:
        return f"fails: {error}"
    if counted != planned:
        return f"fails: {counted} parameters (trained, in all), {planned} planned"
    complaint = only_moved(before, fingerprints(adapted), trained, STEPS, method.may_stay_unchanged)
    return f"fails: {complaint}" if complaint else None
