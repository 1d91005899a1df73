"""What a plan counts before any measurement: parameters and products by shapes alone, and tokens."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy

from bakeoff.config.config import Config
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Lengths, Tokens
from bakeoff.driver.shards import block_counts, shares_weights
from bakeoff.errors import ConfigError, SetupError
from bakeoff.methods import Method
from bakeoff.store.records import Quantize
from bakeoff.tuning.entries import Entry

LARGEST_BY = ("trainable_parameters", "total_parameters", "optimizer_bytes")


def count(given: Config, entries: Mapping[str, Entry], tokenizer: Any = None) -> dict[str, Any]:
    """Return exact counts of the base and of every entry, from shapes alone: no weights are read.

    If trials differ in size, an entry's counts are those of its largest trial. Raises SetupError if shapes show that
    the base cannot be run: its weights or its tokenizer do not fit it, or a method cannot be put on it.
    """
    from bakeoff.compute.model.base import count_parameters, shape_only
    from bakeoff.compute.model.kv_cache import values_per_token
    from bakeoff.compute.model.loading import check_files, check_tokenizer
    from bakeoff.compute.model.quantization import packed_parts
    from bakeoff.compute.training.flops import forward_products

    check_files(given.model, given.pin)

    shape = cache(lambda quantize: shape_only(given.model, given.pin, quantize))

    def own_shape(quantize: Quantize) -> Any:
        """Return a copy for a method to change; making a shape anew takes several times as long."""
        return copy.deepcopy(original := shape(quantize), packed_parts(original))

    with said_of("protocol"):
        base = shape(given.protocol.quantize)
    if tokenizer is not None:
        check_tokenizer(given.model, tokenizer, base)
    config = base.config.get_text_config(decoder=True)
    counts: dict[str, Any] = {
        "context": getattr(config, "max_position_embeddings", None),
        "embedded_ids": base.get_input_embeddings().weight.shape[0],
        "encoder_decoder": base.config.is_encoder_decoder,
        "cache_values": values_per_token(base.config),
        "model": {
            "total_parameters": count_parameters(base)[1],
            "architecture": type(base).__name__,
            "forward_products": forward_products(base),
        },
        "entries": {},
    }
    for name, entry in entries.items():
        counts["entries"][name] = largest_counts(name, entry, given, tokenizer, own_shape)
    return counts


def largest_counts(
    name: str, entry: Entry, given: Config, tokenizer: Any, own_shape: Callable[[Quantize], Any]
) -> dict[str, Any]:
    """Return the counts of an entry's largest trial; raise SetupError if a method cannot be put on the base.

    The ends of its ranges must fit the base, too, so that what is refused does not depend on the number of trials.
    """
    from bakeoff.compute.training.gradient_reach import adapted_shape

    group, ends = entry.methods(), entry.at_ends()
    # One method a size, whatever the rate.
    shapes, others = ({m.model_dump_json(exclude={"learning_rate"}): m for m in of} for of in (group, ends))
    try:
        for method in (*group, *ends) if tokenizer is not None else ():
            method.check_tokenizer(tokenizer)
        with said_of(f"entries.{name}"):
            counted = [entry_counts(own_shape(entry.quantize), m, given) for m in shapes.values()]
            for method in (m for key, m in others.items() if key not in shapes):
                adapted_shape(own_shape(entry.quantize), method)
    except SetupError as error:
        if str(error).startswith("entries."):
            raise
        reason = str(error).removeprefix(f"{group[0].name}: ")
        raise SetupError(f"entries.{name}: {reason}") from None
    return max(counted, key=lambda c: [c[k] for k in LARGEST_BY])


@contextmanager
def said_of(section: str) -> Iterator[None]:
    """Put a section of the config before an error about a key of it."""
    try:
        yield
    except SetupError as error:
        if not str(error).startswith("quantize: "):
            raise
        raise SetupError(f"{section}.{error}") from None


def entry_counts(shape: Any, method: Method, config: Config) -> dict[str, Any]:
    """Return exact counts of the base as a method adapts it: parameters, and multiplications per token in training."""
    from bakeoff.compute.model.base import count_parameters
    from bakeoff.compute.model.quantization import packed_size
    from bakeoff.compute.training.flops import step_products, trunk_products
    from bakeoff.compute.training.gradient_reach import adapted_shape
    from bakeoff.compute.training.optimizers import optimizer_bytes

    protocol, own = config.protocol, {*shape.parameters()}
    adapted = adapted_shape(shape, method)
    trainable, total = count_parameters(adapted)
    packed, size = packed_size(adapted)
    return {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_percent": 100 * trainable / total,
        "packed_parameters": packed,
        "packed_bytes": size,
        "optimizer_bytes": optimizer_bytes(method, adapted),
        "step_products": step_products(adapted, method, protocol),
        "trunk_products": trunk_products(adapted, method, protocol),
        **(block_counts(adapted, own) if shares_weights(config) else {}),
    }


def exact_counts(lengths: Mapping[str, Lengths], protocol: ProtocolConfig, output_tokens: int) -> dict[str, Any]:
    """Return token counts of one run: an epoch's, the longest batch's, and what is read and written at its end."""
    totals = lengths["train"].totals
    longest = numpy.sort(totals)[::-1][: protocol.batch_size]
    return {
        "train_tokens": int(totals.sum(dtype=numpy.int64)),
        "longest_batch_tokens": int(longest[0]) * len(longest),
        "validation_tokens": int(lengths["validation"].totals.sum(dtype=numpy.int64)),
        "test_tokens": int(lengths["test"].totals.sum(dtype=numpy.int64)),
        "output_tokens": len(lengths["test"].totals) * output_tokens,
    }


def check_ids(name: str, tokenizer: Any, rows: int, tokens: Mapping[str, Iterable[Tokens]]) -> None:
    """Raise SetupError if a text has a token beyond the base's embeddings of so many rows."""
    if max(tokenizer.get_vocab().values(), default=0) < rows:
        return
    for split, texts in tokens.items():
        largest = max((max([*text.prompt, *text.target]) for text in texts), default=0)
        if largest >= rows:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise SetupError(
                f"model: {name}: data.{split} has the token {token!r}, id {largest}, and its embeddings "
                f"have {rows} rows. Try: resize_token_embeddings and save_pretrained"
            )


def fit_context(config: Config, methods: dict[str, list[Method]], context: int | None) -> int:
    """Return the longest example in tokens for every entry: the context minus the largest soft prompt."""
    virtual, name = max((m.virtual_tokens, name) for name, group in methods.items() for m in group)
    if context is None:
        return config.protocol.max_tokens
    if context - virtual < 32:
        raise ConfigError(
            f"entries.{name}.num_virtual_tokens: {virtual} virtual tokens leave {max(0, context - virtual)} of the "
            f"model's {context} positions for text. Allowed: at most {context - 32}"
        )
    return min(config.protocol.max_tokens, context - virtual)


def context_finding(config: Config, methods: dict[str, list[Method]], context: int, max_tokens: int) -> str:
    """Return in words why an example has fewer tokens than the protocol allows."""
    virtual, name = max((m.virtual_tokens, name) for name, group in methods.items() for m in group)
    less = f" less {name}'s {virtual} virtual tokens" if virtual else ""
    return (
        f"document, template and target together have at most {max_tokens} tokens, not protocol.max_tokens "
        f"({config.protocol.max_tokens}): the model's context is {context}{less}"
    )
