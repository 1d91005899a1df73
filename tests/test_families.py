"""Every lever over tiny random models of many architectures, through their real transformers classes."""

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from bakeoff import calling
from bakeoff.data.tokens import Tokens
from bakeoff.evaluation.generation import generate
from bakeoff.methods import build_method
from bakeoff.model import Base, adapt, fuse_activations, load_tokenizer, model_class, trainable
from bakeoff.training.loss import batch_of, evaluate_loss, target_losses
from bakeoff.training.trunk import open_trunk

COMMON = {"vocab_size": 200, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
DECODER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
GROUPED = {**DECODER, "num_key_value_heads": 1, "head_dim": 8}
BART = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_start_token_id": 0,
        "forced_eos_token_id": None, "scale_embedding": True}  # fmt: skip
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "decoder_start_token_id": 0,
      "initializer_factor": 0.5}  # fmt: skip
SHAPES = {
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}),
    "opt": ("OPTConfig", {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 3,
                          "num_attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 64}),
    "gpt_neox": ("GPTNeoXConfig", DECODER),
    "phi": ("PhiConfig", DECODER),
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED),
    "gemma2": ("Gemma2Config", {**GROUPED, "final_logit_softcapping": 0.5, "sliding_window": 8}),
    "gemma3": ("Gemma3TextConfig", {**GROUPED, "sliding_window": 8}),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 4.0}),
    "t5": ("T5Config", T5),
    "flan_t5": ("T5Config", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("BartConfig", BART),
    "pegasus": ("PegasusConfig", BART),
}  # fmt: skip
METHODS = {
    "prompt_tuning": {"num_virtual_tokens": 3},
    "last_layers": {"blocks": 1},
    "lora": {"r": 2},
}
ROWS = [
    Tokens([9, 10, 11, 12, 3], [20, 21, 0], False),
    Tokens([30, 31, 3], [40, 0], False),
    Tokens(list(range(50, 70)), [60, 61, 62, 63, 64, 65, 0], False),
]


@pytest.fixture
def family_base(request, tiny_model):
    """A Base of the family that the test's parameter names."""
    config_class, fields = SHAPES[request.param]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**COMMON | fields)
    model = model_class(config).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)  # a flat random model has the same logits everywhere
    fuse_activations(model)
    return Base(model, load_tokenizer(str(tiny_model)), torch.device("cpu"), "fp32")


def adapted_by(name, base):
    torch.manual_seed(1)
    adapted = adapt(base, build_method(name, {"method": name, **METHODS[name]})).eval()
    with torch.no_grad():
        for parameter in trainable(adapted).values():
            parameter.add_(0.1 * torch.randn_like(parameter))  # so that an adapter that starts at zero does something
    return adapted


def plain_losses(base, adapted, row):
    """One row's target losses the plain way: the adapted model's own forward, all logits, no padding."""
    target = torch.tensor(row.target)
    if base.decoder_start is None:
        ids = torch.tensor([row.prompt + row.target])
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(target) - 1 : -1]
    else:
        ids = torch.tensor([row.prompt])
        start = torch.tensor([[base.decoder_start, *row.target[:-1]]])
        logits = adapted(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=start).logits[0]
    return cross_entropy(logits, target, reduction="none")


def gradients_of(losses, adapted):
    adapted.zero_grad()
    losses.mean().backward()
    return {n: p.grad.clone() for n, p in trainable(adapted).items() if p.grad is not None}


def assert_same(got, want):
    assert set(got) == set(want)
    for name, gradient in want.items():
        scale = float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family_base", SHAPES, indirect=True)
def test_losses_and_gradients_equal_the_full_logit_path_whole_and_in_parts(name, family_base, monkeypatch):
    adapted = adapted_by(name, family_base)
    plain = torch.cat([plain_losses(family_base, adapted, row) for row in ROWS])
    wanted = gradients_of(plain, adapted)
    batch = batch_of(family_base, ROWS)
    for part in (64, 5):  # of 12 targets
        monkeypatch.setattr(calling, "LOGITS_BYTES", part * 4 * COMMON["vocab_size"])
        losses = target_losses(family_base, adapted, batch)
        torch.testing.assert_close(losses, plain, rtol=1e-5, atol=1e-5)
        assert_same(gradients_of(losses, adapted), wanted)


@pytest.mark.parametrize("family_base", SHAPES, indirect=True)
def test_a_stored_trunk_gives_the_losses_and_gradients_of_the_whole_model(family_base, tmp_path):
    adapted = adapted_by("last_layers", family_base)
    trunk = open_trunk(family_base, adapted, ROWS, tmp_path / "train", None, 2)
    batch = batch_of(family_base, ROWS)
    wanted = gradients_of(target_losses(family_base, adapted, batch), adapted)
    with torch.no_grad():
        for block in trunk.blocks:
            for parameter in set(block.parameters()) - {family_base.model.get_input_embeddings().weight}:
                parameter.fill_(float("nan"))  # none of it may be computed
    losses = target_losses(family_base, adapted, batch, trunk.serving([0, 1, 2]))
    assert_same(gradients_of(losses, adapted), wanted)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")  # PEFT, of its own dropping of them
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family_base", SHAPES, indirect=True)
def test_outputs_equal_hf_generate_row_by_row(name, family_base):
    adapted = adapted_by(name, family_base)
    prompts = [row.prompt for row in ROWS]
    assert generate(family_base, adapted, prompts, 10, 3) == [hf_output(adapted, p, family_base) for p in prompts]


def hf_output(adapted, prompt, base):
    """HF generate's greedy output for one prompt alone."""
    ids = torch.tensor([prompt])
    out = adapted.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=10,
        eos_token_id=0, pad_token_id=0,
    )[0].tolist()  # fmt: skip
    new = out[1:] if base.decoder_start is not None else out[len(prompt) :] if out[: len(prompt)] == prompt else out
    return new[: new.index(0)] if 0 in new else new


@pytest.mark.parametrize("family_base", SHAPES, indirect=True)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_says_so_starts_as_the_base_in_every_family(name, family_base):
    before = evaluate_loss(family_base, family_base.model, ROWS, 3)
    method = build_method(name, {"method": name, **METHODS[name]})
    adapted = adapt(family_base, method)
    assert (evaluate_loss(family_base, adapted, ROWS, 3) == before) == method.starts_as_base
