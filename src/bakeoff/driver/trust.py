"""What a run folder's config may use: everything if it is the user's own, else only what the user allows.

A config that the user names is their own. The config in a run folder is their own if they ran the bakeoff: the tag of
the folder then has a signature of the config, made with a key that never leaves their home.
"""

from pathlib import Path

from bakeoff.config.config import Config
from bakeoff.config.names import is_function, metric_model
from bakeoff.errors import SetupError
from bakeoff.store.checksums import read_mapping, read_whole
from bakeoff.store.run_folder import Folder
from bakeoff.store.signature import is_signed


def is_own(folder: Folder) -> bool:
    """Return whether this user made a run folder's config, or trusted it before, and nobody has changed it since."""
    try:
        content, tag = read_whole(folder.config_file), read_mapping(folder.tag_file)
    except OSError:
        return False
    # The one before counts too: a session may have been killed after it signed its config and before it wrote it.
    return any(is_signed(content, tag.get(key)) for key in ("signature", "signature_before"))


def model_wishes(config: Config) -> list[str]:
    """Return what a config asks for its model: that its code is run, or that a folder of its choice is opened."""
    wanted = [f"the code of the model {config.trust_remote_code}"] if config.trust_remote_code else []
    return wanted + ([f"the model in {config.model}"] if Path(config.model).is_absolute() else [])


def wishes(config: Config) -> list[str]:
    """Return everything that a config would use: code and folder of the model, functions that score, and trackers."""
    functions = [f"the function {name}" for name in config.metrics if is_function(name)]
    models = [found[1] for name in config.metrics if (found := metric_model(name))]
    functions += [f"the model in {model}" for model in models if Path(model).is_absolute()]
    return [*model_wishes(config), *functions, *(f"the tracker {name}" for name in config.trackers)]


def check_trusted(folder: Folder, config: Config, asked: list[str], trust: bool) -> None:
    """Raise SetupError if a run folder from elsewhere `asked` for what `config` still contains, unless `trust`."""
    wanted = [wish for wish in asked if wish in wishes(config)]
    if wanted and not trust and not is_own(folder):
        raise SetupError(
            f"{folder.path}: bakeoff did not write its config.yaml for you on this machine, or it was edited since, "
            f"and it uses {', '.join(wanted)}. Try: read it, then add --trust (trust=True in Python), or run your own "
            f"config again"
        )
