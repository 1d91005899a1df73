"""Reads a saved adapter: exactly the tensors that its method saves, and nothing else that its files may name.

An adapter may come from anywhere, and be damaged in any way. So the model is built from the method's own settings. Only
numbers are taken from the files, after their names, shapes and types were compared with those that `save` writes.
"""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.errors import SetupError
from bakeoff.store.checksums import open_file

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

MEND = "Try: restore the adapter as it was saved, or remove its folder and run bakeoff again"
LARGEST_TEXT = 2**24  # bytes of JSON, as a file or as a header; that of a model of 10,000 tensors has a tenth
OF_THE_MACHINE = {"peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"}


def refuse(file: Path, what: str) -> SetupError:
    """Return the error for a file that is not what was saved."""
    return SetupError(f"{file}: {what}. {MEND}")


def check_file(file: Path) -> int:
    """Return the size of a regular file; raise SetupError if it is not one, or cannot be read."""
    try:
        with open_file(file) as stream:
            return os.fstat(stream.fileno()).st_size
    except FileNotFoundError:
        raise refuse(file, "missing") from None
    except OSError as error:
        raise SetupError(f"{file}: cannot be read ({error.strerror})") from None


def read_mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; raise SetupError if there is none."""
    if check_file(file) > LARGEST_TEXT:
        raise refuse(file, f"larger than the {LARGEST_TEXT:,} bytes allowed for this file")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise refuse(file, "damaged (not JSON)") from None
    if not isinstance(content, dict):
        raise refuse(file, f"damaged (expected keys and values, got {content!r:.40})")
    return content


def read_tensors(file: Path, wanted: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Return a safetensors file's tensors by name, on the CPU.

    Raises SetupError unless they are those `wanted`, by name, shape and data type, and all finite. No tensor is read
    before names, shapes and types are known to be right.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    size = check_file(file)
    with file.open("rb") as stream:
        header = stream.read(8)
    if len(header) < 8 or struct.unpack("<Q", header)[0] > min(size, LARGEST_TEXT):
        raise refuse(file, "damaged (not a safetensors file)")
    tensors = {}
    try:
        with safe_open(file, "pt") as stored:
            check_names(file, stored.keys(), wanted)
            for name, like in wanted.items():
                part = stored.get_slice(name)
                there = (part.get_dtype(), tuple(part.get_shape()))
                if there != kind_of(like):
                    here = shown(kind_of(like))
                    raise refuse(file, f"{name!r:.200} is {shown(there)}, but this method and base have {here}")
            for name in wanted:
                tensors[name] = stored.get_tensor(name)
                if not torch.isfinite(tensors[name]).all():
                    raise refuse(file, f"{name!r:.200} contains numbers that are not finite")
    except SafetensorError as error:
        raise refuse(file, f"damaged ({str(error).strip():.200})") from None
    return tensors


KINDS = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.uint8": "U8", "torch.bool": "BOOL",
}  # fmt: skip


def kind_of(tensor: "torch.Tensor") -> tuple[str, tuple[int, ...]]:
    """Return a tensor's data type, as safetensors names it, and its shape."""
    return KINDS.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape)


def shown(kind: tuple[str, tuple[int, ...]]) -> str:
    """Return a tensor's data type and shape in words."""
    return f"{kind[0]} of {'x'.join(map(str, kind[1])) or 'no axis'}"


def check_names(file: Path, there: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise SetupError unless a file has exactly the tensors that are wanted."""
    missing, foreign = sorted(set(wanted) - set(there)), sorted(set(there) - set(wanted))
    if missing or foreign:
        first = f"{missing[0]} is missing" if missing else f"{foreign[0]!r:.200} is not among them"
        raise refuse(
            file, f"its tensors are not those of this method, base and settings ({first}; {len(missing)} missing, "
            f"{len(foreign)} foreign)"
        )  # fmt: skip


def check_config(file: Path, own: "dict[str, Any]", free: Iterable[str]) -> None:
    """Raise SetupError if PEFT's config differs from what the settings make of it; fields in `free` may differ.

    This module does not use the file. But if it differs, it belongs to another adapter, or makes plain PEFT load
    another model.
    """
    stored, here = read_mapping(file), json.loads(json.dumps(own, default=sorted))  # sets, which JSON has not
    if "peft_type" not in stored:
        raise refuse(file, "peft_type is missing")
    for key in sorted((stored.keys() & here.keys()) - OF_THE_MACHINE - set(free)):
        there, wanted = (sorted(map(str, v)) if isinstance(v, list) else v for v in (stored[key], here[key]))
        if there != wanted:
            raise refuse(file, f"{key} is {there!r:.80}; the run's settings make it {wanted!r:.80}")


def load_peft(adapted: "PeftModel", folder: Path, free: Iterable[str] = ()) -> "PeftModel":
    """Return a model that PEFT has adapted, with the tensors in `folder`, which must be those that it would save."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    config = adapted.peft_config["default"]
    config.inference_mode = True  # a prompt encoder's output is what is saved, and takes its place
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # as in training; PEFT has some in the precision of the base
    check_config(folder / "adapter_config.json", config.to_dict(), free)
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    set_peft_model_state_dict(adapted, read_tensors(folder / "adapter_model.safetensors", wanted))
    return adapted
