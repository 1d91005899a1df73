"""What a server serves: bakeoffs, and the names of the models that their entries are."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bakeoff.config.config import Config
from bakeoff.data.asking import Prompts
from bakeoff.errors import did_you_mean
from bakeoff.results import Results
from bakeoff.serving.errors import ApiError
from bakeoff.store.run_folder import Folder

BASE = "base"  # the untouched base, as the baseline of this name


@dataclass(frozen=True, eq=False)
class Bakeoff:
    """A bakeoff that is served.

    `ends` are the ids that end its outputs, `context` is how many tokens the base reads (None: no limit), `base_score`
    is the baseline's on its own test, None if the untouched base was not tested.
    """

    name: str
    results: Results
    config: Config
    prompts: Prompts
    ends: frozenset[int]
    context: int | None
    metric: str = ""
    base_score: float | None = None

    @property
    def folder(self) -> Folder:
        """The run folder."""
        return self.results.folder


@dataclass(frozen=True, eq=False)
class Model:
    """A name under which requests are answered. `entry` is None for the base; the engine knows adapters by `id`.

    A prompted baseline has prompts of its `own`, and no adapter.
    """

    id: str
    bakeoff: Bakeoff
    entry: str | None
    method: str
    virtual: int = 0  # tokens that the method puts before a prompt
    score: float | None = None  # of the bakeoff's own test, by its main metric
    own: Prompts | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompts(self) -> Prompts:
        """How it makes prompts of documents."""
        return self.own or self.bakeoff.prompts

    @property
    def adapter(self) -> str | None:
        """The engine's name of its adapter; None if it has none."""
        return None if self.entry is None or self.own else self.id

    def row(self, name: str) -> dict[str, Any]:
        """Return the model as /v1/models lists it under a name."""
        about = {"id": name, "object": "model", "created": self.created, "owned_by": "bakeoff"}
        return about | {"method": self.method, "bakeoff": self.bakeoff.name, "entry": self.entry, "score": self.score}


class Models:
    """All models by name: NAME/ENTRY, NAME/base, and NAME for the recommended entry of the bakeoff NAME.

    Prompted baselines are among the entries.
    """

    def __init__(self) -> None:
        self.bakeoffs: dict[str, Bakeoff] = {}
        self.loaded: dict[str, Model] = {}

    @classmethod
    def of_all(cls, served: Iterable[tuple[Bakeoff, Sequence[Model]]]) -> "Models":
        """Return bakeoffs with those of their entries that are loaded."""
        found = cls()
        for bakeoff, models in served:
            found.open(bakeoff)
            for model in models:
                found.add(model)
        return found

    def open(self, bakeoff: Bakeoff) -> None:
        """Add a bakeoff, or what it is now, with its base."""
        self.bakeoffs[bakeoff.name] = bakeoff
        self.add(Model(f"{bakeoff.name}/{BASE}", bakeoff, None, BASE, score=bakeoff.base_score))

    def add(self, model: Model) -> None:
        """Add a model, whose adapter is loaded."""
        self.loaded[model.id] = model

    def remove(self, model: Model) -> None:
        """Remove a model."""
        self.loaded.pop(model.id, None)

    def names(self) -> Iterator[tuple[str, Model]]:
        """Yield each name with its model: recommended entries first."""
        for bakeoff in self.bakeoffs.values():
            if best := self.loaded.get(f"{bakeoff.name}/{bakeoff.results.recommended}"):
                yield bakeoff.name, best
        yield from self.loaded.items()

    def of(self, name: str) -> Model:
        """Return the model of a name; raise ApiError if there is none."""
        names = dict(self.names())
        if name not in names:
            raise ApiError(
                404, f"model: no model '{name:.200}'.{did_you_mean(name, names)}", "model", "model_not_found"
            )
        return names[name]
