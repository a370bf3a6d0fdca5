"""Which scripts a text is written in: letters counted by the name that Unicode gives them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

_BY_NAME = {
    "LATIN": "Latin",
    "CJK": "Han",
    "HIRAGANA": "Kana",
    "KATAKANA": "Kana",
    "HANGUL": "Hangul",
    "BOPOMOFO": "Bopomofo",
    "CYRILLIC": "Cyrillic",
    "GREEK": "Greek",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "ARMENIAN": "Armenian",
    "GEORGIAN": "Georgian",
    "DEVANAGARI": "Devanagari",
    "BENGALI": "Bengali",
    "GURMUKHI": "Gurmukhi",
    "GUJARATI": "Gujarati",
    "ORIYA": "Odia",
    "TAMIL": "Tamil",
    "TELUGU": "Telugu",
    "KANNADA": "Kannada",
    "MALAYALAM": "Malayalam",
    "SINHALA": "Sinhala",
    "THAI": "Thai",
    "LAO": "Lao",
    "KHMER": "Khmer",
    "MYANMAR": "Burmese",
    "TIBETAN": "Tibetan",
    "ETHIOPIC": "Ethiopic",
    "MONGOLIAN": "Mongolian",
}
"""First word of a letter's name -> script."""
NO_LETTERS, OTHER = "no letters", "other"
SCRIPTS = (NO_LETTERS, *dict.fromkeys(_BY_NAME.values()), OTHER)
"""By number; number 0 is what is no letter."""
_LATIN = SCRIPTS.index("Latin")
_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
_NAMED = 0x20000
_HAN_PLANES = slice(0x20000, 0x32000)
_NO_LATIN = bytes(code for code in range(256) if not chr(code).isalpha() or code > 127)


def count_letters(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Letters of each script in each text; marks, digits, signs and emoji are no letters.

    Returns:
        int64[texts, scripts]

    Example:
        >>> counted = count_letters(["two 猫"])[0]
        >>> {SCRIPTS[number]: int(counted[number]) for number in counted.nonzero()[0]}
        {'Latin': 3, 'Han': 1}
    """
    counted = np.zeros((len(texts), len(SCRIPTS)), np.int64)
    mixed = []
    for number, text in enumerate(texts):
        if text.isascii():
            counted[number, _LATIN] = len(text.encode().translate(None, _NO_LATIN))
        else:
            mixed.append(number)
    if mixed:
        counted[mixed] = _count_mixed([texts[number] for number in mixed])
    return counted


def _count_mixed(texts: list[str]) -> npt.NDArray[np.int64]:
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    cells = rows * len(SCRIPTS) + _script_of_code()[codes]
    counted = np.bincount(cells, minlength=len(texts) * len(SCRIPTS))
    counted = counted.reshape(len(texts), len(SCRIPTS))
    counted[:, 0] = 0
    return counted


@cache
def _script_of_code() -> npt.NDArray[np.uint8]:
    """uint8[0x110000]: number of the script of every code point; made in 50 ms, when needed."""
    table = np.zeros(0x110000, np.uint8)
    numbers = {word: SCRIPTS.index(script) for word, script in _BY_NAME.items()}
    other = SCRIPTS.index(OTHER)
    for code in range(_NAMED):
        letter = chr(code)
        if unicodedata.category(letter)[0] == "L":
            name = unicodedata.name(letter, "")
            for width in _WIDTHS:
                name = name.removeprefix(width)
            table[code] = numbers.get(name.partition(" ")[0], other)
    table[_HAN_PLANES] = SCRIPTS.index("Han")
    return table
