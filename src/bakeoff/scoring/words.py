"""The words of a text in any script.

Words are runs of Unicode letters, single characters of scripts without spaces, numbers with sign and point, and
operators.
"""

from unicodedata import normalize

import regex

# Scripts that part no words: each sign with its marks counts as one, as papers on Chinese and Japanese do it.
UNPARTED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
NUMBER = r"(?:(?<![\p{L}\p{N}])[-+\u2212])?\p{N}+(?:[.,]\p{N}+)*"
OPERATOR = r"[<>=!+\-*/&|^~%#@$\u2260\u2264\u2265]+"
TOKEN = regex.compile(
    rf"{NUMBER}|[{UNPARTED}]\p{{M}}*|[[\p{{L}}_]--[{UNPARTED}]][[\p{{L}}\p{{M}}\p{{N}}_]--[{UNPARTED}]]*|{OPERATOR}|\S",
    regex.V1,
)
WORD = regex.compile(r"[\p{L}\p{N}]")
JOINT = r"(?<=\p{L})[-/&](?=\p{L})"  # in one word, as in well-known
MEANING = regex.compile(rf"(?<![\p{{L}}\p{{N}}])[-+\u2212]\p{{N}}|\p{{N}}[.,]\p{{N}}|(?!{JOINT}){OPERATOR}")
SPACELESS = regex.compile(rf"[[{UNPARTED}]&&[\p{{L}}\p{{N}}]]", regex.V1)
LATIN = regex.compile(r"[a-z0-9]")


def tokens(text: str) -> list[str]:
    """Return everything in a text except white space, in lower case: words, numbers, operators, other signs."""
    return TOKEN.findall(normalize("NFC", text).lower())


def words(text: str) -> list[str]:
    """Return the words and numbers of a text, in lower case."""
    return [token for token in tokens(text) if WORD.search(token)]


def only_latin(text: str) -> float:
    """Return the share of a text's letters and digits that are not a to z or 0 to 9."""
    return 0.0 if text.isascii() else 1 - _share(LATIN, text)


def unparted(text: str) -> float:
    """Return the share of a text's letters and digits in scripts without spaces between words."""
    return 0.0 if text.isascii() else _share(SPACELESS, text)


def meaning(text: str) -> float:
    """Return 1 if a text contains signs, points or operators: these change its meaning, and are not in words."""
    return float(MEANING.search(text) is not None or WORD.search(text) is None)


def _share(of: "regex.Pattern[str]", text: str) -> float:
    text = text.lower()
    return len(of.findall(text)) / max(1, len(WORD.findall(text)))
