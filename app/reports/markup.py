"""HTML that no text can break out of: whatever is not markup already is escaped where it enters."""

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

_VOID = frozenset({"meta", "br"})


class Html(str):
    """A finished piece of HTML; every other string is text."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | None"


def tag(name: str, *children: Child, **attributes: Attribute) -> Html:
    """Return an element; attributes that are `None` are left out.

    Names are written as Python allows them: `class_` is class, `stroke_width` stroke-width.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    opened = f"<{name}{written}>"
    return Html(opened if name in _VOID else f"{opened}{joined(children)}</{name}>")


def joined(children: Child) -> Html:
    """Return the pieces one after the other; text is escaped."""
    if children is None:
        return Html()
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return Html(escape(children))
    return Html("".join(joined(child) for child in children))


def foreign(text: str) -> Html:
    """Return a text that somebody else wrote: its writing direction ends with it."""
    return tag("bdi", text)


def _attribute(value: str | float) -> str:
    # Coordinates need no more digits than a screen or a page can show.
    return escape(f"{value:.2f}".rstrip("0").rstrip(".")) if isinstance(value, float) else escape(str(value))
