"""Splits documents into sentences, for lead-k and the oracle."""

import re

CLOSING = r"[\u201d\u2019\u300d\u300f\uff09\u3011]*"
WIDE = "\u3002\uff01\uff1f\uff61\uff0e"  # after these no space follows
# A sentence ends at a wide mark; at others where a space follows, and after those of Latin script no small letter.
END = re.compile(rf"\n+|[{WIDE}]+{CLOSING}\s*|(?<=[\u0964\u0965\u061f\u06d4\u0589\u1362])\s+|(?<=[.!?])\s+(?![a-z])")
# Words whose point ends no sentence where a name, or a number, follows.
TITLES = re.compile(
    r"mrs?|ms|mx|messrs|dr|prof|rev|hon|gen|col|maj|capt|cmdr|lt|sgt|cpl|adm|sen|rep|gov|pres|supt|st|mt|ft|cf|vs|e\.g|i\.e",
    re.IGNORECASE,
)
NUMBERED = re.compile(r"nos?|nr|figs?|eqs?|sec|ch|vol|pp?|ca", re.IGNORECASE)
# Others, and initials, after which one may begin: there it does where the next word is one that sentences begin with.
EITHER = re.compile(r"inc|ltd|co|corp|bros|jr|sr|etc|al|ph\.d|(?:[a-z]\.)+[a-z]|(?-i:[A-Z])", re.IGNORECASE)
STARTER = re.compile(
    r"(?:a|after|all|also|although|an|and|as|at|because|before|but|by|during|each|every|for|from|he|her|here|his|how|"
    r"however|i|if|in|it|its|many|more|most|my|no|nobody|not|now|on|one|our|she|since|so|some|such|that|the|their|then|"
    r"there|these|they|this|those|to|under|until|we|what|when|where|which|while|who|why|with|yet|you)\b",
    re.IGNORECASE,
)
BEFORE = re.compile(r"[(\[\"'\u201c\u2018]*(\S+)\.$")


def sentences(text: str) -> list[str]:
    """Return a text's sentences, with the marks that end them."""
    sentences, start = [], 0
    for end in END.finditer(text):
        kept = text[start : end.end() if end.group()[0] in WIDE else end.start()]
        if "\n" in end.group() or not kept.endswith(".") or not goes_on(kept, text[end.end() :][:40]):
            sentences.append(kept.strip())
            start = end.end()
    return [sentence for sentence in (*sentences, text[start:].strip()) if sentence]


def goes_on(sentence: str, rest: str) -> bool:
    """Return whether a point ends an abbreviation, so that the sentence continues."""
    last = BEFORE.search(sentence.rsplit(maxsplit=1)[-1])
    if last is None:
        return False
    word, rest = last.group(1), re.sub(r"^\W+", "", rest)
    if TITLES.fullmatch(word) or (NUMBERED.fullmatch(word) and rest[:1].isdigit()):
        return True
    return EITHER.fullmatch(word) is not None and word != "I" and STARTER.match(rest) is None


def joined(chosen: list[str]) -> str:
    """Return sentences as one text, each on one line; no space follows a mark that needs none."""
    lines = [" ".join(sentence.split()) for sentence in chosen]
    return "".join(f"{line}{'' if line[-1] in WIDE else ' '}" for line in lines).rstrip()


def lead(document: str, count: int = 1) -> str:
    """Return the first `count` sentences of a document: the baseline lead-k."""
    return joined(sentences(document)[:count])
