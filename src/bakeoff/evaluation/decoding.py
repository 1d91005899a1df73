"""A batch of texts in the middle of greedy decoding, for each family of models: what comes next, token by token."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from bakeoff.cache import RoomyCache
from bakeoff.calling import only_rows, positions, prefix, text_inputs
from bakeoff.data.batches import padded, parts
from bakeoff.model import Base, inner
from bakeoff.training.beginning import Beginning
from bakeoff.training.loss import encoder_mask, part_tokens


class Causal:
    """A batch of a causal model in the middle of decoding.

    Prompts are read as in training: padded on the right, after the method's virtual tokens, and a part at a time. What
    was read is then moved to the right end of one cache, so that each row's newest token stands in the last column.
    """

    def __init__(
        self, base: Base, adapted: nn.Module, prompts: Sequence[Sequence[int]], room: int, beginning: Beginning | None
    ):
        self.base, self.adapted, self.model = base, adapted, inner(adapted)
        self.prompts = [prompt[beginning.length :] for prompt in prompts] if beginning else prompts
        self.past = beginning.past if beginning else prefix(adapted, 1)
        self.cache = RoomyCache(self.model.config, room, self.past)
        self.tokens: torch.Tensor | None = None  # (batch, 1), the newest of each row; None before the prompts are read

    def next_tokens(self) -> torch.Tensor:
        """Return the likeliest next id of each row, (batch,)."""
        if self.tokens is None:
            return self.read()
        logits = self.model(
            input_ids=self.tokens,
            attention_mask=None if bool(self.mask.all()) else self.mask,
            position_ids=self.mask.sum(1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits[:, -1].argmax(-1)

    def read(self) -> torch.Tensor:
        """Read the prompts and return the likeliest first id of each row, (batch,)."""
        texts, before = [len(prompt) for prompt in self.prompts], self.past.get_seq_length() if self.past else 0
        slices = parts(texts, len(texts), part_tokens(self.base) if self.cache.joinable else None)
        alone = len(slices) == 1 and min(texts) == max(texts)  # nothing is to be moved
        chosen, lengths = [], []
        for rows in slices:
            cache = self.cache if alone else RoomyCache(self.model.config, 0, self.past)
            inputs = text_inputs(self.adapted, padded(self.prompts[rows], self.base.pad).to(self.base.device))
            virtual = positions(inputs) - max(texts[rows])
            ends = [i * positions(inputs) + virtual + n - 1 for i, n in enumerate(texts[rows])]
            with only_rows(self.model, torch.tensor(ends, device=self.base.device)):
                logits = self.model(**inputs, past_key_values=cache, use_cache=True).logits
            chosen.append(logits.argmax(-1))
            lengths += [before + virtual + n for n in texts[rows]]
            if not alone:
                self.cache.take(cache, rows, lengths[rows], len(texts), before + virtual + max(texts))
        real = torch.tensor(lengths, device=self.base.device)[:, None]
        self.mask = (
            torch.arange(max(lengths), 0, -1, device=self.base.device) <= real
        ).long()  # (batch, tokens so far)
        return torch.cat(chosen)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with the rows at these places only."""
        self.mask = self.mask[rows]
        self.cache.reorder_cache(rows)

    def append(self, tokens: torch.Tensor) -> None:
        """Let each row's text grow by a token (batch,)."""
        self.tokens = tokens[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)


class EncoderDecoder:
    """A batch of an encoder-decoder in the middle of decoding: texts are read once, a part at a time."""

    def __init__(self, base: Base, adapted: nn.Module, prompts: Sequence[Sequence[int]], room: int):
        self.model = inner(adapted)
        lengths, read = [len(prompt) for prompt in prompts], []
        for rows in parts(lengths, len(lengths), part_tokens(base)):
            ids = padded(prompts[rows], base.pad).to(base.device)
            inputs = text_inputs(adapted, ids)
            virtual = positions(inputs) - ids.shape[1]
            mask = encoder_mask(lengths[rows], virtual, ids)
            read += [*self.model.get_encoder()(**inputs, attention_mask=mask).last_hidden_state]
        self.read = pad_sequence(read, batch_first=True)  # (batch, virtual + seq, width)
        self.mask = encoder_mask(lengths, virtual, padded(prompts, base.pad).to(base.device))
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
        self.cache.reorder_cache(rows)

    def append(self, tokens: torch.Tensor) -> None:
        """Let each row's output grow by a token (batch,)."""
        self.tokens = tokens[:, None]


def decoding(
    base: Base,
    adapted: nn.Module,
    prompts: Sequence[Sequence[int]],
    room: int,
    beginning: Beginning | None = None,
) -> Causal | EncoderDecoder:
    """Return prompts as a batch to decode, with room for so many tokens each; `beginning` is what all begin with."""
    if base.decoder_start is not None:
        return EncoderDecoder(base, adapted, prompts, room)
    return Causal(base, adapted, prompts, room, beginning)
