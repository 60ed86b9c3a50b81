"""Film titles as MovieLens writes them, made readable and comparable."""

import re
import unicodedata
from typing import Final

_ARTICLES: Final = "the|a|an|le|la|les|l'|il|lo|der|die|das|el|los|las|un|une"
_TRAILING_ARTICLE: Final = re.compile(rf"^(?P<rest>.+), (?P<article>{_ARTICLES})$", re.IGNORECASE)
_PARENTHESES: Final = re.compile(r"\s*\(([^()]*)\)")
_ALSO_KNOWN_AS: Final = re.compile(r"^a\.?k\.?a\.? ", re.IGNORECASE)
_APOSTROPHES: Final = re.compile(r"['\u2019`]")
_WORD: Final = re.compile(r"[a-z0-9]+")
_PART: Final = re.compile(
    r"\s*[:\u2013\u2014]\s+|\s+[-\u2013\u2014]\s+"
)  # a colon or a long dash; a hyphen between spaces


def readable(title: str) -> str:
    """Put a trailing article in front: "Usual Suspects, The (1995)" becomes "The Usual Suspects (1995)"."""
    main, *_ = re.split(r"(?=\s*\()", title, maxsplit=1)
    return _with_article_in_front(main.strip()) + title[len(main) :]


def names(title: str) -> list[str]:
    """Give the names that a title holds: itself without parentheses, then what stands in each of them."""
    alternatives = [_ALSO_KNOWN_AS.sub("", text.strip()) for text in _PARENTHESES.findall(title)]
    found = [_PARENTHESES.sub("", title).strip(), *alternatives]
    return [_with_article_in_front(name) for name in found if name]


def parts(title: str) -> list[str]:
    """Give what stands between the colons and dashes of a title that has some; otherwise nothing."""
    pieces = [piece for piece in _PART.split(title) if piece]
    return pieces if len(pieces) > 1 else []


def folded(title: str) -> str:
    """Reduce a title to lower-case words without accents, so that spellings of it compare equal."""
    plain = unicodedata.normalize("NFKD", title.casefold())
    without_accents = "".join(character for character in plain if not unicodedata.combining(character))
    return " ".join(_WORD.findall(_APOSTROPHES.sub("", without_accents).replace("&", " and ")))


def _with_article_in_front(name: str) -> str:
    match = _TRAILING_ARTICLE.match(name)
    if match is None:
        return name
    article, rest = match["article"], match["rest"]
    return f"{article}{rest}" if article.endswith("'") else f"{article} {rest}"
