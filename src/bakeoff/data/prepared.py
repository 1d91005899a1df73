"""The run folder's data/: examples and their token ids. No other module writes it.

Tokens are written while a plan is made, which may still be refused. The examples follow when the plan is carried out,
and last made.json, which says what all of it was made from: without it, the data belong to no plan.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bakeoff.data.examples import Example
from bakeoff.data.forms import AnyForm, as_tested
from bakeoff.data.sources import Splits
from bakeoff.data.token_file import StoredTokens, load_tokens, save_tokens
from bakeoff.data.tokenizer_checks import whole_lengths
from bakeoff.data.tokens import encode, longest_output, target_lengths, widest_template
from bakeoff.store.checksums import digests
from bakeoff.store.documents import ExampleRow
from bakeoff.store.files import replacing, write_json, write_jsonl
from bakeoff.store.run_folder import SPLITS, Folder


@dataclass(frozen=True)
class PreparedData:
    """The data of one plan in a run folder; `data_fingerprint` is a hash of everything that determines them."""

    folder: Folder
    splits: Splits
    data_fingerprint: str

    def is_current(self) -> bool:
        """Return whether the folder's data are complete and belong to this plan."""
        return self.folder.holds(self.data_fingerprint)

    def encode(self, form: AnyForm, max_tokens: int, max_new_tokens: int | None) -> tuple[dict[str, StoredTokens], int]:
        """Write every split's token ids, unless they exist; return them, and how many tokens an output may have.

        Test prompts leave room for `max_new_tokens`, or for outputs of the usual length if that is None. Training
        prompts always leave room for the usual length, so that training stays the same if other outputs are asked for.
        """
        train: Sequence[Example] = self.splits["train"]
        widest = max(widest_template(self.splits[split], form) for split in SPLITS)
        if not self.is_current():
            usual = longest_output(target_lengths(train, form), form, max_tokens, widest)
            for split in SPLITS:
                room = (max_new_tokens or usual) if split == "test" else usual
                rows = encode(
                    self.splits[split], as_tested(form) if split == "test" else form, max_tokens, room, f"data.{split}"
                )
                save_tokens(self.folder.tokens_file(split), rows)
        tokens = {split: load_tokens(self.folder.tokens_file(split)) for split in SPLITS}
        if max_new_tokens is None:
            max_new_tokens = longest_output(whole_lengths(tokens["train"], train, form), form, max_tokens, widest)
        return tokens, max_new_tokens

    def take(self, tokens: Mapping[str, StoredTokens]) -> None:
        """Copy the token ids that were made for another plan, unless they exist."""
        for split in () if self.is_current() else SPLITS:
            source, target = tokens[split].path, self.folder.tokens_file(split)
            if source != target:
                with source.open("rb") as made, replacing(target, "wb") as file:
                    shutil.copyfileobj(made, file)

    def complete(self) -> None:
        """Write the examples beside their tokens, and what both were made from."""
        if self.is_current():
            return
        folder = self.folder
        folder.made_file.unlink(missing_ok=True)
        for split in SPLITS:
            rows = (ExampleRow.model_validate(example.row()) for example in self.splits[split])
            write_jsonl(folder.examples_file(split), (row.row() for row in rows))
        files = [file(split) for file in (folder.examples_file, folder.tokens_file) for split in SPLITS]
        write_json(folder.made_file, {"data_fingerprint": self.data_fingerprint, "files": digests(folder.path, files)})
