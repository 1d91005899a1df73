"""Our loop trains as PEFT with HF Trainer does: the same batches, the same losses, for a method of each kind."""

import pytest
import torch
from peft import (
    HiraConfig,
    IA3Config,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    ShiraConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import Trainer as HFTrainer
from transformers import TrainingArguments

from bakeoff.compute.model.base import adapt, trainable
from bakeoff.compute.training.batches import epoch_batches, padded
from bakeoff.compute.training.loop import Trainer, steps_in
from bakeoff.config.sections import ProtocolConfig
from bakeoff.data.tokens import Tokens
from bakeoff.methods import build_method
from bakeoff.methods.method import quiet_peft
from bakeoff.testing import family_base

ROWS = [Tokens(list(range(9 + i, 14 + 2 * i)), [20 + i] * (1 + i % 3) + [0]) for i in range(20)]
PROTOCOL = ProtocolConfig(epochs=4, batch_size=4, schedule="constant", warmup_share=0, precision="fp32")
STEPS = steps_in(len(ROWS), PROTOCOL)
# At which each learns in so few steps.
RATES = {"lora": 0.01, "ia3": 0.3, "prefix_tuning": 0.01, "oft": 0.01, "shira": 0.01, "vera": 0.1, "hira": 0.1}
ALL = {"target_modules": "all-linear"}
METHODS = {
    "lora": ({"r": 4, "lora_alpha": 8, "target_modules": ".*attn.c_attn|.*SelfAttention.[qv]"},
             lambda **kw: LoraConfig(r=4, lora_alpha=8, target_modules=".*attn.c_attn|.*SelfAttention.[qv]", **kw)),
    "ia3": ({}, lambda **kw: IA3Config(**kw)),
    "prefix_tuning": ({"num_virtual_tokens": 4}, lambda **kw: PrefixTuningConfig(num_virtual_tokens=4, **kw)),
    "oft": ({"oft_block_size": 4}, lambda **kw: OFTConfig(oft_block_size=4, **ALL, **kw)),
    "shira": ({"r": 4}, lambda **kw: ShiraConfig(r=4, random_seed=0, **ALL, **kw)),
    "vera": ({"r": 16}, lambda **kw: VeraConfig(r=16, **ALL, **kw)),
    "hira": ({"r": 4}, lambda **kw: HiraConfig(r=4, **ALL, **kw)),
}  # fmt: skip
# Of each kind: low rank, activations, keys and values; rotations, single numbers, shared projections, products.
PAIRS = [(name, family) for name in ("lora", "ia3", "prefix_tuning") for family in ("gpt2", "t5")]
PAIRS += [("oft", "llama"), ("shira", "t5"), ("vera", "gpt2"), ("hira", "llama")]


class Recording(HFTrainer):
    """HF Trainer that keeps every step's loss."""

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(float(loss.detach()))
        return loss


def batch_for_hf(rows, causal):
    """A right-padded batch with labels, as transformers' models take it."""
    texts = [row.prompt + row.target if causal else row.prompt for row in rows]
    labels = [[-100] * len(row.prompt) + row.target if causal else row.target for row in rows]
    return {
        "input_ids": padded(texts, 0),
        "attention_mask": padded([[1] * len(text) for text in texts], 0),
        "labels": padded(labels, -100),
    }


def our_losses(name, family):
    """The trainer before its training, a copy of its first weights, and a function that trains and returns losses."""
    base = family_base(family)
    torch.manual_seed(1)
    method = build_method(name, {"method": name, "learning_rate": RATES[name], **METHODS[name][0]})
    trainer = Trainer(base, adapt(base, method), method, PROTOCOL, 5, lambda kind, values: None)
    first = {n: p.detach().clone() for n, p in trainable(trainer.adapted).items()}
    losses, backward = [], trainer._backward

    def recorded(members):
        parts = backward(members)
        losses.append(sum(float(part.sum()) for part in parts) / sum(len(ROWS[i].target) for i in members))
        return parts

    trainer._backward = recorded
    trainer.train(ROWS, ROWS[:2])
    return first, losses


def hf_losses(name, family, first, folder):
    """The losses of PEFT with HF Trainer from the same first weights, on the same batches."""
    base = family_base(family)
    causal = base.decoder_start is None
    fan = {"fan_in_fan_out": True} if family == "gpt2" and name != "prefix_tuning" else {}
    with quiet_peft():
        config = METHODS[name][1](task_type="CAUSAL_LM" if causal else "SEQ_2_SEQ_LM", **fan)
        model = get_peft_model(base.model, config).eval()
    with torch.no_grad():
        for weight, (key, start) in zip(trainable(model).items(), first.items(), strict=True):
            assert weight[0] == key
            weight[1].copy_(start)
    model.train = lambda mode=True: model  # frozen parts keep their dropout off, as ours do
    lengths = [len(row) for row in ROWS]
    batches = [
        batch_for_hf([ROWS[i] for i in members], causal)
        for epoch in range(PROTOCOL.epochs)
        for members in epoch_batches(lengths, PROTOCOL.batch_size, 5, epoch)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1, learning_rate=RATES[name],
        lr_scheduler_type="constant", max_grad_norm=PROTOCOL.clip_norm, weight_decay=0.0, logging_strategy="no",
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", remove_unused_columns=False,
    )  # fmt: skip
    trainer = Recording(model=model, args=arguments, train_dataset=batches, data_collator=lambda rows: rows[0])
    trainer.losses = []
    trainer.train()
    return trainer.losses


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_twenty_steps_have_the_losses_of_peft_and_hf_trainer(name, family, tmp_path):
    first, ours = our_losses(name, family)
    theirs = hf_losses(name, family, first, tmp_path)
    assert len(ours) == len(theirs) == 20
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert min(ours) < ours[0] - 0.05  # they learn: equal constants would prove nothing
