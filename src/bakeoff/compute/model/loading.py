"""Loads the config, tokenizer and class of a model folder with transformers, within limits.

A config may come from a stranger. A few bytes can ask for 10^9 layers, so its numbers are checked before anything is
built, and the tensors that are built are counted.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from bakeoff.collector import uncollected
from bakeoff.config.sections import LATEST, Pin
from bakeoff.errors import SetupError
from bakeoff.hub import ALLOWED, CODE, CONFIG, TOKENIZER, fetch, model_folder, on_hub
from bakeoff.library_errors import one_line
from bakeoff.model_files import weight_files
from bakeoff.store.content_hash import Stamped, stamped
from bakeoff.store.files import ASSETS

# Shapes of well-known hub models, which never change: a plan of one needs no network, no token and no weights.
KNOWN_SHAPES: dict[str, dict[str, Any]] = json.loads((ASSETS / "shapes.json").read_text(encoding="utf-8"))
CONFIG_BYTES = 10**7
MOST_PARTS = 10**5  # of anything that a config counts: transformers makes lists of them
MOST_TENSORS = 200_000  # of a model; the largest open ones, their experts one by one, have 70,000
VOCABULARIES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
COUNTS = ("layer", "block", "depth", "expert", "head", "label", "stage", "group")
NO_COUNTS = (
    "vocab", "word", "embed", "size", "dim", "position", "ctx", "token", "param", "_id", "step", "sample", "epoch",
    "example", "train",
)  # fmt: skip


def load_tokenizer(name: str, pin: Pin = LATEST) -> Any:
    """Return the base's tokenizer; raise SetupError if it cannot be loaded."""
    folder = model_folder(name, pin, TOKENIZER)
    files = (file for pattern in (*TOKENIZER, *CODE) for file in folder.glob(pattern) if file.is_file())
    return _load_tokenizer(name, pin, folder, stamped(files))


@lru_cache(maxsize=2)
def _load_tokenizer(name: str, pin: Pin, folder: Path, files: tuple[Stamped, ...]) -> Any:
    with loading(name, pin, folder) as options, uncollected():
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        ids = tokenizer("text", add_special_tokens=False)["input_ids"]
        tokenizer.decode(ids)
    if not ids:
        raise SetupError(f"model: {name}: its tokenizer files are missing. Copy them from where the weights came from")
    if tokenizer.eos_token_id is None:
        raise SetupError(f"model: {name}: its tokenizer has no end-of-text token, so outputs would never end")
    return tokenizer


def tokenizer_here(name: str, pin: Pin = LATEST) -> Any:
    """Return the base's tokenizer; None for a hub model whose tokenizer cannot be downloaded now."""
    try:
        folder = model_folder(name, pin, TOKENIZER)
    except SetupError:
        if not on_hub(name):
            raise
        return None
    if on_hub(name) and not any((folder / file).exists() for file in VOCABULARIES):
        return None
    return load_tokenizer(name, pin)


def load_shape(name: str, pin: Pin = LATEST) -> PreTrainedConfig:
    """Return the model's own config, or a known one if the hub does not answer or wants a token."""
    try:
        folder = model_folder(name, pin, CONFIG)
    except SetupError:
        if name not in KNOWN_SHAPES:
            raise
        return AutoConfig.for_model(**KNOWN_SHAPES[name])
    return read_config(name, pin, folder)


def read_config(name: str, pin: Pin, folder: Path) -> PreTrainedConfig:
    """Return the config in a model's folder; raise SetupError if it is not one."""
    with loading(name, pin, folder) as options:
        return AutoConfig.from_pretrained(folder, **options)


def check_counts(name: str, file: Path) -> None:
    """Raise SetupError if a config is too large, or counts more of something than any model has."""
    if file.stat().st_size > CONFIG_BYTES:
        raise SetupError(f"model: {name}: config.json has more than {CONFIG_BYTES // 10**6} MB, so it is not a config")
    with one_line(f"model: {name}: config.json is not JSON", ALLOWED):
        left: list[tuple[str, Any]] = [("", json.loads(file.read_text(encoding="utf-8")))]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(str(k).lower(), v) for k, v in value.items()]
        elif isinstance(value, list):
            left += [(key, item) for item in value]
        elif isinstance(value, int) and value > MOST_PARTS and counts(key):
            raise SetupError(f"model: {name}: config.json: {key}: {value}. Allowed: at most {MOST_PARTS}")


def counts(key: str) -> bool:
    """Return whether a config's key is a number of parts, which are then made one by one."""
    counted = key.startswith(("n_", "num_")) or any(part in key for part in COUNTS)
    return counted and not any(part in key for part in NO_COUNTS)


def foreign_code(folder: Path, name: str) -> str | None:
    """Return another repository whose code the model's configs ask for, or None."""
    for file in ("config.json", "tokenizer_config.json"):
        text = (folder / file).read_text(encoding="utf-8") if (folder / file).exists() else ""
        for repository in re.findall(r'"([\w.-]+/[\w.-]+)--[\w.]+"', text):
            if repository != name:
                return repository
    return None


@contextmanager
def loading(name: str, pin: Pin, folder: Path | None) -> Iterator[dict[str, Any]]:
    """Turn errors of transformers into one line; yield the arguments that every call of it needs.

    Code that comes with a model runs only if the config names that model; code of other repositories never runs.
    """
    if folder and (folder / "config.json").exists():  # a tokenizer's class looks into it too
        check_counts(name, folder / "config.json")
    foreign = foreign_code(folder, name) if pin.remote_code and folder else None
    if foreign:
        raise SetupError(f"trust_remote_code: {name} needs code from {foreign}, which was not named, so it is not run")
    with one_line(f"model: {name}: cannot be loaded", ALLOWED):
        try:
            yield {"trust_remote_code": pin.remote_code}
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise SetupError(
                f"model: {name}: comes with its own code, which runs only if you allow it. Read {folder}/*.py, then "
                f"try: trust_remote_code: {name}"
            ) from None


@contextmanager
def counted(name: str, most_tensors: int = MOST_TENSORS) -> Iterator[None]:
    """Limit the number of tensors of a model while it is built; raise SetupError if there are more."""
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > most_tensors:
            raise SetupError(f"model: {name}: config.json describes more than {most_tensors} tensors. {ALLOWED}")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def empty_model(name: str, pin: Pin, config: PreTrainedConfig) -> Any:
    """Return the model of a config on the meta device."""
    with loading(name, pin, None) as options, counted(name), torch.device("meta"):
        return without_values(model_class(config).from_config(config, **options))


def without_values(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model on the meta device in eval mode; its experts are computed without looking at values."""
    model.eval()  # in training some draw which blocks to leave out
    if getattr(model, "_can_set_experts_implementation", lambda: False)():
        model.set_experts_implementation("batched_mm")
    return model


def from_weights(name: str, pin: Pin, folder: Path, **how: Any) -> PreTrainedModel:
    """Return the model of a folder's weights; raise SetupError if they do not fit its config."""
    config = read_config(name, pin, folder)
    most = 1000 + 10 * sum(len(header(name, file)) for file in weight_files(name, folder))  # experts may be one tensor
    with loading(name, pin, folder) as options, quiet(), counted(name, most):
        model, report = model_class(config).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **how, **options
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise SetupError(
            f"model: {name}: {len(missing)} tensors of {type(model).__name__} are missing in its weights ({missing[0]} "
            "first) and would be random. Try: a checkpoint of a language model"
        )
    if report["mismatched_keys"]:
        key, there, asked = min(report["mismatched_keys"], key=str)
        raise SetupError(
            f"model: {name}: {key} has the shape {tuple(there)} in its weights, but {tuple(asked)} by config.json. "
            f"Try: the config.json that was saved with the weights"
        )
    return model


def header(name: str, file: Path) -> list[str]:
    """Return the names of the tensors in a file of weights."""
    with one_line(f"model: {name}: {file.name} is damaged"), safe_open(file, "np") as tensors:
        return [*tensors.keys()]


def check_files(name: str, pin: Pin) -> None:
    """Raise SetupError if a base's files are on this machine but cannot be run."""
    if not on_hub(name):
        fetch(name, pin)
    try:
        folder = model_folder(name, pin, ask_hub=False)
        weights = weight_files(name, folder)
    except SetupError:
        return
    if weights:  # an older client of the hub may have left a part of the files, which a run completes
        check_weights_fit(name, pin, folder)


def check_weights_fit(name: str, pin: Pin, folder: Path) -> None:
    """Raise SetupError if a folder's weights do not fit its config; reads only names and shapes."""
    _check_weights_fit(name, pin, folder, stamped((*folder.glob("*.safetensors"), *folder.glob("*.json"))))


@lru_cache(maxsize=8)
def _check_weights_fit(name: str, pin: Pin, folder: Path, files: tuple[Stamped, ...]) -> None:
    if getattr(read_config(name, pin, folder), "quantization_config", None) is None:  # else packed, in other shapes
        from_weights(name, pin, folder, device_map="meta")


def model_class(config: PreTrainedConfig) -> Any:
    """Return transformers' class for a config's family: causal or encoder-decoder."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def check_tokenizer(name: str, tokenizer: Any, model: nn.Module) -> None:
    """Raise SetupError if the token that ends texts is beyond the model's embeddings."""
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    if tokenizer.eos_token_id >= rows:
        raise SetupError(
            f"model: {name}: its tokenizer ends texts with id {tokenizer.eos_token_id} ({tokenizer.eos_token!r}), and "
            f"its embeddings have {rows} rows. Try: resize_token_embeddings and save_pretrained, or another eos_token"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers: it draws no progress bars, and does not report what bakeoff reports itself."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
