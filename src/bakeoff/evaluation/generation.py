"""Greedy decoding, written out: the same for every method, and never touched by a model's own generation config."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bakeoff.calling import only_rows, positions, prefix, text_inputs
from bakeoff.data.batches import padded
from bakeoff.evaluation.cache import RoomyCache
from bakeoff.model import Base, inner
from bakeoff.training.loss import autocast, encoder_mask

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
    end = base.tokenizer.eos_token_id
    outputs: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt each row of the shrinking batch is
    ended: set[int] = set()
    with autocast(base):
        batch = decoding(base, adapted, prompts, max_new_tokens)
        for _ in range(max_new_tokens):
            chosen = batch.next_tokens()
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
                rows, chosen = [rows[place] for place in alive], chosen[keep]
                batch.keep(keep)
            batch.append(chosen)
    return outputs


class Causal:
    """A left-padded batch of a causal model in the middle of decoding."""

    def __init__(self, base: Base, adapted: nn.Module, prompts: Sequence[Sequence[int]], room: int):
        self.model = inner(adapted)
        width = max(len(p) for p in prompts)
        pads = torch.tensor([width - len(p) for p in prompts], device=base.device)
        past = prefix(adapted, 1)
        virtual = past.get_seq_length() if past is not None else 0  # place-holders, which the cache exchanges
        ids = torch.tensor([[base.pad] * (width - len(p) + virtual) + list(p) for p in prompts], device=base.device)
        self.inputs = text_inputs(adapted, ids, pads)
        # (batch, tokens so far), zeros on padding
        self.mask = (torch.arange(positions(self.inputs), device=base.device) >= pads[:, None]).long()
        self.cache = RoomyCache(self.model.config, room, (past, pads) if past is not None else None)

    def next_tokens(self) -> torch.Tensor:
        """Return the likeliest next id of each row, (batch,)."""
        new = positions(self.inputs)
        places = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -new:]
        last = torch.arange(1, len(places) + 1, device=places.device) * new - 1
        with only_rows(self.model, last):
            logits = self.model(
                **self.inputs,
                attention_mask=None if bool(self.mask.all()) else self.mask,
                position_ids=places,
                past_key_values=self.cache,
                use_cache=True,
            ).logits
        return logits.argmax(-1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the rows at these places only."""
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)

    def append(self, tokens: torch.Tensor) -> None:
        """Let each row's text grow by a token (batch,)."""
        self.inputs = {"input_ids": tokens[:, None]}
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)


class EncoderDecoder:
    """A batch of an encoder-decoder in the middle of decoding: the text is read once, all rows start together."""

    def __init__(self, base: Base, adapted: nn.Module, prompts: Sequence[Sequence[int]], room: int):
        self.model = inner(adapted)
        ids = padded(prompts, base.pad).to(base.device)
        inputs = text_inputs(adapted, ids)
        self.mask = encoder_mask([len(p) for p in prompts], positions(inputs) - ids.shape[1], ids)
        self.read = self.model.get_encoder()(**inputs, attention_mask=self.mask).last_hidden_state
        self.tokens = torch.tensor([[base.decoder_start]] * len(prompts), device=base.device)
        self.cache = EncoderDecoderCache(RoomyCache(None, room), DynamicCache())
        if (past := prefix(adapted, len(prompts))) is not None:
            for block, layer in enumerate(past.self_attention_cache.layers):
                self.cache.self_attention_cache.update(layer.keys, layer.values, block)

    def next_tokens(self) -> torch.Tensor:
        """Return the likeliest next id of each row, (batch,)."""
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.read),
            attention_mask=self.mask,
            decoder_input_ids=self.tokens,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits[:, -1].argmax(-1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the rows at these places only."""
        self.read, self.mask = self.read[rows], None if self.mask is None else self.mask[rows]
        self.cache.batch_select_indices(rows)

    def append(self, tokens: torch.Tensor) -> None:
        """Let each row's output grow by a token (batch,)."""
        self.tokens = tokens[:, None]


def decoding(base: Base, adapted: nn.Module, prompts: Sequence[Sequence[int]], room: int) -> Causal | EncoderDecoder:
    """Return prompts as a batch to decode, with room for so many tokens each."""
    return (Causal if base.decoder_start is None else EncoderDecoder)(base, adapted, prompts, room)
