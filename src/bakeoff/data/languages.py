"""Guesses the language of a text by its script and most common words: enough to see that splits differ."""

import re
from collections import Counter

WORDS = {
    "English": "the of and to in is that for it with was as this are be i you do so",
    "German": "der die und das ist nicht von zu mit den ein eine auf sich dem",
    "French": "le les des et est une que dans pour qui pas sur du au il",
    "Spanish": "el los las y que en una por con del se su es al lo",
    "Italian": "il di che e la per un non sono gli della nel del le si",
    "Portuguese": "o os as e que em um uma para com não do da ao se",
    "Dutch": "de het een en van is dat op te met voor niet zijn aan er",
    "Swedish": "och att det som en är på för med av inte den till har jag",
    "Polish": "i w nie na się z do to że jest o jak co po tak",
    "Turkish": "ve bir bu için ile da de çok daha gibi olarak olan ne ama var",
    "Indonesian": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke ada",
}
SCRIPTS = {
    "Russian or another language in Cyrillic script": "\u0400-\u04ff",
    "Greek": "\u0370-\u03ff", "Hebrew": "\u0590-\u05ff",
    "Arabic or another language in its script": "\u0600-\u06ff",
    "Hindi or another language in Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f", "Korean": "\uac00-\ud7af", "Japanese": "\u3040-\u30ff", "Chinese": "\u4e00-\u9fff",
}  # fmt: skip
LOOKED_AT = 1000  # characters of a text
OTHER = "no language that is known here"
_LANGUAGES: dict[str, list[str]] = {}
for _name, _words in WORDS.items():
    for _word in _words.split():
        _LANGUAGES.setdefault(_word, []).append(_name)
_SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items()}


def language_of(text: str) -> str:
    """Return the language of a text, or OTHER."""
    text = text[:LOOKED_AT].lower()
    letters = sum(character.isalpha() for character in text)
    for name, script in _SCRIPTS.items():
        share = 0.1 if name == "Japanese" else 0.5  # which writes its syllables between Chinese signs
        if letters and len(script.findall(text)) > share * letters:
            return name
    met = Counter(name for word in re.findall(r"\w+", text) for name in _LANGUAGES.get(word, ()))
    (first, most), (_, next_most) = [*met.most_common(2), ("", 0), ("", 0)][:2]
    return first if most >= 3 and most > 1.3 * next_most else OTHER
