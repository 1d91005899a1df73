"""Datasets of the hub, downloaded and read with the `datasets` library."""

from collections.abc import Collection, Iterator
from typing import Any

from bakeoff.data.folders import SPLITS
from bakeoff.data.lines import Row
from bakeoff.data.tables import BATCH, python_rows
from bakeoff.errors import DataError


class AbsentError(DataError):
    """A hub dataset is not on this machine, and the hub does not answer."""


class HubDataset:
    """A hub dataset with its splits; raises DataError if it cannot be loaded."""

    def __init__(self, name: str, config: str | None, revision: str | None):
        self.name, self.config, self.revision = name, config, revision
        self.splits: list[str] = list(self._load(None))

    def split(self, split: str) -> str | None:
        """Return the dataset's name for a split, or None if it does not have the split."""
        return next((name for name in SPLITS[split] if name in self.splits), None)

    def rows(self, split: str, columns: Collection[str] | None = None) -> Iterator[Row]:
        """Yield a split's rows with only these columns; `split` may be a slice, as in train[:1000]."""
        number, where = 0, f"{self.name} ({split})"
        for table in self._load(split).with_format("arrow").iter(BATCH):
            for values in python_rows(table, where, columns):
                number += 1
                yield Row(where, number, values, unit="row ")

    def _load(self, split: str | None) -> Any:
        import datasets
        from datasets.exceptions import DatasetsError
        from huggingface_hub.errors import HfHubHTTPError

        from bakeoff.hub import offline_unless_reachable

        datasets.disable_progress_bars()
        try:
            with offline_unless_reachable():
                return datasets.load_dataset(self.name, self.config, revision=self.revision, split=split)
        except ConnectionError:
            raise AbsentError(
                f"data.source: {self.name}: not on this machine, and the hub does not answer. Try: name data files"
            ) from None
        except (OSError, ValueError, RuntimeError, KeyError, DatasetsError, HfHubHTTPError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise DataError(
                f"data.source: {self.name}: cannot be loaded ({reason}). Allowed: files, docstrings, a folder, or the "
                "id of a hub dataset, with data.config where it has several"
            ) from None
