"""The report's lines on the baselines: what each of them is."""

from bakeoff.analysis.columns import counted
from bakeoff.analysis.twins import storage
from bakeoff.config.names import INSTRUCTION, MAJORITY, MANY_SHOT
from bakeoff.scoring.baselines import LEAD
from bakeoff.scoring.prompted import FEW_SHOT, NEAREST, shows_examples
from bakeoff.store.results_document import ResultsDocument, ResultsRow

STORED = {
    "none": "as in its files",
    "nf4": "in four bits (nf4, 64 weights with a scale)",
    "int8": "in eight bits (int8, a row with a scale)",
}


def baseline_lines(results: ResultsDocument) -> list[str]:
    """Return one line on each baseline."""
    return [f"{name}: {line(name, row)}." for name, row in results.baselines.items()]


def line(name: str, row: ResultsRow) -> str:
    """Return what a baseline is."""
    if shows_examples(name):
        cut = row.metrics.get("test/cut_documents")
        further = f"; {cut.mean:.1%} of documents were cut further to make room for them" if cut and cut.mean else ""
        return f"the base with {shown(name, row)} before the document; an output ends at its first blank line{further}"
    if name == INSTRUCTION:
        return f"the base with an instruction before the document{found(row)}"
    if name == MAJORITY:
        return f"the most frequent label of the training examples, '{row.settings.get('label')}'"
    if name.startswith(LEAD):
        count = name.removeprefix(LEAD)
        return f"the first {count} sentences of the document" if count != "1" else "the document's first sentence"
    if name == "oracle":
        return "the document's sentences closest to the reference, chosen greedily with it: a ceiling for extracts"
    stored = "" if name == "base" else f", its matrices stored {STORED[storage(row)]}"
    return f"the untouched base, with the same template{stored}"


def shown(name: str, row: ResultsRow) -> str:
    """Return which examples a baseline shows."""
    if name.startswith(FEW_SHOT):
        return counted(int(name.removeprefix(FEW_SHOT)), "training example")
    mean = row.metrics.get("test/shots")
    if name == MANY_SHOT:
        return "as many training examples as the context takes" + (f" ({mean.mean:,.0f})" if mean else "")
    most = int(name.removeprefix(NEAREST))
    fewer = f", on average {mean.mean:.1f}" if mean and mean.mean < most else ""
    return (
        f"the {counted(most, 'training example')} whose documents are most like it (BM25), or as many of them as leave "
        f"it whole{fewer},"
    )


def found(row: ResultsRow) -> str:
    """Return how an instruction was found, and which one."""
    loss = row.metrics.get("validation/loss")
    if row.instruction is None or loss is None:
        return ""
    text = f"'{row.instruction}'" if row.instruction else "none, which was best"
    return f": {text} (validation loss {loss.mean:.4f}, the lowest of {row.settings.get('tried')} that were tried)"
