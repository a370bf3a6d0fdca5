"""Text of strangers, made harmless for a terminal."""

from __future__ import annotations

import unicodedata

# Joiners change how letters and emoji connect, and nothing else.
_HARMLESS = frozenset("\n\t\u200c\u200d")
_UNSAFE_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))


def plain_text(text: str) -> str:
    r"""Text that cannot steer a terminal: control and format characters become visible escapes.

    These are C0 and C1 controls (so escape sequences), bidirectional overrides, invisible
    characters, surrogates, and line and paragraph separators. Newline, tab and the zero-width
    joiners stay.

    Example:
        >>> plain_text("\x1b[2Jhi\u202e")
        '\\x1b[2Jhi\\u202e'
    """
    return "".join(_escape(character) if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    if character in _HARMLESS:
        return False
    return unicodedata.category(character) in _UNSAFE_CATEGORIES


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
