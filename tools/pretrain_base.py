"""Pretrain the embedded base model: `make base` (resumable; the same inputs give the same weights).

Builds the corpus (base_corpus.py), trains a small GPT-2-architecture model on it and exports it with its model
card into the package. Work files live in build/base; a checkpoint every few minutes makes the command resumable.

The learning rate is constant after a short warm-up and falls linearly to zero over the last DECAY_SHARE of the
tokens, so a run that has not begun to decay can be prolonged by a larger --tokens. Matrices inside the blocks
are trained with Muon (Keller Jordan, 2024: momentum orthogonalised by a Newton-Schulz iteration), the rest with
AdamW: at this size Muon reaches the same loss with markedly fewer tokens, and tokens are what two cores lack.
"""

import argparse
import json
import math
import os
import platform
import time
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from bakeoff.compute.model.device import CPU, native_precision
from base_card import write_card
from base_corpus import build

ASSET = Path(__file__).parent.parent / "src/bakeoff/assets/base"
BATCH_TOKENS = 8192
WARMUP_STEPS = 60
DECAY_SHARE = 0.35
SHORT_TOKENS = 4_000_000  # sequences of 128 tokens until here, then 256; 512 while the rate decays
MUON_RATE, ADAM_RATE = 0.02, 3e-3
CHECKPOINT_SECONDS = 240


class Muon(torch.optim.Optimizer):
    """SGD momentum whose update is replaced by its nearest semi-orthogonal matrix.

    torch.optim.Muon iterates in bf16 whatever the processor (one without bf16 units emulates it a thousand times
    slower) and one matrix at a time; here matrices of one shape are iterated together.
    """

    def __init__(self, params: list, lr: float, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Apply one update to every matrix; a (d, 3d) fused q, k, v weight counts as three."""
        for group in self.param_groups:
            parts: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = {}
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                buffer = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(buffer, group["momentum"])
                width = weight.shape[0] if weight.shape[1] == 3 * weight.shape[0] else weight.shape[1]
                for target, part in zip(weight.split(width, dim=1), update.split(width, dim=1), strict=True):
                    parts.setdefault(part.shape, []).append((target, part))
            for pairs in parts.values():
                updates = orthogonalise(torch.stack([part for _, part in pairs]))
                for (target, _), update in zip(pairs, updates, strict=True):
                    target.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Five quintic Newton-Schulz steps with Jordan's coefficients, scaled by sqrt(max(1, outputs / inputs)).

    `matrices` (n, inputs, outputs), as GPT-2 stores them.
    """
    inputs, outputs = matrices.shape[1:]
    x = matrices.mT if inputs > outputs else matrices
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(torch.bfloat16 if native_bf16() else torch.float32)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if inputs > outputs else x).float() * max(1, outputs / inputs) ** 0.5


def native_bf16() -> bool:
    """Return whether products in bf16 are the faster ones here, by the rule that bakeoff itself follows."""
    return native_precision(CPU) == "bf16"


def make_model(end: int) -> GPT2LMHeadModel:
    """Return the seeded, untrained model; its activation is GPT-2's own, by the name torch has fused.

    Compiled, plain attention trains faster on a CPU at these lengths than the fused kernel, whose backward is slow.
    """
    torch.manual_seed(0)
    config = GPT2Config(
        attn_implementation="eager", activation_function="gelu_pytorch_tanh",
        vocab_size=8192, n_positions=512, n_embd=256, n_layer=5, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=end, eos_token_id=end, pad_token_id=end,
        use_cache=False,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def lr_multiplier(step: int, steps: int) -> float:
    """Return the learning rate's multiplier: warm-up, constant, linear decay to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (DECAY_SHARE * steps))


def sequence_length(step: int, steps: int) -> int:
    """Return how many tokens a training sequence holds at this step."""
    if steps - step <= DECAY_SHARE * steps:
        return 512
    return 128 if step * BATCH_TOKENS < SHORT_TOKENS else 256


def batch(stream: numpy.ndarray, step: int, length: int) -> torch.Tensor:
    """Return (sequences, length) token ids that depend on nothing but the step.

    One pass over the corpus at a time: the stream is cut into windows from an offset of the epoch's own, and the
    windows are visited in a seeded order.
    """
    windows = (len(stream) - 512) // length
    count = BATCH_TOKENS // length
    epoch, position = divmod(step * count, windows - windows % count)
    generator = numpy.random.default_rng((7, epoch, length))
    offset = int(generator.integers(512))
    starts = generator.permutation(windows)[position : position + count] * length + offset
    return torch.from_numpy(numpy.stack([stream[s : s + length] for s in starts]).astype(numpy.int64))


def token_loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean next-token cross-entropy in nats."""
    with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16()):
        logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, stream: numpy.ndarray, sequences: int) -> float:
    """Return the mean loss in nats per token over evenly spaced 512-token windows of the held-out packages."""
    model.eval()
    starts = numpy.linspace(0, len(stream) - 512, sequences).astype(int)
    losses = [token_loss(model, torch.from_numpy(stream[s : s + 512].astype(numpy.int64))[None]) for s in starts]
    model.train()
    return float(torch.stack(losses).mean())


def save_checkpoint(path: Path, model: torch.nn.Module, optimizers: list, step: int, seconds: float) -> None:
    """Write weights, optimizer state and position in one atomic rename."""
    state = {
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def train(work: Path, tokens: int) -> dict:
    """Train to `tokens` tokens, from the last checkpoint where there is one; return what the card reports."""
    train_stream, held_out = (numpy.load(work / f"{split}.npy", mmap_mode="r") for split in ("train", "held_out"))
    model = make_model(PreTrainedTokenizerFast.from_pretrained(work / "tokenizer").eos_token_id).train()
    matrices = [p for n, p in model.named_parameters() if ".h." in n and p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers = [
        Muon(matrices, MUON_RATE),
        torch.optim.AdamW(others, ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    steps, start, seconds = math.ceil(tokens / BATCH_TOKENS), 0, 0.0
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        start, seconds = state["step"], state["seconds"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    train_loss = torch.compile(token_loss)
    clock = saved_at = time.perf_counter()
    for step in range(start, steps):
        for optimizer, rate in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = rate * lr_multiplier(step, steps)
        loss = train_loss(model, batch(train_stream, step, sequence_length(step, steps)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        now = time.perf_counter()
        if (step + 1) % 20 == 0:
            speed = (step + 1 - start) * BATCH_TOKENS / (now - clock)
            print(f"step {step + 1}/{steps} loss {loss.item():.3f} {speed:,.0f} tokens/s", flush=True)
        if (step + 1) % 100 == 0:
            print(f"step {step + 1} held-out loss {held_out_loss(model, held_out, 64):.3f}", flush=True)
        if now - saved_at > CHECKPOINT_SECONDS or step + 1 == steps:
            save_checkpoint(checkpoint, model, optimizers, step + 1, seconds + now - clock)
            saved_at = now
    if start < steps:
        seconds += time.perf_counter() - clock
    loss = held_out_loss(model, held_out, 256)
    export(work, model)
    parameters = sum(p.numel() for p in model.parameters())
    return {"tokens_seen": steps * BATCH_TOKENS, "held_out_loss": loss, "seconds": seconds, "parameters": parameters}


def export(work: Path, model: GPT2LMHeadModel) -> None:
    """Write config, tokenizer and fp16 weights into the package; fp16 keeps three more bits than bf16."""
    ASSET.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = model.generation_config.use_cache = True
    model.set_attn_implementation("sdpa")
    model.save_pretrained(ASSET)
    weights = {name: weight.half().contiguous() for name, weight in load_file(ASSET / "model.safetensors").items()}
    save_file(weights, ASSET / "model.safetensors", metadata={"format": "pt"})
    PreTrainedTokenizerFast.from_pretrained(work / "tokenizer").save_pretrained(ASSET)


def main() -> None:
    """Build what is missing, train, export, write the card."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=30_000_000)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent.parent / "build/base")
    arguments = parser.parse_args()
    facts = arguments.work / "corpus.json"
    corpus = json.loads(facts.read_text()) if facts.exists() else build(arguments.work)
    result = train(arguments.work, arguments.tokens)
    result["bits_per_byte"] = (
        result["held_out_loss"] / math.log(2) * corpus["held_out"]["tokens"] / corpus["held_out"]["bytes"]
    )
    result["hardware"] = hardware()
    result["date"] = time.strftime("%Y-%m-%d")
    (arguments.work / "result.json").write_text(json.dumps(result, indent=1))
    precision = "bf16 products" if native_bf16() else "fp32"
    recipe = {
        "precision": precision,
        "batch_tokens": BATCH_TOKENS,
        "short_tokens": SHORT_TOKENS,
        "decay": DECAY_SHARE,
        "muon": MUON_RATE,
    }
    write_card(ASSET / "README.md", make_model(0).config, corpus, result, recipe | {"adam": ADAM_RATE})
    print(json.dumps(result, indent=1))


def hardware() -> str:
    """Return processor, cores and torch version in a few words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {name}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
