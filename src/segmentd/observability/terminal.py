"""Makes text from outside safe for a terminal."""


def printable(text: str) -> str:
    """The text with an escape for each character that would control a terminal or not be visible.

    These are the control characters (C0, DEL, C1), line breaks, and those that change the writing direction.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
