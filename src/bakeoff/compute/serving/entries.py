"""Adapters in memory, and the lane that each one's rows run in."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Cache

from bakeoff.compute.model.base import Base, inner
from bakeoff.compute.model.forward import autocast, prefix, prompt_config, soft_prompt
from bakeoff.compute.model.kv_cache import RoomyCache
from bakeoff.compute.model.shared_prefix import turns_by_length
from bakeoff.compute.serving.cohorts import Cohorts
from bakeoff.compute.serving.forms import CannotMixError, Form, Own, changes
from bakeoff.compute.serving.lane import Lane
from bakeoff.compute.serving.mixing import Mixer
from bakeoff.compute.serving.request import Row
from bakeoff.compute.serving.trial import equals_evaluation
from bakeoff.compute.serving.twins import Twin, dtypes_of
from bakeoff.errors import SetupError
from bakeoff.library_errors import one_line

OWN_SHARE = 0.9  # of the base's weights: who changes more shares nothing worth it


@dataclass(eq=False)
class Entry:
    """An adapter in memory, or the base; `past` are keys and values that each row begins with."""

    name: str | None
    base: Base
    adapted: nn.Module
    past: Cache | None = None
    virtual: int = 0  # tokens before each row's text
    lane: Any = None  # a Lane or Cohorts
    tried: list[torch.Tensor] | None = None  # its logits beside which other entries are tried


class Lanes:
    """One lane that entries share where they can, and one for each that cannot."""

    def __init__(self, base: Base):
        self.joins = base.cached and base.decoder_start is None and RoomyCache(base.model.config, 0).joinable
        self.joins = self.joins and not turns_by_length(base.model.config)
        model = Twin(base.model, dtypes_of(base.model)).model
        self.mixer = Mixer(model)
        self.shared = Lane(base, model, self.serve)
        self.base = Entry(None, base, base.model)
        self.give(self.base)

    def serve(self, rows: Sequence[Row], running: bool) -> AbstractContextManager[None]:
        """Let the shared model serve each row as its entry asks."""
        return self.mixer.serving([row.entry for row in rows], running)

    @torch.no_grad()
    def give(self, entry: Entry) -> None:
        """Give an entry the best lane in which its rows are what evaluation writes."""
        config = prompt_config(entry.adapted)
        entry.virtual = config.num_virtual_tokens if config else 0
        if self.joins:
            entry.past = past_of(entry)
            if self.mixes(entry):
                entry.lane = self.shared
                return
            entry.lane = Lane(entry.base, inner(entry.adapted))
            if self.right(entry.lane, entry, entry):
                return
        entry.lane = Cohorts(entry.base, entry.adapted)

    def mixes(self, entry: Entry) -> bool:
        """Let the shared lane serve an entry; return whether it can."""
        try:
            with one_line(f"{entry.name}: its layers have another form"):  # of packages that nobody knows here
                forms = changes(self.mixer.model, inner(entry.adapted))
            if own_weights(forms) > OWN_SHARE * sum(p.numel() for p in self.mixer.model.parameters()):
                return False
            self.mixer.add(entry, forms)
            self.mixer.seen.clear()
            lane = Lane(entry.base, self.shared.model, self.serve)
            if self.right(lane, entry, self.base) and forms.keys() <= self.mixer.seen:
                return True
        except (CannotMixError, SetupError):
            pass
        self.mixer.remove(entry)
        return False

    def right(self, lane: Lane, entry: Entry, company: Entry) -> bool:
        """Return whether an entry's rows are in a lane what evaluation writes."""
        try:
            return equals_evaluation(lane, entry, company)
        except SetupError:
            return False

    def drop(self, entry: Entry) -> None:
        """Forget an entry that has no rows left."""
        self.mixer.remove(entry)


def past_of(entry: Entry) -> Cache | None:
    """Return the keys and values that an entry's rows begin with: of its virtual tokens, or its prefix."""
    if (given := prefix(entry.adapted, 1)) is not None:
        return given
    prompt = soft_prompt(entry.adapted)
    if prompt is None:
        return None
    model = inner(entry.adapted)
    words = prompt.to(model.get_input_embeddings().weight.dtype)
    past = RoomyCache(model.config, 0)
    with autocast(entry.base):
        model(inputs_embeds=words[None], past_key_values=past, use_cache=True)
    return past


def own_weights(forms: dict[str, Form]) -> int:
    """Return how many weights an entry has in modules of its own."""
    own = {id(p): p.numel() for form in forms.values() if isinstance(form, Own) for p in form.module.parameters()}
    return sum(own.values())
