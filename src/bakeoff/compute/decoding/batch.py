"""The state of a batch during decoding, for each family of models: the logits of the next token, one at a time."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache

from bakeoff.compute.model.base import Base, inner
from bakeoff.compute.model.forward import losses_and_first, positions, prefix, row_losses, text_inputs
from bakeoff.compute.model.head import only_rows
from bakeoff.compute.model.kv_cache import RoomyCache
from bakeoff.compute.model.shared_prefix import Beginning
from bakeoff.compute.training.batches import padded, parts
from bakeoff.compute.training.loss import Losses, batch_of, by_example, encoder_mask, part_tokens
from bakeoff.data.tokens import Tokens

Ids = Sequence[int]


class Causal:
    """A batch of a causal model during decoding.

    Prompts are read as in training: padded on the right, after the method's virtual tokens, and a part at a time. What
    was read is then moved to the right end of one cache, so that each row's newest token is in the last column.
    """

    def __init__(
        self,
        base: Base,
        adapted: nn.Module,
        prompts: Sequence[Ids],
        room: int,
        beginning: Beginning | None,
        targets: Sequence[Ids] | None,
    ):
        self.base, self.adapted, self.model = base, adapted, inner(adapted)
        # Without targets there is one that nothing is known of: only its place is read.
        pairs = zip(prompts, targets or [[base.pad]] * len(prompts), strict=True)
        known = beginning.length if beginning else 0
        self.texts = [Tokens([*p[known:]], [*t]) for p, t in pairs]
        self.losses: Losses = []
        self.past = beginning.past if beginning else prefix(adapted, 1)
        self.cache = RoomyCache(self.model.config, room, self.past)
        self.tokens: torch.Tensor | None = None  # (batch, 1), the newest of each row; None before the prompts are read

    def next_logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, (batch, vocabulary)."""
        if self.tokens is None:
            return self.read()
        logits = self.model(
            input_ids=self.tokens,
            attention_mask=None if min(self.lengths) == self.width else self.mask,
            position_ids=self.mask.sum(1, keepdim=True) - 1,
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        return logits[:, -1]

    def read(self) -> torch.Tensor:
        """Read the prompts and return the logits of each row's first token; also note the losses of targets.

        A target follows its prompt, as in training; the part of the cache that belongs to it is dropped.
        """
        prompts, before = [len(text.prompt) for text in self.texts], self.past.get_seq_length() if self.past else 0
        widths = [len(text) - 1 for text in self.texts]  # the last target token predicts nothing
        slices = parts(widths, len(widths), part_tokens(self.base) if self.cache.joinable else None)
        alone = len(slices) == 1 and min(prompts) == max(widths)  # nothing is to be moved
        logits, lengths = [], []
        for rows in slices:
            cache = self.cache if alone else RoomyCache(self.model.config, 0, self.past)
            first, virtual = self.read_part(rows, cache)
            logits.append(first)
            lengths += [before + virtual + n for n in prompts[rows]]
            if not alone:
                self.cache.take(cache, rows, lengths[rows], len(prompts), before + virtual + max(prompts))
        self.lengths, self.width = lengths, max(lengths)  # known here, where the mask's values would be waited for
        real = torch.tensor(lengths, device=self.base.device)[:, None]
        self.mask = (torch.arange(self.width, 0, -1, device=self.base.device) <= real).long()  # (batch, tokens so far)
        return torch.cat(logits)

    def read_part(self, rows: slice, cache: RoomyCache) -> tuple[torch.Tensor, int]:
        """Fill the cache with some rows' texts, note their targets' losses; return first logits and virtual tokens."""
        batch = batch_of(self.base, self.texts[rows])
        inputs = text_inputs(self.adapted, batch.ids)
        virtual = positions(inputs) - batch.ids.shape[1]
        counts = torch.tensor(batch.counts, device=batch.ids.device)
        losses, logits = losses_and_first(
            self.base,
            self.adapted,
            {**inputs, "past_key_values": cache, "use_cache": True},
            batch.rows * positions(inputs) + virtual + batch.columns,
            batch.targets,
            counts.cumsum(0) - counts,
        )
        self.losses += by_example(losses, batch.counts)
        return logits, virtual

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with only the rows at these places."""
        self.mask, self.lengths = self.mask[rows], [self.lengths[row] for row in rows.tolist()]
        self.cache.reorder_cache(rows)

    def append(self, tokens: torch.Tensor) -> None:
        """Add a token (batch,) to each row's text."""
        self.tokens = tokens[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)


class Whole:
    """A batch of a causal model whose cache cannot be used: each row is read from its beginning for every token."""

    def __init__(self, base: Base, adapted: nn.Module, prompts: Sequence[Ids]):
        self.base, self.adapted, self.model = base, adapted, inner(adapted)
        self.texts = [[*prompt] for prompt in prompts]
        self.losses: Losses = []

    def next_logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, (batch, vocabulary)."""
        logits = []
        lengths = [len(text) for text in self.texts]
        for rows in parts(lengths, len(lengths), part_tokens(self.base)):
            ids = padded(self.texts[rows], self.base.pad).to(self.base.device)
            inputs = text_inputs(self.adapted, ids)
            width = positions(inputs)
            last = torch.tensor(lengths[rows], device=ids.device) + width - ids.shape[1] - 1
            if (past := prefix(self.adapted, len(ids))) is not None:
                inputs |= {"past_key_values": past}
            with only_rows(self.model, torch.arange(len(ids), device=ids.device) * width + last):
                logits.append(self.model(**inputs, use_cache=False).logits)
        return torch.cat(logits)

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with only the rows at these places."""
        self.texts = [self.texts[row] for row in rows.tolist()]

    def append(self, tokens: torch.Tensor) -> None:
        """Add a token (batch,) to each row's text."""
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)


class EncoderDecoder:
    """A batch of an encoder-decoder during decoding: texts are read once, a part at a time."""

    def __init__(
        self,
        base: Base,
        adapted: nn.Module,
        prompts: Sequence[Ids],
        room: int,
        targets: Sequence[Ids] | None,
    ):
        self.base, self.adapted, self.model = base, adapted, inner(adapted)
        lengths, read = [len(prompt) for prompt in prompts], []
        for rows in parts(lengths, len(lengths), part_tokens(base)):
            ids = padded(prompts[rows], base.pad).to(base.device)
            inputs = text_inputs(adapted, ids)
            virtual = positions(inputs) - ids.shape[1]
            mask = encoder_mask(lengths[rows], virtual, ids)
            out = self.model.get_encoder()(**inputs, attention_mask=mask)
            read += [*out.last_hidden_state]
        self.read = pad_sequence(read, batch_first=True)  # (batch, virtual + seq, width)
        self.kind = type(out)  # a mixture of experts looks for more in it than what was read
        self.mask = encoder_mask(lengths, virtual, padded(prompts, base.pad).to(base.device))
        self.tokens = torch.tensor([[base.decoder_start]] * len(prompts), device=base.device)
        self.cache = EncoderDecoderCache(RoomyCache(None, room), DynamicCache())
        if (past := prefix(adapted, len(prompts))) is not None:
            for block, layer in enumerate(past.self_attention_cache.layers):
                self.cache.self_attention_cache.update(layer.keys, layer.values, block)
        self.losses = self.target_losses(targets) if targets else []

    def target_losses(self, targets: Sequence[Ids]) -> Losses:
        """Return the losses of all rows' targets, given what was read of their texts."""
        losses: Losses = []
        for rows in parts([len(target) for target in targets], len(targets), part_tokens(self.base)):
            batch = batch_of(self.base, [Tokens([], [*target]) for target in targets[rows]])
            inputs = {
                "encoder_outputs": self.kind(last_hidden_state=self.read[rows]),
                "attention_mask": None if self.mask is None else self.mask[rows],
                "decoder_input_ids": batch.decoder_ids,
                "past_key_values": prefix(self.adapted, len(batch.counts)),
            }
            at = batch.rows * inputs["decoder_input_ids"].shape[1] + batch.columns
            losses += by_example(row_losses(self.base, self.adapted, inputs, at, batch.targets), batch.counts)
        return losses

    def next_logits(self) -> torch.Tensor:
        """Return the logits of each row's next token, (batch, vocabulary)."""
        logits = self.model(
            encoder_outputs=self.kind(last_hidden_state=self.read),
            attention_mask=self.mask,
            decoder_input_ids=self.tokens,
            past_key_values=self.cache if self.base.cached else prefix(self.adapted, len(self.tokens)),
            use_cache=self.base.cached,
        ).logits
        return logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with only the rows at these places."""
        self.read, self.mask = self.read[rows], None if self.mask is None else self.mask[rows]
        self.cache.reorder_cache(rows)
        self.tokens = self.tokens[rows]

    def append(self, tokens: torch.Tensor) -> None:
        """Add a token (batch,) to each row's output."""
        self.tokens = tokens[:, None] if self.base.cached else torch.cat([self.tokens, tokens[:, None]], dim=1)


def decoding(
    base: Base,
    adapted: nn.Module,
    prompts: Sequence[Ids],
    room: int,
    beginning: Beginning | None = None,
    targets: Sequence[Ids] | None = None,
) -> Causal | Whole | EncoderDecoder:
    """Return prompts as a batch to decode, with room for so many tokens each.

    `beginning` is the common start of all prompts; of `targets` the batch notes the losses.
    """
    if base.decoder_start is not None:
        return EncoderDecoder(base, adapted, prompts, room, targets)
    if not base.cached:
        return Whole(base, adapted, prompts)
    return Causal(base, adapted, prompts, room, beginning, targets)
