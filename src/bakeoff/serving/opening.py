"""Opening the bakeoffs that are served: whether they can share a base, the base, and their adapters."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.config.config import Config
from bakeoff.config.loading import load_config
from bakeoff.config.planned import decodes_in, trusted_config
from bakeoff.data.forms import stops_of
from bakeoff.driver.trust import check_trusted, model_wishes
from bakeoff.errors import SetupError
from bakeoff.library_errors import enough_memory
from bakeoff.methods import build_method
from bakeoff.results import EntryResult, Results, load_results
from bakeoff.serving.models import BASE, Bakeoff, Model
from bakeoff.serving.tokenizing import PerThread
from bakeoff.store.records import Quantize
from bakeoff.store.results_document import ResultsRow

if TYPE_CHECKING:
    from bakeoff.compute.serving.engine import Engine

Say = Callable[[str], None]


def folders_of(given: Sequence[str | Path]) -> list[tuple[str | None, Path]]:
    """Return folders with the names that are given for them: "NAME=FOLDER" gives one, unless it is a folder itself."""
    found: list[tuple[str | None, Path]] = []
    for text in map(str, given):
        name, sign, path = text.partition("=")
        named = sign and name and "/" not in name and not Path(text).exists()
        found.append((name, Path(path)) if named else (None, Path(text)))
    return found


class Opened:
    """Bakeoffs that share one base, which is in memory with their adapters.

    `say` gets a line for each entry that cannot be served. Raises SetupError if a folder is not a bakeoff, or does not
    share the base.
    """

    def __init__(self, given: Sequence[str | Path], device: str, trust: bool, say: Say, rows: int = 16):
        self.trust, self.say = trust, say
        folders = folders_of(given)
        if not folders:
            raise SetupError("serve: no folder is given. Try: bakeoff serve bakeoffs/demo")
        found = [self.trusted(path) for _, path in folders]
        self.shared = needs(*found[0])
        self.quantize = quantize_of([results for results, _ in found])
        for other in found[1:]:
            self.check_shared(*other)
        from bakeoff.compute.decoding.summarizer import LESS_MEMORY, opened
        from bakeoff.compute.model.base import context_of
        from bakeoff.compute.serving.engine import Engine

        config, plan = found[0][1], found[0][0].folder.plan()
        with enough_memory(f"serve: loading {config.model} on {device}", LESS_MEMORY):
            base, note = opened(config, plan.precision, self.quantize, plan.model, device)
            self.engine = Engine(base, max_rows=rows, precision=decodes_in(plan, config))
        if note:
            say(note)
        self.tokenizer, self.context = PerThread(base.tokenizer), context_of(base)
        self.encoder_decoder = base.decoder_start is not None
        self.served: list[tuple[Bakeoff, list[Model]]] = []
        for (name, _), (results, config) in zip(folders, found, strict=True):
            self.serve(results, config, name)

    def trusted(self, path: Path) -> tuple[Results, Config]:
        """Return a folder's results and config; raise SetupError if it is from elsewhere, and asks for trust."""
        results = load_results(path)
        signed = load_config(results.folder.config_file)
        check_trusted(results.folder, signed, model_wishes(signed), self.trust)
        return results, trusted_config(results.folder, signed)

    def check_shared(self, results: Results, config: Config) -> None:
        """Raise SetupError if a bakeoff needs another base than the one in memory, or has it in another precision."""
        for what, value in needs(results, config).items():
            if value != self.shared[what]:
                raise SetupError(
                    f"{results.folder.path}: has another {what} ({value}) than the bakeoffs that are served "
                    f"({self.shared[what]}). Try: a server of its own, on another --port"
                )

    def serve(self, results: Results, config: Config, name: str | None) -> None:
        """Load a bakeoff's entries; one that cannot be served is reported."""
        bakeoff, models = self.described(results, config, name)
        taken = next((other for other, _ in self.served if other.name == bakeoff.name), None)
        if taken is not None:
            raise SetupError(
                f"{bakeoff.folder.path}: is named '{bakeoff.name}', as {taken.folder.path} is. Try: give one a name of "
                f"its own, {bakeoff.name}-2={bakeoff.folder.path}"
            )
        loaded = []
        for model in models:
            try:
                if model.adapter:
                    self.put(model, self.checked(model), self.engine)
            except SetupError as error:
                self.say(f"{model.id}: is not served: {error}")
            else:
                loaded.append(model)
        self.served.append((bakeoff, loaded))

    def look(self, path: Path, name: str | None) -> tuple[Bakeoff, list[Model]]:
        """Return a folder's bakeoff with its finished entries; raise SetupError if it cannot be served here."""
        results, config = self.trusted(path)
        self.check_shared(results, config)
        return self.described(results, config, name)

    def described(self, results: Results, config: Config, name: str | None) -> tuple[Bakeoff, list[Model]]:
        """Return a bakeoff with a model for each finished entry."""
        from bakeoff.data.asking import Prompts

        folder, document = results.folder, results.document
        plan = folder.plan()
        prompts = Prompts(folder, config, self.tokenizer, self.encoder_decoder, self.context)
        ends = stops_of(plan) | {self.tokenizer.eos_token_id}
        untouched = document.baselines.get(BASE)
        score = score_of(untouched, plan.primary) if untouched else None
        heading = plan.ranked_by.heading
        bakeoff = Bakeoff(name or document.name, results, config, prompts, ends, self.context, heading, score)
        models = []
        for entry, row in document.entries.items():
            finished = [record.run for i in row.runs if (record := folder.run(i).finished())]
            if any(run.kind == "entry" for run in finished):
                models.append(self.model(bakeoff, results.entry(entry), score_of(row, plan.primary)))
        return bakeoff, [*models, *self.rivals(bakeoff)]

    def rivals(self, bakeoff: Bakeoff) -> Iterator[Model]:
        """Yield a model for each prompted baseline that has finished."""
        from bakeoff.scoring.prompted_asking import PromptedPrompts

        document, folder, config = bakeoff.results.document, bakeoff.folder, bakeoff.config
        plan = folder.plan()
        for name, prompt in bakeoff.results.prompts().items():
            if name not in document.entries:
                own = PromptedPrompts(folder, config, self.tokenizer, self.encoder_decoder, self.context, prompt.record)
                score = score_of(document.baselines[name], plan.primary)
                yield Model(f"{bakeoff.name}/{name}", bakeoff, name, "prompt", score=score, own=own)

    def model(self, bakeoff: Bakeoff, entry: EntryResult, score: float | None) -> Model:
        """Return the model that an entry is."""
        run = entry.best_run()
        method = build_method(run.method, {**run.settings, "method": run.method})
        return Model(f"{bakeoff.name}/{entry.name}", bakeoff, entry.name, run.method, method.virtual_tokens, score)

    def checked(self, model: Model) -> tuple[Path, dict[str, Any]]:
        """Return a model's adapter folder, and what it must say; raise SetupError if it does not fit this base."""
        from bakeoff.compute.decoding.summarizer import made_by

        folder = model.bakeoff.folder
        assert model.entry is not None  # the base has no adapter
        entry = model.bakeoff.results.entry(model.entry)
        if entry.name == BASE:
            raise SetupError(f"{folder.path}: an entry named '{BASE}' has the name of the untouched base")
        run = entry.best_run()
        if run.quantize != self.quantize:
            raise SetupError(f"it needs a base with quantize: {run.quantize}, and this one has {self.quantize}")
        return entry.adapter, made_by(run, model.bakeoff.config, folder.plan().model)

    @staticmethod
    def put(model: Model, files: tuple[Path, dict[str, Any]], engine: "Engine") -> None:
        """Load a model's adapter into the engine, in the thread that owns it."""
        adapter, expected = files
        with enough_memory(f"{adapter}: loading it", "fewer bakeoffs per server, smaller --rows, or --device cpu"):
            engine.load(model.id, adapter, expected)


def score_of(row: ResultsRow, primary: str) -> float | None:
    """Return a row's score on the test by a metric; None if it has none, or one that JSON cannot hold."""
    score = row.metrics.get(f"test/{primary}")
    return score.mean if score is not None and math.isfinite(score.mean) else None


def needs(results: Results, config: Config) -> dict[str, str]:
    """Return what of a base a bakeoff depends on, by what it is called; a base is known by its files' hash."""
    plan = results.folder.plan()
    base = plan.model.identity or f"{plan.model.name} {plan.model.revision or ''}"
    own = {"base": base[:60], "precision": plan.precision, "decoding precision": decodes_in(plan, config)}
    return own | {"protocol.tf32": str(config.protocol.tf32)}


def quantize_of(results: Sequence[Results]) -> Quantize:
    """Return how the base is stored that most of the bakeoffs' entries were trained on."""
    stored = [entry.quantize for result in results for entry in result.folder.plan().entries.values()]
    return max(dict.fromkeys(stored), key=stored.count)
