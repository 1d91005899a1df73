"""The folder of an adapter: written after training, and read with the care that files from anywhere need.

Besides what the method saves it contains `bakeoff.json`: method, settings, base and template.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from peft import PeftModel
from torch import nn

from bakeoff.compute.model.base import Base
from bakeoff.compute.model.kernels import skip_casts
from bakeoff.config.config import Config
from bakeoff.errors import BakeoffError, SetupError
from bakeoff.hub import PICKLED, base_hashes, base_identity, base_stamps, model_folder
from bakeoff.library_errors import one_line
from bakeoff.methods import Method, build_method
from bakeoff.methods.saved import MEND, read_mapping, refuse
from bakeoff.store.files import detach, give_rights, write_json
from bakeoff.store.plan_document import BaseFacts
from bakeoff.store.records import Quantize

MANIFEST = "bakeoff.json"


def save_adapter(folder: Path, adapted: nn.Module, method: Method, config: Config, quantize: Quantize = "none") -> None:
    """Write the adapter, and beside it what `load_adapter` needs: method, settings, base, template."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():  # of an earlier training: PEFT writes into what is there
        detach(file)
    for peft_config in getattr(adapted, "peft_config", {}).values():
        for name, value in vars(peft_config).items():
            if isinstance(value, set):  # would be written in another order by another process
                setattr(peft_config, name, sorted(value))
    with no_card():
        method.save(adapted, folder)
    give_rights(folder)
    manifest = {
        "method": method.name,
        "settings": method.model_dump(),
        "model": config.model,
        "revision": config.revision,
        "model_identity": base_identity(config.model, config.pin),
        "quantize": quantize,
        "template": config.template,
    }
    write_json(folder / MANIFEST, manifest)


@contextmanager
def no_card() -> Iterator[None]:
    """Let PEFT save adapters without its card: that has only names, and is made with a template engine."""
    with patch.object(PeftModel, "create_or_update_model_card", lambda self, output_dir: None):
        yield


def load_adapter(base: Base, folder: Path, expected: Mapping[str, Any] | None = None) -> nn.Module:
    """Return the base with the adapter in `folder` on it, frozen and in eval mode; a pickle is never read.

    `expected` are fields that its `bakeoff.json` must have. Raises SetupError unless the folder holds exactly what
    its method saves of this base.
    """
    method = saved_method(folder, expected or {})
    with one_line(f"{folder}: {method.name} cannot be applied to this base", MEND):
        adapted = nn.Module.to(method.load(base.model, folder), base.model.device).requires_grad_(False).eval()
    skip_casts(adapted)
    return adapted


def saved_method(folder: Path, expected: Mapping[str, Any]) -> Method:
    """Return the method that made an adapter, with its settings; raise SetupError if the folder is not an adapter's."""
    try:
        names = sorted(file.name for file in folder.iterdir())
    except OSError as error:
        raise SetupError(f"{folder}: its adapter cannot be read ({error.strerror})") from None
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled:
        raise SetupError(
            f"{folder}: contains {pickled[0]}, a pickle, which can run any code when it is read. Remove it"
        )
    file = folder / MANIFEST
    manifest = read_mapping(file)
    if other := difference(manifest, expected):
        raise refuse(file, other)
    check_base_name(folder / "adapter_config.json", manifest.get("model"))
    name, settings = manifest.get("method"), manifest.get("settings")
    if not isinstance(name, str) or not isinstance(settings, dict):
        raise refuse(file, "does not name a method and its settings")
    try:
        return build_method(name, {**settings, "method": name})
    except BakeoffError as error:
        raise refuse(file, str(error)) from None


def difference(found: Mapping[str, Any], expected: Mapping[str, Any], of: str = "") -> str | None:
    """Return in words the first of the expected fields that differs, of the innermost mapping; None if all agree."""
    for key, value in expected.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict) and other.keys() == value.keys():
            if inner := difference(other, value, f"{of}{key}."):
                return inner
        elif other != value:
            return f"{of}{key} is {other!r:.80} here, but {value!r:.80} in the run folder's records"
    return None


def check_base_name(config_file: Path, model: Any) -> None:
    """Raise SetupError if PEFT's config names another base than `bakeoff.json`: plain PEFT would load that one."""
    named = read_mapping(config_file).get("base_model_name_or_path") if config_file.exists() else None
    if named and model != "base" and named != model:  # the embedded base has no name but where it is installed
        raise refuse(config_file, f"names the base {named!r:.80}, but the run used {model!r:.80}")


def check_base(config: Config, planned: BaseFacts, which: str = "that the adapter was trained on") -> None:
    """Raise SetupError if the base's files are not those of the bakeoff; `planned` is what its plan says about them.

    Unchanged sizes and times are enough; else the content is compared, which takes a second per gigabyte.
    """
    model_folder(config.model, config.pin, ask_hub=False)  # raises where it is not there any more
    known = planned.identity
    if known is None or planned.files == base_stamps(config.model, config.pin):
        return
    if base_identity(config.model, config.pin) == known:
        return
    now, weights = base_hashes(config.model, config.pin), planned.weights
    changed = sorted(name for name, checksum in weights.items() if now.get(name) != checksum)
    what = f"{changed[0]} has changed" if changed else "its config or tokenizer has changed"
    raise SetupError(
        f"model: {config.model}: not the base {which} ({what}, by its SHA-256). "
        "Try: restore its files, or bakeoff run again"
    )
