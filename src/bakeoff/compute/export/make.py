"""The process that makes an export's files.

`python -m bakeoff.compute.export.make` reads a request from standard input, as JSON: "folder" and "run" of a bakeoff,
"form" (merged, peft or lora), "dtype", "rank", and "output", an empty folder. It prints what it made, or
{"error": line}.
"""

from pathlib import Path
from typing import Any

from bakeoff.compute.export.answer import answer
from bakeoff.compute.export.files import write_adapter, write_lora, write_model
from bakeoff.compute.export.low_rank import factors_of, snapshot
from bakeoff.compute.export.merging import cannot_merge, merged
from bakeoff.compute.export.source import Source
from bakeoff.errors import SetupError
from bakeoff.methods.twins import has_twins
from bakeoff.store.run_folder import Folder


def make(folder: str, run: str, form: str, output: str, dtype: str | None = None, rank: int = 0) -> dict[str, Any]:
    """Write an export's model files into the folder `output`; return what the card says about them.

    Raises SetupError if the adapter cannot be exported in this form.
    """
    source, there = Source(Folder(folder), run), Path(output)
    base = source.base()
    ends = base.tokenizer.convert_ids_to_tokens(sorted(base.ends))
    kind = {"encoder_decoder": base.decoder_start is not None, "ends": ends}
    if form == "peft":
        source.adapted(base)  # refuses what is damaged, or belongs to another base
        if has_twins(base.model):
            raise SetupError(
                f"--to peft: {source.run.method}: PEFT has it for linear layers only, and {type(base.model).__name__} "
                "stores its weights transposed. Try: --to merged, or bakeoff generate"
            )
        write_adapter(source, base, there)
        return kind | {"dtype": "fp32"}
    before = snapshot(base.model) if form == "lora" else {}
    adapted, method = source.adapted(base), source.run.method
    if why := cannot_merge(base, adapted):
        raise SetupError(f"--to {form}: {method}: {why}. Try: --to peft, or bakeoff generate")
    model = merged(base, adapted)
    if form == "merged":
        return kind | {"dtype": write_model(source, base, model, dtype, there)}
    factors = factors_of(before, model, rank, method)
    write_lora(source, source.base(), factors, there)
    return kind | {"dtype": "fp32", "rank": factors.rank, "kept": factors.kept}


if __name__ == "__main__":
    answer(make)
