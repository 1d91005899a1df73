"""The common base of methods that train weights of the base model itself. PEFT has no format for these.

This module freezes and saves tensors; a method only says which of them it trains.
"""

import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bakeoff.errors import SetupError
from bakeoff.methods.method import Method, beside_text, passes_text
from bakeoff.methods.packed import bits_of
from bakeoff.methods.saved import read_mapping, read_tensors, refuse

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class BaseWeights(Method):
    """A method that trains some weights of the base where they are."""

    starts_as_base: ClassVar[bool] = True

    @abstractmethod
    def chosen(self, model: "PreTrainedModel") -> "Iterable[nn.Parameter]":
        """Return the weights to be trained; raise SetupError if the model has no such weights."""

    def adapt(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None") -> "nn.Module":
        """Return `model` itself with the chosen weights unfrozen."""
        beside = beside_text(model)
        idle = {p for n, p in model.named_parameters() if not passes_text(n, beside)} if beside else set()
        chosen = [p for p in self.chosen(model) if p not in idle]
        if any(map(bits_of, chosen)):
            raise SetupError(
                f"{self.name}: trains weights of the base itself, which cannot be trained in few bits. Try: quantize: "
                "none for this entry, or lora"
            )
        model.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)
        return model

    def save(self, adapted: "nn.Module", folder: Path) -> None:
        """Write the trained tensors as safetensors, and a manifest of their names and shapes."""
        from safetensors.torch import save_file

        tensors = {n: p.detach().contiguous() for n, p in adapted.named_parameters() if p.requires_grad}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "tensors.safetensors", metadata={"format": "pt"})
        (folder / "tensors.json").write_text(json.dumps(described(tensors), indent=1) + "\n")

    def load(self, model: "PreTrainedModel", folder: Path) -> "nn.Module":
        """Return `model` with the saved tensors in place of its own, frozen.

        Raises SetupError if they are not the tensors that this method trains in this model.
        """
        import torch

        adapted = self.adapt(model, None)
        weights = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        manifest = folder / "tensors.json"
        wanted = {n: torch.empty_like(p, dtype=torch.float32, device="meta") for n, p in weights.items()}  # as trained
        if read_mapping(manifest) != described(wanted):
            raise refuse(manifest, "describes other tensors than this method, base and settings have")
        saved = read_tensors(folder / "tensors.safetensors", wanted)
        for name, weight in weights.items():
            weight.data = saved[name].to(weight.device)  # the same parameter, so ties hold; fp32 over a bf16 base too
        return adapted.requires_grad_(False)


def described(tensors: "Mapping[str, torch.Tensor]") -> dict[str, dict[str, Any]]:
    """Return the manifest of tensors: the shape and data type of each."""
    return {n: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for n, t in tensors.items()}
