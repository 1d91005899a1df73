"""The contract: what a method must do on every family of models that it supports.

It is for methods of other packages as well as for those that come with bakeoff.
"""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from bakeoff.compute.decoding.greedy import generate
from bakeoff.compute.model.base import Base, adapt, count_parameters, trainable
from bakeoff.compute.model.device import forked_random
from bakeoff.compute.model.merging import merge
from bakeoff.compute.run.checks import fingerprints, only_moved, shown
from bakeoff.compute.training.checkpoint import load_newest, save_checkpoint
from bakeoff.compute.training.loop import Trainer
from bakeoff.compute.training.loss import batch_of, evaluate_loss, mean_loss, start, target_losses
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.errors import SetupError
from bakeoff.methods import build_method, method_class
from bakeoff.methods.method import quiet_peft
from bakeoff.store.records import Quantize
from bakeoff.testing.chats import chat_base, chat_rows, chat_tokenizer
from bakeoff.testing.families import ROWS, family_base, family_shape

STEPS = 4
OUTPUT = 6  # tokens of an output at most: with a prompt's they are more than the families' sliding windows see
PROTOCOL = ProtocolConfig(epochs=STEPS, batch_size=len(ROWS), schedule="constant", warmup_share=0, precision="fp32")
SEED = 3
LARGEST_RATE = 0.05  # the methods' ranges go higher, which a few steps on random models need not bear
TOLERANCE = 1e-5  # relative, between batches of different shapes and between two ways to the same loss


class Cell:
    """A method on a family's tiny model, at the highest learning rate of its range.

    The model is stored as `quantize` says, or as the method has it. With a `style` it has a chat template, and its rows
    are conversations.
    """

    def __init__(
        self, method: str, family: str, settings: Mapping[str, Any], quantize: Quantize = "none",
        style: str | None = None,
    ):  # fmt: skip
        values = {**method_class(method).tiny, **settings}
        cls = method_class(method).specific(values, method)
        self.quantize: Quantize = cls.quantize or quantize
        high = cls.search_range.get("learning_rate", (0.0, LARGEST_RATE))[1]
        values = {"learning_rate": min(high, LARGEST_RATE), **values}
        self.method, self.family = build_method(method, {"method": method, **values}), family
        self.style, self.rows = style, ROWS if style is None else chat_rows(style)
        self.curve: list[float] = []  # validation losses of `trained`
        self.before: dict[str, int] = {}  # its fingerprints before the first step
        self.reached: set[str] = set()  # what a batch's loss has gradients for, before the first step
        self.halfway: tuple[str, bytes] | None = None  # the name and content of the checkpoint halfway in `trained`

    def base(self) -> Base:
        """Return a fresh base: the same at every call."""
        return family_base(self.family, self.quantize) if self.style is None else chat_base(self.style, self.family)

    def shape(self) -> PreTrainedModel:
        """Return the base as a plan sees it."""
        return family_shape(self.family, self.quantize, None if self.style is None else chat_tokenizer(self.style))

    def trainer(self) -> Trainer:
        """Return a trainer of the method on a fresh model: the same at every call."""
        base = self.base()
        torch.manual_seed(SEED)
        adapted = adapt(base, self.method)
        start(base, adapted, self.method, self.rows, len(self.rows))
        return Trainer(base, adapted, self.method, PROTOCOL, SEED, lambda kind, values: None)

    @cached_property
    def trained(self) -> Trainer:
        """The same trainer after its training."""

        def note(kind: str, values: dict[str, Any]) -> None:
            if kind == "metrics":
                self.curve.append(values["validation/loss"])

        trainer = self.trainer()
        trainer.report = note
        self.before = fingerprints(trainer.adapted)
        with forked_random():  # dropout draws numbers that a training which is resumed does not
            target_losses(trainer.base, trainer.adapted, batch_of(trainer.base, self.rows)).mean().backward()
        self.reached = {name for name, p in trainer.adapted.named_parameters() if p.grad is not None}
        trainer.adapted.zero_grad()
        trainer.keep = self.keep_halfway
        trainer.train(self.rows, self.rows)
        return trainer

    def keep_halfway(self, trainer: Trainer, validated: bool) -> None:
        """Keep the checkpoint that a training writes halfway."""
        if trainer.at.step == STEPS // 2:
            with TemporaryDirectory(prefix="bakeoff-") as temporary:
                save_checkpoint(Path(temporary), trainer, {})
                (file,) = Path(temporary).iterdir()
                self.halfway = file.name, file.read_bytes()

    @cached_property
    def losses(self) -> list[tuple[float, int]]:
        """The losses of the examples after `trained`, read in one batch."""
        return evaluate_loss(self.trained.base, self.trained.adapted, self.rows, len(self.rows))

    @cached_property
    def outputs(self) -> list[list[int]]:
        """What is written for the examples' prompts after `trained`, in one batch."""
        prompts = [row.prompt for row in self.rows]
        return generate(self.trained.base, self.trained.adapted, prompts, OUTPUT, len(prompts))

    @cached_property
    def planned(self) -> nn.Module | SetupError:
        """The base's shapes as the method adapts them, as in a plan, or why the method refuses this family."""
        try:
            with torch.device("meta"):
                return self.method.adapt(self.shape(), None)
        except SetupError as error:
            return error

    @property
    def refusal(self) -> str | None:
        """Why the method refuses this family, from shapes alone as in a plan; None if it does not."""
        return str(self.planned) if isinstance(self.planned, SetupError) else None


def trains_what_it_means_to(cell: Cell) -> None:
    """Gradients reach exactly the weights to train, and training changes exactly those."""
    trained = cell.trained
    differ = cell.reached ^ set(trained.weights)
    assert not differ, f"gradients and trained weights differ in {shown(differ)}"
    after, steps = fingerprints(trained.adapted), trained.at.best_step
    complaint = only_moved(cell.before, after, trained.weights, steps, cell.method.may_stay_unchanged)
    assert complaint is None, complaint


def leaves_the_base(cell: Cell) -> None:
    """If the method keeps its base, every base weight that is not trained in place stays the same, bit for bit."""
    if not cell.method.keeps_base:
        return
    there = set(fingerprints(cell.trained.adapted).values())
    gone = [name for name, mark in fingerprints(cell.method.prepared(cell.base().model)).items() if mark not in there]
    gone = [name for name in gone if name not in cell.trained.weights]
    assert not gone, f"weights of the base have changed: {shown(gone)}"


def lowers_the_loss(cell: Cell) -> None:
    """A few steps on one batch lower its loss."""
    best = cell.trained.at.best_loss
    assert best < cell.curve[0], f"the loss was {cell.curve[0]} before and {best} at best in {STEPS} steps"


def starts_as_it_says(cell: Cell) -> None:
    """If `starts_as_base` is set, the loss before the first step is that of the base, bit for bit."""
    if not cell.method.starts_as_base:
        return
    base = cell.base()
    plain = mean_loss(evaluate_loss(base, base.model, cell.rows, len(cell.rows)))
    first = cell.trained and cell.curve[0]
    assert first == plain, f"the loss is {first}, the base's {plain}: does not start as the base, though it says so"


def counts_as_planned(cell: Cell) -> None:
    """A plan, which sees shapes only, counts as many parameters as a run has."""
    assert isinstance(cell.planned, nn.Module), cell.refusal
    planned = count_parameters(cell.planned)
    counted = count_parameters(cell.trained.adapted)
    assert planned == counted, f"(trainable, total) parameters: {planned} planned, {counted} in a run"


def loads_as_it_was_saved(cell: Cell) -> None:
    """The saved adapter gives the same losses on a fresh base; if in PEFT's format, also when plain PEFT loads it."""
    adapted, losses = cell.trained.adapted, cell.losses
    with TemporaryDirectory(prefix="bakeoff-") as temporary:
        folder = Path(temporary)
        cell.method.save(adapted, folder)
        fresh = cell.base()
        loaded = cell.method.load(fresh.model, folder).requires_grad_(False).eval()
        assert_close(evaluate_loss(fresh, loaded, cell.rows, len(cell.rows)), losses, "when loaded")
        if (folder / "adapter_config.json").exists() and cell.method.keeps_base:
            from peft import PeftModel

            fresh = cell.base()
            with quiet_peft():
                plain = PeftModel.from_pretrained(cell.method.prepared(fresh.model), str(folder)).eval()
            assert_close([plain_loss(fresh, plain, row) for row in cell.rows], losses, "when loaded by PEFT")


@torch.no_grad()
def plain_loss(base: Base, adapted: nn.Module, row: Tokens) -> tuple[float, int]:
    """Return one example's loss the plain way: from the model's own forward pass of it alone, and all logits."""
    if base.decoder_start is None:
        inputs = {"input_ids": torch.tensor([row.prompt + row.target[:-1]])}
    else:
        inputs = {"input_ids": torch.tensor([row.prompt])}
        inputs["decoder_input_ids"] = torch.tensor([[base.decoder_start, *row.target[:-1]]])
    logits = adapted(**inputs, attention_mask=torch.ones_like(inputs["input_ids"])).logits[0, -len(row.target) :]
    trained = torch.tensor(row.trained)
    losses = cross_entropy(logits[trained], torch.tensor(row.target)[trained], reduction="sum")
    return float(losses), len(trained)


def goes_on_as_if_never_stopped(cell: Cell) -> None:
    """Training that stops halfway and resumes from its checkpoint in a fresh model ends with the same bits."""
    wanted = cell.trained.weights
    assert cell.halfway is not None, f"training has ended before step {STEPS // 2}"
    resumed, (name, content) = cell.trainer(), cell.halfway
    with TemporaryDirectory(prefix="bakeoff-") as temporary:
        (Path(temporary) / name).write_bytes(content)
        assert load_newest(Path(temporary), resumed) == {}, "its checkpoint cannot be resumed from"
    resumed.train(cell.rows, cell.rows)
    other = [n for n, w in trainable(resumed.adapted).items() if not torch.equal(w, wanted[n])]
    assert not other, f"weights differ from those of a training that never stopped: {shown(other)}"


def ignores_batch_mates(cell: Cell) -> None:
    """An example has the same loss and output alone as in a batch with longer and shorter ones."""
    base, adapted = cell.trained.base, cell.trained.adapted
    assert_close(cell.losses, evaluate_loss(base, adapted, cell.rows, 1), "in a batch")
    alone = generate(base, adapted, [row.prompt for row in cell.rows], OUTPUT, 1)
    assert cell.outputs == alone, f"outputs {cell.outputs} in a batch, {alone} alone"


def decodes_as_it_was_trained(cell: Cell) -> None:
    """If PEFT can add the trained weights to the base's matrices, losses and outputs stay as they were."""
    base, rows = cell.trained.base, cell.rows
    losses, written = cell.losses, cell.outputs
    adapted = deepcopy(cell.trained.adapted).eval()
    if merge(adapted):
        assert_close(evaluate_loss(base, adapted, rows, len(rows)), losses, "when merged")
        merged = generate(base, adapted, [row.prompt for row in rows], OUTPUT, len(rows))
        assert merged == written, f"outputs {merged} when merged, {written} before"


def assert_close(got: list[tuple[float, int]], want: list[tuple[float, int]], when: str) -> None:
    """Assert that the losses of examples are equal except for rounding."""
    for (loss, _), (wanted, _) in zip(got, want, strict=True):
        assert abs(loss - wanted) <= TOLERANCE * abs(wanted), f"an example's loss is {wanted}, and {loss} {when}"


CHECKS: dict[str, Callable[[Cell], None]] = {
    check.__name__: check
    for check in (
        trains_what_it_means_to, leaves_the_base, lowers_the_loss, starts_as_it_says, counts_as_planned,
        loads_as_it_was_saved, goes_on_as_if_never_stopped, ignores_batch_mates,
        decodes_as_it_was_trained,
    )
}  # fmt: skip


def check_method(
    method: str, family: str, settings: Mapping[str, Any] | None = None, checks: Iterable[str] = tuple(CHECKS),
    quantize: Quantize = "none", style: str | None = None,
) -> str | None:  # fmt: skip
    """Check a registered method on one family's tiny model; raise AssertionError if it breaks the contract.

    `settings` are fields of the method, added to its own `tiny` ones; `quantize` packs the model's matrices; with a
    `style` of chat template, rows are conversations. Returns None if all `checks` pass, or the reason why the method
    refuses the family. It must refuse it in a plan: from shapes, with a SetupError.
    """
    cell = Cell(method, family, settings or {}, quantize, style)
    if cell.refusal is not None:
        return cell.refusal
    for check in checks:
        CHECKS[check](cell)
    return None
