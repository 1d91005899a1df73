"""What a verdict says of many tasted and judged pairs: a few in sentences, the others by their number."""

from bakeoff.analysis.preference_words import FEW, in_short, preference_sentences
from bakeoff.store.results_document import Preference


def row(second, people=True, net=0.1, different=False):
    return Preference(
        first="lora", second=second, by="people" if people else "judge", net=net, low=-0.1, high=0.3, p=0.2,
        p_adjusted=0.2, different=different, wins=0.5, ties=0.1, losses=0.4, both_bad=0.0, labels=40 if people else 0,
        votes=40 if people else 0, tasters=1 if people else 0, judged=60, seeds=1, needed=None, weight=0.0,
        correlation=None, agreement=None, flips=None, unanswered=0, judge="a judge", judge_net=None,
        notes=["the judge changed its version"],
    )  # fmt: skip


def test_few_pairs_are_all_told_and_a_note_once():
    found = [row("ia3"), row("full", people=False)]
    assert in_short(found) == preference_sentences(found)
    assert sum(sentence.startswith("Note:") for sentence in in_short(found)) == 1


def test_of_many_pairs_those_of_people_are_told_and_the_decided_ones_of_the_others_named():
    judged = [row(f"entry{i}", people=False) for i in range(4)] + [row("bias", False, net=-0.4, different=True)]
    tasted = [row(f"dish{i}") for i in range(FEW)]
    said = in_short([*judged, *tasted])
    assert said[:-1] == preference_sentences(tasted)
    assert said[-1] == "5 more pairs are in the table of preferences; decided: bias over lora (the judge alone)."
    assert in_short(judged[:4])[-1] == "1 more pair is in the table of preferences; decided: none."
