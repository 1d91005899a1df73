"""The server of runs whose outputs are only scored again: imports what scores them, and forks a process for each run.

`python -P -m bakeoff.compute.run.scorer [PLACE...]` carries out requests (see `request`). Runs that need a model have
another server, because this one starts in a second, and because the memory of a training is measured: the libraries
that score would be part of it.
"""

import sys
from contextlib import suppress
from functools import cache

from bakeoff.compute.run.request import open_channel, serve
from bakeoff.config.names import metric_model
from bakeoff.config.planned import planned_config
from bakeoff.scoring.metrics import is_plain, score_outputs
from bakeoff.store.run_folder import Folder


def load_scorers(folder: Folder) -> None:
    """Load the libraries of a bakeoff's metrics, but none of the user's code."""
    with suppress(Exception):  # the run itself fails with a reason
        load_libraries(tuple(planned_config(folder, folder.plan()).metrics))


@cache
def load_libraries(names: tuple[str, ...]) -> None:
    """Load the libraries of the metrics named."""
    score_outputs([*filter(is_plain, names)], ["a"], [["a"]])
    if any(map(metric_model, names)):
        import transformers  # noqa: F401 - and not the model: computing would start threads, which no fork survives


if __name__ == "__main__":
    serve(sys.stdin, open_channel(sys.argv[1:]), load_scorers)
