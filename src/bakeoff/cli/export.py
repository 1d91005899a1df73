"""`bakeoff export`: writes an entry's adapter in a form that other programs load."""

from pathlib import Path
from typing import Any

import click

from bakeoff.cli.group import DEVICE, TRUST
from bakeoff.cli.terminal import say, whisper


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--entry",
    help="Entry that is exported.  [default: the one with the lowest validation loss among those tied with the best]",
)
@click.option(
    "--to", required=True, metavar="TARGET",
    help="Form of the export: peft (an adapter), merged (a whole model), lora (a plain LoRA made of another method's "
    "adapter), gguf, ollama, vllm or hub.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path),
    help="Folder of the export; it must not exist.  [default: exports/NAME-ENTRY-TARGET]",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the folder of an earlier export that bakeoff wrote.")
@click.option(
    "--dtype", metavar="DTYPE",
    help="Format of a whole model's weights: fp32, bf16 or fp16, for gguf and ollama also q8_0.  [default: that of the "
    "base's files]",
)  # fmt: skip
@click.option("--rank", type=int, default=64, show_default=True, help="With --to lora: rank of the LoRA that is made.")
@click.option("--limit", type=int, help="Check the export with the first LIMIT test examples.  [default: all]")
@click.option("--no-check", is_flag=True, help="Do not read the export back; its card then says: not checked.")
@click.option(
    "--llama-cpp", type=click.Path(path_type=Path),
    help="With --to gguf and ollama: folder of llama.cpp.  [default: its programs on PATH]",
)  # fmt: skip
@click.option("--repo", metavar="OWNER/NAME", help="With --to hub: repository that the export is uploaded to.")
@click.option("--public", is_flag=True, help="With --to hub: let everybody read the repository.")
@DEVICE
@TRUST
def export(folder: Path, entry: str | None, to: str, trust: bool, no_check: bool, **options: Any) -> None:
    """Export a trained adapter, and check what was exported.

    FOLDER is the run folder of a bakeoff. The export is loaded again, generates outputs for the test split, and is
    compared with the evaluation. Its card, README.md, says how they differ. Prints the folder of the export.

    For example: bakeoff export bakeoffs/demo --entry lora --to merged
    """
    from bakeoff.results import load_results

    if no_check:
        options["limit"] = 0
    results = load_results(folder)
    chosen = results.entry(entry) if entry else results.best()
    whisper(f"entry: {chosen.name}")
    made = chosen.export(to, trust, **options)
    for line in made.summary():
        whisper(line)
    say(made.path)
