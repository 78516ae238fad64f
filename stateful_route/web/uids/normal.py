"""Any text from outside as an id, and an id that belongs to somebody."""

from __future__ import annotations

import hashlib
import re
import unicodedata

MAX_UID_BYTES = 256
"""A longer id is hashed. It is half of what ``check_id`` allows: there is room for what is put in front."""

# No text of more characters has a composed form of 256 bytes. And composing takes the square of the length of what
# was made to be slow: 0.7 s for 32,000 combining marks.
_MAX_COMPOSED = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def normalised(raw: str) -> str | None:
    """Return the id that a text from outside stands for, or ``None`` if it is blank.

    White space around it is not part of it, and the two ways to write an accented letter are one (NFC). What looks
    alike and is not the same letter stays apart (no NFKC, no case folding): two ids of the application are two here.

    What is longer than 256 bytes as UTF-8, cannot be encoded (lone surrogates) or has control characters becomes
    ``"sha256-"`` and 64 hexadecimal digits. So the result passes ``check_id``, and is what it is if normalised again.
    Of more than 512 characters, the hash is that of the text as it came, not composed.
    """
    if raw.isascii() and raw.isprintable() and len(raw) <= MAX_UID_BYTES:
        return raw.strip() or None
    text = raw.strip()
    if not text:
        return None
    if len(text) > _MAX_COMPOSED:
        return _hashed(text)
    text = unicodedata.normalize("NFC", text)
    return _hashed(text) if _CONTROL.search(text) or not _fits(text) else text


def scoped(principal: str, uid: str) -> str:
    """Return the id of the ``uid`` of a principal: no two pairs have one, whatever is in them.

    It is ``"5:alice:room-1"``, with the length of the principal in characters in front, so that nothing can be shifted
    from the one into the other; beyond 256 bytes, or if it cannot be encoded, a hash of that.
    """
    text = f"{len(principal)}:{principal}:{uid}"
    return text if _fits(text) else _hashed(text)


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_UID_BYTES
    except UnicodeEncodeError:
        return False


def _hashed(text: str) -> str:
    return f"sha256-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
