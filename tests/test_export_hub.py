"""`export --to hub` and `--to vllm`: what is uploaded, to whom it is visible, and what is refused before any work."""

import json

import pytest
from huggingface_hub import constants

from bakeoff.errors import SetupError
from bakeoff.export import job, vllm_support
from bakeoff.export.vllm_support import WITH_ADAPTERS, WITHOUT_ADAPTERS, check_vllm
from tests.loopback_hub import LoopbackHub, Repository
from tests.test_export import export, here

# huggingface_hub 1.x uploads files by an argument of httpx that httpx has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
TOKEN = "hf_secretsecretsecret"
WORDS = ("--entry", "lora", "--to", "hub", "--no-check", "--repo", "me/summary")


@pytest.fixture
def served(monkeypatch, tmp_path):
    """A hub that whoever has the token may write to; the token is in the environment, as the hub's client reads it."""
    monkeypatch.setattr(job, "ask", here)
    loopback = LoopbackHub({}, TOKEN)
    with loopback.serving() as address:
        for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield loopback


def test_an_export_is_uploaded_and_private_unless_asked(shared, served, tmp_path):
    done = export(shared[1].folder.path, *WORDS, "-o", tmp_path / "x")
    assert done.exit_code == 0, done.output
    there = served.repositories[("models", "me/summary")]
    assert there.private
    assert there.files == {file.name: file.read_bytes() for file in (tmp_path / "x").iterdir()}
    assert "adapter_model.safetensors" in there.files
    assert "me/summary" in done.stderr
    everything = done.output.encode() + b"".join(there.files.values())
    assert TOKEN.encode() not in everything
    again = export(shared[1].folder.path, *WORDS, "-o", tmp_path / "y", "--entry", "last_layers")
    assert again.exit_code == 0, again.output
    assert "model.safetensors" in there.files  # which PEFT has no format for
    public = ["me/open" if word == "me/summary" else word for word in WORDS]
    assert export(shared[1].folder.path, *public, "-o", tmp_path / "z", "--public").exit_code == 0
    assert not served.repositories[("models", "me/open")].private


def refused(shared, place, *words):
    done = export(shared[1].folder.path, *words, "-o", place)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("entry: ")]
    assert (done.exit_code, len(lines)) == (2, 1), done.output
    assert TOKEN not in done.output
    return lines[0]


def test_what_the_hub_does_not_allow_is_one_line_before_any_work(shared, served, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "ask", lambda *_: pytest.fail("the hub is asked before anything is made"))
    served.repositories[("models", "me/summary")] = Repository({})
    assert "this repository is public. Try: --public" in refused(shared, tmp_path / "x", *WORDS)
    del served.repositories[("models", "me/summary")]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    line = refused(shared, tmp_path / "x", *WORDS)
    assert "--repo me/summary: the hub refuses (" in line
    assert "hf auth login" in line
    assert "hf_wrong" not in line
    assert not (tmp_path / "x").exists()


def test_a_file_that_did_not_arrive_whole_is_noticed(shared, served, tmp_path):
    served.lost = {"README.md"}
    line = refused(shared, tmp_path / "x", *WORDS)
    assert f"the uploaded README.md differs from the one in {tmp_path}/x" in line
    assert (tmp_path / "x/README.md").exists()


def test_a_lora_for_vllm_has_the_command_that_serves_it(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "ask", here)
    monkeypatch.setattr(vllm_support, "WITH_ADAPTERS", {"GPT2LMHeadModel"})
    done = export(shared[1].folder.path, "--entry", "lora", "--to", "vllm", "-o", tmp_path / "x", "--no-check")
    assert done.exit_code == 0, done.output
    wanted = f"--enable-lora --max-lora-rank 8 --lora-modules lora={tmp_path}/x --max-model-len 48 "
    assert f"serve it with: vllm serve {shared[0]['model']} {wanted}" in done.stderr
    card = (tmp_path / "x/README.md").read_text()
    assert "vllm serve path/of/the/base --enable-lora --max-lora-rank 8" in card
    asked = json.loads(card.partition("-d '")[2].partition("'")[0])
    assert asked["prompt"] == "A long document ...\nTL;DR:"
    assert (asked["temperature"], asked["max_tokens"]) == (0, shared[1].folder.plan().output_tokens)


def test_a_base_that_vllm_serves_without_adapters_is_refused_before_any_work(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "ask", lambda *_: pytest.fail("nothing is to be made"))
    line = refused(shared, tmp_path / "x", "--entry", "lora", "--to", "vllm")
    assert line.endswith("vLLM serves GPT2LMHeadModel only without adapters. Try: --to merged, and vllm serve FOLDER")
    assert not (tmp_path / "x").exists()


LORA = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (None, "only plain LoRA adapters. Try: --to merged, and vllm serve FOLDER"),
        ({"use_dora": True}, "Try: --to lora --rank 64, or --to merged, and vllm serve FOLDER"),
        ({"peft_type": "IA3"}, "Try: --to lora --rank 64, or --to merged"),
        ({"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}, "virtual tokens. Try: bakeoff serve"),
        ({"r": 600}, "ranks up to 512, but this is 600"),
        ({"rank_pattern": {"q": 600}, "alpha_pattern": {"q": 1200}}, "ranks up to 512, but this is 600"),
        ({"rank_pattern": {"q": 4}}, "only plain LoRA"),  # PEFT scales it by 4, vLLM by 2
        ({"alpha_pattern": {"q": 32}}, "only plain LoRA"),
        ({"rank_pattern": {"q": 4}, "alpha_pattern": {"q": 8}, "use_rslora": True}, "only plain LoRA"),
        ({"bias": "lora_only"}, "only plain LoRA"),
        ({"lora_bias": True}, "only plain LoRA"),
        ({"trainable_token_indices": [3]}, "only plain LoRA"),
    ],
)
def test_adapters_that_vllm_does_not_serve_are_refused_with_what_to_do(changed, line):
    with pytest.raises(SetupError, match=line):
        check_vllm("--to vllm: x", "LlamaForCausalLM", {} if changed is None else {**LORA, **changed})


@pytest.mark.parametrize(
    ("architecture", "line"),
    [
        ("GPTNeoXForCausalLM", "only without adapters. Try: --to merged, and vllm serve FOLDER"),
        ("BioGptForCausalLM", "list of models does not have BioGptForCausalLM. Try: bakeoff serve"),
        ("T5ForConditionalGeneration", "does not have T5ForConditionalGeneration. Try: bakeoff serve"),
    ],
)
def test_bases_that_vllm_does_not_serve_with_adapters_are_refused_with_what_to_do(architecture, line):
    with pytest.raises(SetupError, match=line):
        check_vllm("--to vllm: lora", architecture, LORA)


@pytest.mark.parametrize(
    "changed", [{}, {"use_rslora": True}, {"rank_pattern": {"q": 4}, "alpha_pattern": {"q": 8}}, {"bias": "none"}]
)
def test_plain_loras_are_served(changed):
    check_vllm("--to vllm: lora", "LlamaForCausalLM", {**LORA, **changed})


def test_the_architectures_are_names_of_transformers():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = {"PhiMoEForCausalLM"}  # as the hub's files of PhimoeForCausalLM spell it
    for names in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        known |= {names} if isinstance(names, str) else {*names}
    assert WITH_ADAPTERS.isdisjoint(WITHOUT_ADAPTERS)
    assert known >= WITH_ADAPTERS | WITHOUT_ADAPTERS
