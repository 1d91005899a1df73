"""A tasting of 40 pairs in a real browser, and a judge on this machine, over a copy of a finished bakeoff:
`python benchmarks/tasting.py FOLDER ENTRY ENTRY ... [--pairs 40]`.

Nobody is asked: the person is a rule (the output that shares more words with the reference, in 8 of 10 cases, else the
other one), carried out through the page by its keys; the judge is another rule (the output of more words; of equally
many, what stands first). So what is tried is the way from page and judge to the verdict. In the middle the server ends.
"""

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import bakeoff
from bakeoff import api, reporting
from bakeoff.analysis.preference_words import preference_sentences
from bakeoff.errors import printable
from bakeoff.store.votes import read_judgements, read_votes

sys.path.append(str(Path(__file__).parent.parent))
from tests.loopback_judge import judging

from bakeoff.tasting.app import KEEP

KEYS = {"left": "1", "tie": "2", "right": "4"}


def shared(text: str, reference: str) -> int:
    """Return how many words of a reference are in a text."""
    return len(set(text.lower().split()) & set(reference.lower().split()))


def taste(page: Page, references: dict[str, str], count: int, chance: random.Random) -> None:
    """Vote on comparisons until so many are done."""
    while page.locator("#tasting").is_visible():
        done = int(page.locator("#count").inner_text().split()[0])
        if done >= count:
            return
        document, left, right = (
            page.locator(f"#{part}").text_content() or "" for part in ("document", "left", "right")
        )
        gap = shared(left, references[document]) - shared(right, references[document])
        choice = "tie" if gap == 0 else "left" if (gap > 0) == (chance.random() < 0.8) else "right"
        page.keyboard.press(KEYS[choice])
        page.wait_for_function(
            "before => !document.querySelector('#count').textContent.startsWith(before)", arg=f"{done} "
        )


def main() -> None:
    """Taste, judge, and print what the verdict says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("entries", nargs="+")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as running:
        copy = Path(shutil.copytree(given.folder, Path(temporary) / "copy"))
        folder = api.Folder(copy)
        references = {printable(row.document, KEEP): row.summary for row in folder.examples("test")}
        browser = running.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
        chance = random.Random(0)
        for part in (given.pairs // 2, given.pairs):  # the server ends in between, and the page is opened anew
            with bakeoff.taste(copy, given.entries, pairs=given.pairs) as server:
                page = browser.new_page()
                page.goto(server.url)
                page.fill("#taster", "rule")
                page.keyboard.press("Enter")
                page.locator("#tasting, #done").first.wait_for()
                taste(page, references, part, chance)
                page.close()
        browser.close()
        print(f"{len(read_votes(folder.votes_file))} votes; by people alone:")
        print(" ".join(preference_sentences(api.load_results(copy).document.preferences)))

        def rule(one: str, two: str) -> str:
            gap = len(one.split()) - len(two.split()) + 1
            return "1" if gap > 0 else "2"

        with judging(say=rule) as (url, asked):
            api.judge(copy, {"judge.base_url": url, "judge.model": "rule"}, given.entries)
            print(f"{len(asked)} questions, {len(read_judgements(folder.judge_file))} judgements; joined:")
        reporting.refresh_report(copy)
        print(" ".join(preference_sentences(api.load_results(copy).document.preferences)))


if __name__ == "__main__":
    main()
