"""What the plans of a grid's bakeoffs share: examples that are read once, and token ids that are made once."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from bakeoff.config.config import Config
from bakeoff.data.chat_form import ChatForm
from bakeoff.data.forms import AnyForm
from bakeoff.data.sources import Splits, load_or_count
from bakeoff.hub import CONFIG, STOPS, base_hashes
from bakeoff.store.content_hash import hash_of
from bakeoff.store.run_folder import Folder
from bakeoff.store.scratch import scratch

T = TypeVar("T")


class SharedData(ExitStack):
    """Keeps what was made for one plan for others that need the same; its temporary files last as long as it is open.

    `runs` are the ids of the runs of all these plans, which were planned together.
    Files are read once. A row that has changed since then is refused where it is read in place, or was copied.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, Any] = {}
        self.runs: set[str] = set()

    def folder(self) -> Folder:
        """Return a temporary folder, for a plan that is not carried out."""
        return Folder(self.enter_context(scratch()))

    def once(self, key: list[Any], make: Callable[[], T], keep: bool = True) -> T:
        """Return what was made for an equal key before, or else make it, and `keep` it or not."""
        name = json.dumps(key, sort_keys=True)
        if name in self.made:
            return self.made[name]
        made = make()
        if keep:
            self.made[name] = made
        return made

    def examples(self, config: Config, must_read: bool, form: AnyForm | None = None) -> tuple[Splits, list[str], bool]:
        """Return a config's examples as `load_or_count` does; conversations are checked by the form."""
        checked = form_key(config, form) if form and config.data.conversation else None
        data = config.data.model_dump(mode="json")
        splits, findings, read = self.once(
            ["examples", data, config.prompt, config.target, must_read, checked],
            lambda: load_or_count(config.data, config.prompt, config.target, must_read, form),
        )
        return dict(splits), [*findings], read


def form_key(config: Config, form: AnyForm) -> list[Any]:
    """Return all that the ids of a text depend on: the tokenizer, by its files and what was made of them, and the form.

    It is the same for two bases with one tokenizer. Where the files are not known, it has the base's name.
    """
    tokenizer = form.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    others = {*CONFIG, *STOPS}
    files = {
        name: digest
        for name, digest in base_hashes(config.model, config.pin).items()
        if name not in others and not name.endswith((".index.json", ".safetensors"))
    }
    made = [type(tokenizer).__qualname__, hash_of(backend.to_str()) if backend else None]
    template = form.chat.model_dump(mode="json") if isinstance(form, ChatForm) else form.template
    return [made, files or [config.model, config.pin.revision], template, form.encoder_decoder]
