"""Titles: two optional rules that make them readable. Both are off unless settings ask for them."""

import re
from html import unescape

_EXTENSION = re.compile(r"\.(?:jpe?g|png|gif|tiff?|svg|webp|bmp|xcf|djvu|pdf|ogg|oga|ogv|opus|flac|wav|mp3|mid|webm)\Z", re.IGNORECASE)
_PREFIX = re.compile(r"\s*File:\s*", re.IGNORECASE)
_MARKUP = re.compile(r"<(?:/?[A-Za-z][^<>]*|!--.*?--)>", re.DOTALL)
_SPACE = re.compile(r"\s+")


def without_file_name(title: str, provider: object) -> str:
    """A Wikimedia title without `File:` before and a file's extension behind it; others as they are. Rule `wikimedia_titles`."""
    if not isinstance(provider, str) or not provider.startswith("wikimedia"):
        return title
    bare = _EXTENSION.sub("", _PREFIX.sub("", title, count=1) if _PREFIX.match(title) else title)
    return bare.strip() or title


def without_markup(title: str) -> str:
    """A title without HTML elements and character references, white space folded. Rule `html_titles`. One without either stays."""
    if "<" not in title and "&" not in title:
        return title
    plain = unescape(_MARKUP.sub(" ", title)) if _MARKUP.search(title) else unescape(title)
    if plain == title or "\x00" in plain:
        return title
    plain = _SPACE.sub(" ", plain).strip()
    return plain or title
