import json

import pytest
import yaml
from huggingface_hub import ModelCard

from bakeoff.compute.model.adapter_files import save_adapter
from bakeoff.compute.model.base import adapt, load_base
from bakeoff.config.loading import load_config
from bakeoff.methods import build_method, method_class
from bakeoff.report.cards import card, fenced, signed, usage
from bakeoff.reporting import refresh_report
from bakeoff.store.run_folder import RunFolder


def read(shared, name, **changes):
    """Return the card of an entry of the shared bakeoff, its text and as the hub reads it."""
    results = shared[1].document.model_copy(update=changes)
    files = shared[1].folder.run(results.entries[name].runs[0])
    text = card(results, name, files, files.result())
    return files, text, ModelCard(text)


def test_every_adapter_has_a_card_and_nothing_of_this_machine_is_in_it(shared):
    for name in shared[1].entries:
        files, text, _ = read(shared, name)
        assert (files.adapter / "README.md").read_text() == signed(text)
        assert str(files.path.parent.parent.parent) not in text


def test_a_card_is_written_again_until_it_is_edited(shared, copied):
    card, other = (
        copied.run(shared[1].entries[name].runs[0]).adapter / "README.md" for name in ("lora", "last_layers")
    )
    written = card.read_text()
    card.write_text(written.replace("# lora", "# My lora"))
    other.write_text(signed("of an earlier report\n"))
    refresh_report(copied.path)
    assert "# My lora" in card.read_text()
    assert other.read_text().startswith("---")
    card.write_bytes(b"\xff")
    other.unlink()
    refresh_report(copied.path)
    assert card.read_bytes() == b"\xff"
    assert other.read_text().startswith("---")


def test_a_training_anew_leaves_no_card_of_pefts_and_the_one_that_was_there(tmp_path):
    method = build_method("lora", {"method": "lora"})
    config = load_config({"model": "base", "data": "docstrings", "entries": ["lora"]})
    adapted = adapt(load_base("base", "fp32"), method)
    save_adapter(tmp_path, adapted, method, config)
    card = tmp_path / "README.md"
    assert (tmp_path / "adapter_config.json").exists()
    assert not card.exists()
    card.write_text("mine")
    save_adapter(tmp_path, adapted, method, config)
    assert card.read_text() == "mine"


@pytest.mark.parametrize(("name", "library"), [("lora", "peft"), ("last_layers", "bakeoff")])
def test_the_hub_finds_library_tags_and_scores(shared, name, library):
    files, text, found = read(shared, name)
    assert found.data.library_name == library
    assert found.data.base_model is None  # a folder has no name on the hub
    assert {"bakeoff", name} <= set(found.data.tags)
    values = {result.metric_name: result.metric_value for result in found.data.eval_results}
    metrics = files.result().metrics
    assert values["ROUGE-L"] == pytest.approx(metrics["test/rougeL"], abs=1e-6)
    assert values["test loss"] == pytest.approx(metrics["test/loss"], abs=1e-6)
    assert ("PeftModel" in text) == (library == "peft")
    assert f'.entry("{name}").load()' in text


def test_a_hub_model_is_named_as_the_base(shared):
    model = shared[1].document.model.model_copy(update={"name": "org/model"})
    _, text, found = read(shared, "lora", model=model)
    assert found.data.base_model == "org/model"
    assert "base_model:adapter:org/model" in found.data.tags
    assert 'from_pretrained("org/model")' in text


def test_a_card_says_how_the_adapter_is_loaded_and_names_no_folder_of_this_machine(shared, monkeypatch, tmp_path):
    data = shared[1].document.data.model_copy(update={"source": "/home/me/texts"})
    _, text, found = read(shared, "lora", data=data)
    assert {result.dataset_type for result in found.data.eval_results} == {"texts"}
    assert f'load_results("path/of/{shared[1].folder.path.name}")' in text
    usual = RunFolder(tmp_path / "bakeoffs/x/runs/lora-1")
    assert 'load_results("bakeoffs/x")' in usage(shared[1].document, "lora", usual, {})
    monkeypatch.setattr(method_class("lora"), "keeps_base", False)
    assert "from_pretrained" not in read(shared, "lora")[1]


def test_what_users_write_stays_text(shared):
    nasty = 'x"\n---\n# [a](b) `` ``` |'
    template = "```\n</pre><script>\n{{ document }}\n````"
    model = shared[1].document.model.model_copy(update={"name": f"/home/{nasty}"})
    _, text, found = read(shared, "lora", model=model, template=template)
    head = text.split("\n---\n")[0].removeprefix("---\n")
    assert yaml.safe_load(head) == found.data.to_dict()
    headings = [line for line in text.splitlines() if line.startswith("# ")]
    assert headings == ['# lora: x" --- # \\[a\\](b) \\`\\` \\`\\`\\` \\| adapted by lora']
    assert f"\n`````text\n{template}\n`````\n" in text


def test_a_code_block_cannot_be_ended_from_within():
    assert fenced("a ```` b").startswith("`````text\n")


def test_the_code_of_a_card_works(shared, tiny_model):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from bakeoff.methods.method import quiet_peft

    files, text, _ = read(shared, "lora")
    assert json.loads((files.adapter / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
    assert "AutoModelForCausalLM" in text
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with quiet_peft():
        adapted = PeftModel.from_pretrained(base, str(files.adapter))
    assert sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n) == files.result().trainable_parameters
