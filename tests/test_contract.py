"""Every registered method is held to the contract, and the contract finds what is wrong with a method.

Each method is tried on two families, a causal one and an encoder-decoder; which two goes round, so that every family
has its turn with several methods. With BAKEOFF_FUZZ it is every method on every family.
"""

import re
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from peft.tuners.lora import LoraLayer

from bakeoff.errors import SetupError
from bakeoff.methods import method, method_names, register
from bakeoff.methods.last_layers import LastLayers
from bakeoff.methods.lora import Lora
from bakeoff.methods.soft_prompts import PromptTuning
from bakeoff.testing import CHECKS, FAMILIES, check_method
from tests.conftest import HEAVY

PAGE = Path(__file__).parent.parent / "docs/matrix.md"
WITH_ENCODER = ("t5", "flan_t5", "bart", "pegasus")
CAUSAL = tuple(family for family in FAMILIES if family not in WITH_ENCODER)
# One of each kind: transposed weights, queries with keys and values, shared heads, biases, encoders, scaled words.
KINDS = FAMILIES if HEAVY else ("gpt2", "gpt_neox", "llama", "qwen2", "t5", "pegasus")


def cells():
    """The cells to be run: two of each method, or all."""
    names = method_names()
    if HEAVY:
        return [(name, family) for name in names for family in FAMILIES]
    pairs = [(CAUSAL[i % len(CAUSAL)], WITH_ENCODER[i % len(WITH_ENCODER)]) for i in range(len(names))]
    return [(name, family) for name, pair in zip(names, pairs, strict=True) for family in pair]


@cache
def refusals():
    """For each method and family None where the page says yes, else the reason that the page gives."""
    page = PAGE.read_text().partition("## Further architectures")[0]
    head, *rows = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| "))
    reasons = {
        (name, family): f"{name}: {reason}"
        for name, families, reason in re.findall(r"^- (\S+), not with ([^:]+): (.+)$", page, re.MULTILINE)
        for family in families.split(", ")
    }
    answers = {(row[0], family): answer for row in rows for family, answer in zip(head[1:], row[1:], strict=True)}
    assert set(answers.values()) == {"yes", "no"}
    assert {cell for cell, answer in answers.items() if answer == "no"} == set(reasons)
    return {cell: reasons.get(cell) for cell in answers}


@pytest.mark.parametrize(("name", "family"), cells())
def test_every_method_keeps_the_contract(name, family):
    assert check_method(name, family) == refusals()[name, family]


def test_every_family_has_its_turn():
    tried = cells()
    assert {name for name, _ in tried} == {*method_names()}
    assert {family for _, family in tried} == {*FAMILIES}
    works = [cell for cell in tried if refusals()[cell] is None]
    assert len(works) > 0.8 * len(tried)


@pytest.mark.parametrize("name", method_names())
def test_a_method_refuses_the_families_that_the_page_says_and_no_other(name):
    said = {family: refusals()[name, family] for family in FAMILIES}
    tried = [family for family in FAMILIES if family in KINDS or said[family]]
    assert {f: check_method(name, f, checks=()) for f in tried} == {f: said[f] for f in tried}


class RefusesAll(PromptTuning):
    def adapt(self, model, tokenizer):
        raise SetupError(f"{type(model).__name__} is not for me")


def test_a_method_that_begins_to_refuse_everything_is_found(monkeypatch):
    monkeypatch.setattr(method, "_REGISTER", {**method._REGISTER})
    monkeypatch.delitem(method._REGISTER, "prompt_tuning")
    register("prompt_tuning")(RefusesAll)
    with pytest.raises(AssertionError):
        test_every_method_keeps_the_contract("prompt_tuning", "gpt2")
    with pytest.raises(AssertionError):
        test_a_method_refuses_the_families_that_the_page_says_and_no_other("prompt_tuning")


class MovesMore(LastLayers):
    def after_step(self, adapted, step, steps):
        with torch.no_grad():
            next(iter(adapted.parameters())).add_(1e-3)


class TrainsNothingOfTheHead(LastLayers):
    def adapt(self, model, tokenizer):
        adapted = super().adapt(model, tokenizer)
        adapted.get_output_embeddings().weight.register_hook(torch.zeros_like)
        return adapted


class ChangesTheBase(PromptTuning):
    def adapt(self, model, tokenizer):
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.001)
        return super().adapt(model, tokenizer)


class ClaimsTooMuch(PromptTuning):
    starts_as_base: ClassVar[bool] = True


class CountsMore(PromptTuning):
    def adapt(self, model, tokenizer):
        adapted = super().adapt(model, tokenizer)
        if tokenizer is not None:
            adapted.prompt_encoder.register_parameter("more", torch.nn.Parameter(torch.zeros(3)))
        return adapted


class SavesAnotherPrompt(PromptTuning):
    def save(self, adapted, folder):
        with torch.no_grad():
            adapted.prompt_encoder["default"].embedding.weight.mul_(3.0)
        super().save(adapted, folder)


class GathersAndForgets(PromptTuning):
    memory: ClassVar[list[int]] = []

    def after_step(self, adapted, step, steps):
        self.memory.append(step)
        with torch.no_grad():
            adapted.prompt_encoder["default"].embedding.weight.add_(1e-3 * len(self.memory))


class Climbs(PromptTuning):
    def before_step(self, adapted):
        for parameter in adapted.parameters():
            if parameter.grad is not None:
                parameter.grad.neg_()


class LooksAtTheBatch(PromptTuning):
    def adapt(self, model, tokenizer):
        model.get_input_embeddings().register_forward_hook(lambda _, ids, out: out * (1 + 0.1 * (len(ids[0]) > 1)))
        return super().adapt(model, tokenizer)


class MergesTwice(Lora):
    def adapt(self, model, tokenizer):
        def twice(adapted):
            adapted.base_model.merge_adapter()
            for layer in adapted.modules():
                if isinstance(layer, LoraLayer):
                    layer.get_base_layer().weight.data += layer.get_delta_weight("default")

        adapted = super().adapt(model, tokenizer)
        adapted.__class__ = type("Twice", (type(adapted),), {"merge_adapter": twice})
        return adapted


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (MovesMore, "trains_what_it_means_to", "should not be trained, but changed"),
        (TrainsNothingOfTheHead, "trains_what_it_means_to", "but never changed: lm_head.weight"),
        (ChangesTheBase, "leaves_the_base", "weights of the base have changed: transformer.wte.weight"),
        (Climbs, "lowers_the_loss", "at best in 4 steps"),
        (ClaimsTooMuch, "starts_as_it_says", "does not start as the base, though it says so"),
        (CountsMore, "counts_as_planned", "planned"),
        (SavesAnotherPrompt, "loads_as_it_was_saved", "when loaded"),
        (GathersAndForgets, "goes_on_as_if_never_stopped", "differ from those of a training that never stopped"),
        (LooksAtTheBatch, "ignores_batch_mates", "in a batch"),
        (MergesTwice, "decodes_as_it_was_trained", "when merged"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_contract_finds_what_is_wrong(monkeypatch, broken, check, message):
    monkeypatch.setattr(method, "_REGISTER", {**method._REGISTER})
    register("broken")(broken)
    with pytest.raises(AssertionError, match=message):
        check_method("broken", "gpt2", checks=[check])


def test_every_check_is_seen_to_find_something():
    cases = test_the_contract_finds_what_is_wrong.pytestmark[0].args[1]
    assert {check for _, check, _ in cases} == set(CHECKS)
