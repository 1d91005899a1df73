"""`bakeoff taste` and `bakeoff judge`: people, or a judge model, say which outputs they prefer."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bakeoff.cli.group import SET
from bakeoff.cli.terminal import say, whisper

if TYPE_CHECKING:
    from bakeoff.judging.judge import Totals

LINE_SECONDS = 10.0  # between two lines of progress
ENTRIES = click.option(
    "--entry", "entries", multiple=True, metavar="NAME",
    help="Entry or baseline to compare; give it twice or more.  [default: the best entry and the one nearest to it]",
)  # fmt: skip


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@ENTRIES
@click.option(
    "--pairs", type=click.IntRange(1), default=40, show_default=True,
    help="Comparisons; choose their number before you begin, because more that are added after a look at the results "
    "void the 5 %.",
)  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at. Another machine, such as "
              "a phone, needs the key that is in the printed address.")  # fmt: skip
@click.option("--port", type=int, default=8100, show_default=True, help="Port to listen at; 0 is any that is free.")
def taste(folder: Path, entries: tuple[str, ...], pairs: int, host: str, port: int) -> None:
    """Compare outputs blind, in a browser.

    FOLDER is the run folder of a bakeoff. A page shows a document and two outputs without names, in random order and
    place; you choose A, B, tie or both bad. Several people can taste at the same time. Every vote is kept at once in
    votes.jsonl. Ctrl-C ends it, and writes the votes into results and report.

    For example: bakeoff taste bakeoffs/demo --entry lora --entry last_layers
    """
    from bakeoff import api

    server = api.taste(folder, entries, pairs=pairs, host=host, port=port)
    whisper(f"{len(server.tasting.items)} comparisons; Ctrl-C ends")
    say(server.url)
    server.run()
    show_preferences(folder)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@SET
@click.option(
    "--entry", "entries", multiple=True, metavar="NAME",
    help="Entry or baseline to compare; give it twice or more.  [default: all finished entries]",
)  # fmt: skip
def judge(folder: Path, settings: dict[str, Any], entries: tuple[str, ...]) -> None:
    """Ask a judge model which outputs are better: the best entry's or those of each other one.

    FOLDER is the run folder of a bakeoff. The judge is named by `judge` in its config, or by -s: documents and outputs
    are sent to that address, and nowhere else. Each pair of outputs is asked about in both orders. Answers are kept in
    judge.jsonl as they come, and no question is asked twice: after an interrupt, the same command resumes.

    For example: bakeoff judge bakeoffs/demo -s judge.base_url=http://127.0.0.1:8080/v1 -s judge.model=qwen
    """
    from bakeoff import api

    last = time.monotonic()

    def progress(totals: "Totals", count: int) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            whisper(f"{totals.asked:,} answers, of {count:,} questions with those of before")

    totals = api.judge(folder, settings, entries, progress)
    tokens = f"{totals.prompt_tokens:,} tokens sent, {totals.answer_tokens:,} received"
    whisper(f"{totals.asked:,} new answers, {totals.unanswered:,} of them without a choice; {tokens}{totals.in_money}")
    show_preferences(folder)


def show_preferences(folder: Path) -> None:
    """Write the report again, and print what is preferred."""
    from bakeoff.analysis.preference_words import preference_sentences
    from bakeoff.reporting import refresh_report
    from bakeoff.results import load_results

    page = refresh_report(folder)
    found = preference_sentences(load_results(folder).document.preferences)
    say(" ".join(found) or "no votes yet")
    say(f"report: {page}")
