"""Calls an adapted model: token ids in, the losses of chosen target tokens out, for both model families.

One call signature serves every method. Virtual tokens, if the method has any, are directly before the text: before the
prompt of a causal model, before the encoder's input of an encoder-decoder. The head sees target positions only. This
module does not know data sets or optimizers.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import Cache, PreTrainedModel

from bakeoff.compute.model.base import DTYPES, Base, inner
from bakeoff.compute.model.device import memory
from bakeoff.compute.model.head import head_input, logits_of, only_rows

LOGITS_BYTES = 256 * 2**20  # of fp32 logits that are held at once; more are computed in parts
# On an accelerator: of all its memory, since the same run shall have the same parts, and peak, whatever else is on it.
LOGITS_SHARE = 1 / 32
KEYS_AND_VALUES = ("PREFIX_TUNING", "CARTRIDGE")  # PEFT's types of trained keys and values
UNCHANGED: AbstractContextManager[None] = nullcontext()


def autocast(base: Base) -> AbstractContextManager[Any]:
    """Return the context that every forward pass runs in; it does nothing in fp32."""
    if base.device.type == "meta":
        return nullcontext()
    return torch.autocast(base.device.type, DTYPES[base.precision], enabled=base.precision != "fp32")


def prompt_config(adapted: nn.Module) -> Any:
    """Return PEFT's config of a method that trains a prompt or a prefix, or None for other methods."""
    config = getattr(adapted, "active_peft_config", None)
    return config if config is not None and config.is_prompt_learning else None


def soft_prompt_config(adapted: nn.Module) -> Any:
    """Return PEFT's config of a method with virtual tokens before the text, or None for other methods."""
    config = prompt_config(adapted)
    return None if config is None or config.peft_type in KEYS_AND_VALUES else config


def soft_prompt(adapted: nn.Module) -> torch.Tensor | None:
    """Return the method's virtual tokens as (tokens, width), or None if it has none.

    A prompt encoder always computes in fp32, so that its output in training is what is saved in the end.
    """
    if soft_prompt_config(adapted) is None:
        return None
    device = next(adapted.parameters()).device.type
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        return adapted.get_prompt(batch_size=1)[0]  # type: ignore[operator]


def prefix(adapted: nn.Module, rows: int) -> Cache | None:
    """Return the method's trained keys and values for a batch of `rows`, as past ones; None if it has none."""
    config = prompt_config(adapted)
    if config is None or config.peft_type not in KEYS_AND_VALUES:
        return None
    return adapted.get_prompt(batch_size=rows)  # type: ignore[operator]


def text_inputs(adapted: nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the model's inputs for right-padded token ids (batch, seq): the ids, or embeddings.

    Embeddings (batch, virtual + seq, width) are given only if there are virtual tokens before the text, since some
    architectures scale what they look up themselves, but not what they are given.
    """
    prompt = soft_prompt(adapted)
    if prompt is None:
        return {"input_ids": ids}
    words = inner(adapted).get_input_embeddings()(ids)
    return {"inputs_embeds": torch.cat([prompt.to(words.dtype).expand(len(ids), -1, -1), words], dim=1)}


def positions(inputs: dict[str, torch.Tensor]) -> int:
    """Return how many positions the inputs have, including virtual tokens."""
    return next(iter(inputs.values())).shape[1]


def row_losses(
    base: Base,
    adapted: nn.Module,
    inputs: dict[str, Any],
    rows: torch.Tensor,
    targets: torch.Tensor,
    context: AbstractContextManager[None] = UNCHANGED,
) -> torch.Tensor:
    """Return the cross-entropy in nats (targets,), fp32, of `targets` at `rows`; `context` is about the model's call.

    Where targets x vocabulary would take more than LOGITS_BYTES, logits are computed in parts, and again in the
    backward pass, so that no more than one part's are ever held.
    """
    inputs, model = {**inputs, "use_cache": False}, inner(adapted)
    if (parts := parts_of_logits(base, len(targets))) <= 1:
        with only_rows(model, rows), context:
            logits = model(**inputs).logits
        return cross_entropy(logits.float(), targets, reduction="none")
    with context:
        hidden = hidden_rows(model, inputs, rows)
    return losses_in_parts(model, hidden, targets, base.head_alone, parts)


def losses_and_first(
    base: Base,
    adapted: nn.Module,
    inputs: dict[str, Any],
    rows: torch.Tensor,
    targets: torch.Tensor,
    firsts: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same losses (targets,), and the logits (examples, vocabulary) where each example's targets begin.

    `firsts` are those places among `rows`.
    """
    model, alone = inner(adapted), base.head_alone
    if (parts := parts_of_logits(base, len(targets))) <= 1:
        with only_rows(model, rows):
            logits = model(**inputs).logits
        return cross_entropy(logits.float(), targets, reduction="none"), logits[firsts]
    hidden = hidden_rows(model, inputs, rows)
    return losses_in_parts(model, hidden, targets, alone, parts), logits_of(model, hidden[firsts], alone)


def logits_at_once(model: PreTrainedModel) -> int:
    """Return of how many positions the logits are held at once."""
    weight, most = model.get_output_embeddings().weight, LOGITS_BYTES
    if weight.device.type not in ("cpu", "meta"):
        most = max(most, int(LOGITS_SHARE * total_bytes(weight.device)))
    return max(1, most // (4 * weight.shape[0]))


def parts_of_logits(base: Base, targets: int) -> int:
    """Return in how many parts the logits of so many targets are computed.

    If each part calls a model whose weights are shared out, and a backward pass will do so again, all processes of the
    team must call it equally often.
    """
    parts = -(-targets // logits_at_once(base.model))
    if base.team.sharded and not base.head_alone and torch.is_grad_enabled():
        return int(base.team.most(parts))
    return parts


@cache
def total_bytes(device: torch.device) -> int:
    """Return the bytes of an accelerator's memory, free or not."""
    return memory(device)[1]


def hidden_rows(model: PreTrainedModel, inputs: dict[str, Any], rows: torch.Tensor) -> torch.Tensor:
    """Return the input of the head at `rows` of the flattened positions: (rows, width). The head itself gets one."""
    caught: list[torch.Tensor] = []

    def catch(hidden: torch.Tensor) -> torch.Tensor:
        caught.append(hidden.flatten(0, 1)[rows])
        return caught[0][:1]

    with head_input(model, catch):
        model(**inputs)
    return caught[0]


def losses_in_parts(
    model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor, head_alone: bool, parts: int
) -> torch.Tensor:
    """Return the losses (targets,) of hidden states (targets, width), whose logits are computed a part at a time.

    There are so many `parts`, the last of which may be empty.
    """

    def losses(hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits_of(model, hidden, head_alone).float(), targets, reduction="none")

    most = logits_at_once(model)
    places = [slice(most * part, most * (part + 1)) for part in range(parts)]
    return torch.cat([checkpoint(losses, hidden[p], targets[p], use_reentrant=False) for p in places])
