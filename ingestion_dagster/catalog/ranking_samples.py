"""Four documents of each media type made by hand: what has to come first for a query, what behind it, and what not at all."""

from typing import Any

_IMAGES = (
    ("1", "My home office", "A desk by the window in my home office, with a lamp and a laptop", ("home", "office", "desk")),
    ("2", "Office tower", "Where people go who have no office at home", ("office", "architecture")),
    ("2", "A home by the sea", "My grandmother's house", ("home", "house")),
    ("3", "Red squirrel", "It eats a nut", ("animal", "forest")),
)
_AUDIO = (
    ("1", "Symphony No. 5 in C minor", "The first movement, played by an amateur orchestra", ("symphony", "classical")),
    ("2", "Symphony No. 4 in B flat major", "The slow movement of another symphony", ("symphony", "classical")),
    ("2", "Prelude in C minor", "For the left hand", ("piano", "classical")),
    ("3", "Rain on a tent", "Ten minutes of rain", ("field recording",)),
)


def documents(model: str) -> list[dict[str, Any]]:
    """The documents of a media type, as an index takes them; `identifier` says of which class each is: 1 first, 2 behind, 3 not at all.

    Ids are small and fixed: loaded again they replace each other.
    """
    made = _AUDIO if model == "audio" else _IMAGES
    return [
        {
            "id": number,
            "identifier": expected,
            "title": title,
            "description": description,
            "tags": [{"name": tag} for tag in tags],
            "mature": False,
            "license": "cc0",
            "provider": "search-qa",
            "source": "search-qa",
            "url": f"https://search-qa.example/{model}/{number}",
            "created_on": "2024-01-01T00:00:00+00:00",
        }
        for number, (expected, title, description, tags) in enumerate(made, 1)
    ]
