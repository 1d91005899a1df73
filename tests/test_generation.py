import random
from collections import Counter
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer

from bakeoff.compute.decoding import greedy
from bakeoff.compute.decoding.greedy import generate, read_and_generate
from bakeoff.compute.model.base import Base, adapt, for_decoding, load_base, trainable
from bakeoff.compute.model.kv_cache import RoomyCache
from bakeoff.compute.training.loss import evaluate_loss
from bakeoff.data.tokens import Tokens
from bakeoff.methods import method_names
from bakeoff.testing.contract import Cell
from bakeoff.testing.families import tokenizer
from tests.test_methods import SETTINGS, adapted_by

PROMPTS = [[random.Random(i).randrange(7, 200) for _ in range(random.Random(i).randint(2, 20))] for i in range(17)]


def reference(base, adapted, prompt, count):
    """HF generate's greedy output for one prompt alone."""
    ids = torch.tensor([prompt])
    out = adapted.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=0,
        pad_token_id=0,
    )[0].tolist()
    new = out[len(prompt) :] if out[: len(prompt)] == prompt else out
    return new[: new.index(0)] if 0 in new else new


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT, of its own dropping of them
@pytest.mark.parametrize("name", ["base", *SETTINGS])
def test_outputs_equal_hf_generate_at_any_batch_size(name, base):
    adapted = base.model if name == "base" else adapted_by(name, base)[1]
    adapted.eval()
    ours = generate(base, adapted, PROMPTS, 12, 16)
    assert ours == generate(base, adapted, PROMPTS, 12, 1)
    assert ours == [reference(base, adapted, prompt, 12) for prompt in PROMPTS]
    assert len({tuple(o) for o in ours}) > 3


@pytest.mark.parametrize("name", ["base", *SETTINGS])
def test_decoding_from_a_bf16_base_does_not_depend_on_batch_mates(name, tiny_model):
    base = load_base(str(tiny_model), "bf16")
    adapted = base.model if name == "base" else adapted_by(name, base)[1]
    decoder = for_decoding(base, adapted, "fp32")
    assert generate(decoder, adapted, PROMPTS, 12, 16) == generate(decoder, adapted, PROMPTS, 12, 1)


def test_rows_that_end_early_leave_the_others_alone(base):
    with torch.no_grad():
        base.model.lm_head.weight = torch.nn.Parameter(base.model.lm_head.weight.clone())
        base.model.lm_head.weight[0] *= 6  # end-of-text comes often, at different steps
    ours = generate(base, base.model, PROMPTS, 20, 16)
    assert ours == [reference(base, base.model, prompt, 20) for prompt in PROMPTS]
    assert len({len(o) for o in ours}) > 2


def test_the_models_own_generation_config_is_not_read(base):
    before = generate(base, base.model, PROMPTS[:4], 8, 4)
    base.model.generation_config.do_sample = True
    base.model.generation_config.repetition_penalty = 5.0
    assert generate(base, base.model, PROMPTS[:4], 8, 4) == before


def test_batches_are_halved_where_memory_runs_out_and_sized_by_their_cache(base, monkeypatch):
    whole = generate(base, base.model, PROMPTS, 6)
    plain, sizes = greedy.decoding, []

    def short_of_memory(base, adapted, prompts, *rest):
        sizes.append(len(prompts))
        if len(prompts) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(base, adapted, prompts, *rest)

    monkeypatch.setattr(greedy, "decoding", short_of_memory)
    assert generate(base, base.model, PROMPTS, 6) == whole
    assert sizes == [17, 9, 5, 5, 5, 2]
    targets = [prompt[::-1] for prompt in PROMPTS]
    rows = [Tokens(prompt, target) for prompt, target in zip(PROMPTS, targets, strict=True)]
    found, losses = read_and_generate(base, base.model, PROMPTS, targets, 6)
    assert found == whole
    assert losses == [(pytest.approx(loss, rel=1e-5), n) for loss, n in evaluate_loss(base, base.model, rows, 8)]
    config = base.model.config
    token = 2 * config.n_layer * config.n_embd * 4
    monkeypatch.setattr(greedy, "CACHE_BYTES", 3 * token * (max(map(len, PROMPTS)) + 6))
    sizes.clear()
    assert generate(base, base.model, PROMPTS, 6) == whole
    assert sizes[0] == 3


def recurrent_model():
    """Return a seeded model with recurrent states in two of its blocks."""
    shape = transformers.Lfm2Config(
        vocab_size=200, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, layer_types=["conv", "full_attention", "conv"], bos_token_id=0, eos_token_id=0,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.Lfm2ForCausalLM(shape).eval()


@pytest.mark.filterwarnings("ignore:.*fast path")  # transformers, of kernels that are not installed
def test_a_model_with_recurrent_states_decodes_rows_of_one_length_together():
    model = recurrent_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    base = Base(model, deepcopy(tokenizer()), torch.device("cpu"), "fp32")
    prompts = PROMPTS + [[7 + i, *range(20 + i, 24 + i)] for i in range(12)]
    ours = generate(base, model, prompts, 12)
    assert ours == [reference(base, model, prompt, 12) for prompt in prompts]
    end = Counter(token for output in ours[-12:] for token in output[1:]).most_common(1)[0][0]
    base.tokenizer.eos_token = base.tokenizer.convert_ids_to_tokens(end)
    wanted = [output[: output.index(end)] if end in output else output for output in ours]
    assert len({len(output) for output in wanted[-12:]}) > 1  # some rows leave the others early
    assert generate(base, model, prompts, 12) == wanted


def test_a_cache_with_room_equals_the_growing_one():
    config = transformers.GPT2Config(n_layer=1)
    ours, theirs = RoomyCache(config, 4), transformers.DynamicCache(config=config)
    torch.manual_seed(0)
    for step, new in enumerate((5, 1, 1, 1)):
        keys, values = torch.randn(2, 3 if step < 2 else 2, 2, new, 4)
        for got, want in zip(ours.update(keys, values, 0), theirs.update(keys, values, 0), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=0)
        if step == 1:
            for cache in (ours, theirs):
                cache.reorder_cache(torch.tensor([0, 2]))
    assert ours.get_seq_length() == 8


# Methods that put nothing on matrices, or what PEFT does not merge; qlora's matrices are packed.
NOT_MERGED = {
    "adaption_prompt", "beft", "cartridge", "full", "l2_sp", "last_layers", "p_tuning", "prefix_tuning",
    "prompt_tuning", "qlora", "wise_ft",
}  # fmt: skip


def adapted_cell(name, family="llama", **settings):
    """Return a method's tiny model of a family, with trained weights that change what it computes."""
    torch.manual_seed(0)
    base = Cell(name, family, settings).base()
    adapted = adapt(base, Cell(name, family, settings).method)
    with torch.no_grad():
        for weight in trainable(adapted).values():
            weight.add_(0.05 * torch.randn_like(weight))
    return base, adapted.requires_grad_(False).eval()


@pytest.mark.parametrize("name", sorted({*method_names()} - {"bias"}))  # Llama has none
def test_decoding_merges_what_peft_has_put_on_matrices(name):
    base, adapted = adapted_cell(name)
    ids = torch.tensor([PROMPTS[0]])
    with torch.no_grad():
        before = adapted(input_ids=ids).logits
        for_decoding(base, adapted, "fp32")
        after = adapted(input_ids=ids).logits
    layers = [m for m in adapted.modules() if isinstance(m, BaseTunerLayer)]
    assert bool(layers and all(m.merged for m in layers)) == (name not in NOT_MERGED)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "family", "settings"),
    [("bf16", "llama", {}), ("fp32", "gpt2", {"target_modules": ["wte"]})],
    ids=["rounded", "shared with the head"],
)
def test_decoding_leaves_matrices_alone_where_a_merge_would_change_more(precision, family, settings):
    base, adapted = adapted_cell("lora", family, **settings)
    before = {name: weight.clone() for name, weight in adapted.named_parameters()}
    for_decoding(replace(base, precision=precision), adapted.bfloat16() if precision == "bf16" else adapted, precision)
    assert all(torch.equal(weight, before[name].to(weight.dtype)) for name, weight in adapted.named_parameters())
