"""Greedy decoding, written out: the same for every method, and never touched by a model's own generation config."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import DynamicCache

from bakeoff.evaluation.cache import roomy_cache
from bakeoff.model import Base, embed, inner, only_rows
from bakeoff.training.loss import autocast

LEAVE_SHARE = 0.75  # ended rows leave the batch, which copies the cache, once no more than this share goes on


@torch.no_grad()
def generate(
    base: Base,
    adapted: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    progress: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """Return the greedy continuation of each prompt, in the given order, without its end-of-text token.

    Prompts are sorted by length and left-padded, so that every row's next token stands in the last column; positions
    count real tokens only. Rows that have ended leave the batch. The outputs do not depend on batch mates.
    """
    adapted.eval()
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    outputs: list[list[int]] = [[] for _ in prompts]
    done = 0
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        for i, output in zip(
            members, _decode(base, adapted, [prompts[i] for i in members], max_new_tokens), strict=True
        ):
            outputs[i] = output
        done += len(members)
        progress(done)
    return outputs


def _decode(base: Base, adapted: nn.Module, prompts: list[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    model, end = inner(adapted), base.tokenizer.eos_token_id
    width = max(len(p) for p in prompts)
    pads = torch.tensor([width - len(p) for p in prompts], device=base.device)
    ids = torch.tensor([[end] * (width - len(p)) + list(p) for p in prompts], device=base.device)
    outputs: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each row of the shrinking batch is
    ended: set[int] = set()
    cache = roomy_cache(model.config, max_new_tokens)
    with autocast(base):
        inputs = embed(adapted, ids, pads)
        mask = (torch.arange(inputs.shape[1], device=base.device) >= pads[:, None]).long()
        for _ in range(max_new_tokens):
            chosen = _next_tokens(model, inputs, mask, cache)
            for row, token in zip(rows, chosen.tolist(), strict=True):
                if token == end:
                    ended.add(row)
                elif row not in ended:
                    outputs[row].append(token)
            alive = [place for place, row in enumerate(rows) if row not in ended]
            if not alive:
                break
            if len(alive) <= LEAVE_SHARE * len(rows):
                keep = torch.tensor(alive, device=base.device)
                rows, chosen, mask = [rows[place] for place in alive], chosen[keep], mask[keep]
                cache.batch_select_indices(keep)
            inputs = model.get_input_embeddings()(chosen[:, None])
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return outputs


def _next_tokens(model: nn.Module, inputs: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Return the likeliest next id of each row, (batch,), and let `cache` grow by the columns of `inputs`.

    Inputs are (batch, new, width), the mask (batch, old + new) with zeros on padding.
    """
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
    last = torch.arange(1, len(inputs) + 1, device=inputs.device) * inputs.shape[1] - 1
    with only_rows(model, last):
        logits = model(
            inputs_embeds=inputs,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
    return logits.argmax(-1)
