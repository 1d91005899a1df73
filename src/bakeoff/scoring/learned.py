"""Metrics by a model of their own: `bertscore=MODEL` and `consistency=MODEL`, a folder or a name on the hub.

They see meaning where n-grams see words, cost a model's passes for each output, and know only what their model knows.
The model runs no code of its own, has its weights as safetensors, and computes in fp32 on the processor.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bakeoff.config.names import metric_model
from bakeoff.errors import ConfigError
from bakeoff.hub import base_identity, model_folder
from bakeoff.library_errors import one_line
from bakeoff.scoring.custom import Columns, answer, first_score
from bakeoff.scoring.metric import Measure, Metric, References, Rows
from bakeoff.scoring.sentences import sentences

if TYPE_CHECKING:
    import torch

TOGETHER = 32  # texts in one pass
LONGEST = 512  # tokens of a text, where the model knows no limit
# The layer whose states say most about meaning, by architecture and number of layers, as the authors of BERTScore
# found; elsewhere, three quarters of the way.
LAYERS = {
    ("bert", 12): 9, ("bert", 24): 18, ("roberta", 12): 10, ("roberta", 24): 17, ("distilbert", 6): 5,
    ("xlm-roberta", 12): 9, ("xlm-roberta", 24): 17, ("deberta", 12): 9, ("deberta", 24): 16, ("deberta", 48): 40,
}  # fmt: skip


def learned(kind: str, model: str) -> Metric:
    """Return the metric of a kind by a model, which is loaded when it first scores."""
    shown = Path(model).name
    if kind == "bertscore":
        measure = Measure(kind, "BERTScore", f"F of matched tokens, by the states of {shown}", bounded=False)
        return Metric((measure,), kind, partial(bertscore, model), signature=lambda several: f"BERTScore: {shown}")
    measure = Measure(kind, "consistency", f"how far the document entails the output's sentences, by {shown}")
    text = f"consistency: entailment of each sentence by the document's best one | {shown}"
    return Metric((measure,), kind, partial(consistency, model), signature=lambda several: text, sees_rows=True)


def identity(name: str) -> str:
    """Return a hash of the files of a metric's model; it does not matter in which folder they are."""
    found = metric_model(name)
    assert found is not None, name
    return base_identity(found[1]) or ""


@lru_cache(maxsize=2)
def opened(metric: str, model: str, head: str) -> tuple[Any, Any]:
    """Return tokenizer and model of a metric; `head` is the name of its class in transformers.

    Raises ConfigError if there is no such model, or not of this kind.
    """
    import transformers

    where, folder = f"metrics: {metric}={model}", model_folder(model)
    if not folder.is_dir():
        raise ConfigError(f"{where}: no such folder. Try: a folder with a model, or a name on the hub")
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with one_line(f"{where}: cannot be loaded", "Try: a model that transformers can read, with safetensors"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **given)
        loaded, said = getattr(transformers, head).from_pretrained(
            str(folder), **given, use_safetensors=True, dtype="float32", output_loading_info=True
        )
    absent = sorted(name for name in said["missing_keys"] if "pooler" not in name)
    if absent:
        raise ConfigError(f"{where}: has no weights for {absent[0]}, so it is not a model of this kind. Try: another")
    return tokenizer, loaded.eval()


def longest(tokenizer: Any, model: Any) -> int:
    """Return how many tokens the model reads of a text."""
    positions = getattr(model.config, "max_position_embeddings", None) or LONGEST
    if model.config.model_type in ("roberta", "xlm-roberta"):
        positions -= 2  # the first ones are not used
    return min(tokenizer.model_max_length, positions)


def in_batches(tokenizer: Any, model: Any, texts: Sequence[Any], work: Callable[[Any], list[Any]]) -> list[Any]:
    """Return what `work` makes of batches of texts, or of pairs of texts, in their order; texts too long are cut."""
    order = sorted(range(len(texts)), key=lambda i: len(str(texts[i])))  # texts of one length make small batches
    found: dict[int, Any] = {}
    for start in range(0, len(order), TOGETHER):
        places = order[start : start + TOGETHER]
        batch = tokenizer(
            [texts[i] for i in places], padding=True, truncation=True, max_length=longest(tokenizer, model),
            return_tensors="pt", return_special_tokens_mask=True,
        )  # fmt: skip
        found.update(zip(places, work(batch), strict=True))
    return [found[i] for i in range(len(texts))]


def bertscore(model: str, outputs: Sequence[str], references: References) -> Rows:
    """Return precision, recall and F of each output's tokens by the cosine of their states (Zhang et al. 2020, eq. 1).

    Each token is matched with the most similar one of the other text. Tokens weigh the same, but for the special ones,
    which weigh nothing. Of several references, the one with the highest F counts. Values are not rescaled.
    """
    tokenizer, loaded = opened("bertscore", model, "AutoModel")
    texts = list(dict.fromkeys([*outputs, *(text for own in references for text in own)]))
    states = dict(zip(texts, in_batches(tokenizer, loaded, texts, partial(directions, loaded)), strict=True))
    return [
        {"bertscore": max((matched(states[output], states[text]) for text in own), key=lambda score: score["f"])}
        for output, own in zip(outputs, references, strict=True)
    ]


def directions(model: Any, batch: Any) -> list[tuple["torch.Tensor", "torch.Tensor"]]:
    """Return of each text its tokens' states of length 1, (tokens, width), and which tokens are not special."""
    import torch

    special = batch.pop("special_tokens_mask").bool()
    layers = model.config.num_hidden_layers
    layer = LAYERS.get((model.config.model_type, layers), max(1, round(0.75 * layers)))
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states[layer]
    states = torch.nn.functional.normalize(states, dim=-1)
    real = batch["attention_mask"].bool()
    return [(rows[kept], ~own[kept]) for rows, kept, own in zip(states, real, special, strict=True)]


def matched(output: Any, reference: Any) -> dict[str, float]:
    """Return precision, recall and F of two texts' states; 0 where one has no token, 1 where both have none."""
    (of_output, counts), (of_reference, counted) = output, reference
    if not counts.any() or not counted.any():
        same = float(counts.any() == counted.any())
        return {"p": same, "r": same, "f": same}
    alike = of_output @ of_reference.T
    p, r = alike.amax(1)[counts].mean().item(), alike.amax(0)[counted].mean().item()
    return {"p": p, "r": r, "f": 2 * p * r / (p + r) if p + r else 0.0}


def consistency(model: str, outputs: Sequence[str], references: References, rows: Sequence[Columns]) -> Rows:
    """Return how far each output's sentences follow from its document: from 0 to 1, 0 for an empty output.

    A model of natural language inference gives the probability that a sentence of the document entails one of the
    output. The best sentence of the document counts, and the mean over the output's: SummaC's zero-shot score by
    sentences (Laban et al. 2022) with the probability of entailment alone.
    """
    import torch

    tokenizer, loaded = opened("consistency", model, "AutoModelForSequenceClassification")
    entails = entailment(model, loaded)
    pairs: dict[tuple[str, str], None] = {}
    parts = [(sentences(row["document"]), sentences(output)) for row, output in zip(rows, outputs, strict=True)]
    for premises, claims in parts:
        pairs |= dict.fromkeys((premise, claim) for claim in claims for premise in premises)

    def probabilities(batch: Any) -> list[float]:
        del batch["special_tokens_mask"]
        with torch.inference_mode():
            return loaded(**batch).logits.softmax(-1)[:, entails].tolist()

    known = dict(zip(pairs, in_batches(tokenizer, loaded, list(pairs), probabilities), strict=True))
    scores = []
    for premises, claims in parts:
        best = [max((known[premise, claim] for premise in premises), default=0.0) for claim in claims]
        scores.append({"consistency": sum(best) / len(best) if best else 0.0})
    return scores


def entailment(model: str, loaded: Any) -> int:
    """Return the place of entailment among a model's labels; raise ConfigError if it has no such label."""
    labels = {str(text).lower(): int(i) for i, text in loaded.config.id2label.items()}
    found = [i for text, i in labels.items() if text.startswith("entail")]
    if len(found) != 1:
        raise ConfigError(
            f"metrics: consistency={model}: its labels are {', '.join(labels)}, none is entailment. Try: a model of "
            "natural language inference"
        )
    return found[0]


def tried(name: str, output: str, references: Sequence[str], row: Columns) -> str:
    """Return a metric's `identity`, after its model has scored an output in a separate process.

    Raises BakeoffError if it cannot, or if its model is not there and cannot be downloaded.
    """
    found = metric_model(name)
    assert found is not None, name
    model_folder(found[1])  # downloads what is missing, which may take longer than a score
    return first_score("scoring.learned", name, output, references, row)


def score(asked: dict[str, Any]) -> str:
    """Score an output in the separate process, and return the metric's identity."""
    found = metric_model(asked["name"])
    assert found is not None, asked["name"]
    metric = learned(*found)
    rows = ([asked["row"]],) if metric.sees_rows else ()
    metric.score([asked["output"]], [asked["references"]], *rows)
    return identity(asked["name"])


if __name__ == "__main__":
    answer(score)
