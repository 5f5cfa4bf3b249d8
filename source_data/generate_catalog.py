"""The synthetic upstream rows in `catalog/`: images and audio as providers' pipelines would have written them, the same on every machine.

`python source_data/generate_catalog.py` rewrites the folder; `--check` changes nothing and exits 1 if a file does not hold what would be
written. `expected.json` tells how many documents, fixes and sensitive documents the rows give, counted here from the rules and not by the
pipeline. No person, work or host in these files exists: hosts end in `.example`.
"""

import argparse
import gzip
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

FOLDER = Path(__file__).parent / "catalog"
IMAGES, AUDIO_ROWS = 5000, 2000

Row = dict[str, Any]

_COMMON = (
    "identifier created_on updated_on ingestion_type provider source foreign_identifier foreign_landing_url url thumbnail {} filesize "
    "license license_version creator creator_url title meta_data tags watermarked last_synced_with_source removed_from_source filetype "
    "category {}"
)
IMAGE_COLUMNS = _COMMON.format("width height", "standardized_popularity").split()
AUDIO_COLUMNS = _COMMON.format(
    "duration bit_rate sample_rate", "genres audio_set audio_set_position alt_files standardized_popularity"
).split()

TERMS = ("running", "water", "bird")
PHRASE = "quiet harbour lights"
"""Sensitive only where a list of terms names it: the one that comes with the package has single words."""

_START = datetime(2021, 3, 1, 6, 0, tzinfo=UTC)
_LIKE = ("amber", "bright", "calm", "distant", "early", "faded", "gentle", "hidden", "misty", "narrow", "old", "quiet", "rusty", "wide")
_THING = (
    *("lighthouse", "harbour", "meadow", "bridge", "market", "orchard", "station", "valley", "window", "staircase", "garden", "forest"),
    *("mountain", "village", "bicycle", "kitchen", "castle", "island", "desert", "tower", "street", "animal", "library", "rooftop"),
)
_WHERE = ("at dawn", "in autumn", "after the rain", "near Ostermoor", "of Vellinge Quay", "under snow", "by night", "from above", "again")
_TAGS = (
    *("architecture", "baby", "blue", "city", "cloud", "coast", "colour", "ruby", "evening", "field", "flower", "grass", "green"),
    *("holiday", "house", "landscape", "light", "macro", "morning", "nature", "nearby", "outdoor", "path", "people", "portrait", "red"),
    *("rock", "sky", "spring", "stone", "summer", "sunset", "travel", "tree", "urban", "vintage", "white", "winter", "wood", "été", "日没"),
)
_GIVEN = ("Ansa", "Bero", "Calla", "Dovan", "Elsin", "Farro", "Gitte", "Holm", "Isko", "Jorre", "Kaia", "Lund", "Mirel", "Nuno", "Oda")
_FAMILY = ("Verrin", "Okstad", "Hallam-Reyes", "D'Orsay-Quill", "Tamsen", "Brakk", "Løvdal", "Quentaro", "Mbeki-Sund", "Ferrow", "Zajíc")
_FLICKR = (("by", "2.0"), ("by-sa", "2.0"), ("by-nc", "2.0"), ("by-nc-nd", "2.0"), ("by-nc-sa", "2.0"), ("by-nd", "2.0"), ("pdm", "1.0"))
_OTHERS = ("met", "rijksmuseum", "smithsonian", "thingiverse", "wikimedia", "geograph")
_GENRES = ("rock", "indie pop", "ambient", "jazz", "folk", "electronic", "classical", "soundtrack", "hip-hop")


def identifier(model: str, number: int) -> str:
    """The UUID of a row."""
    return str(UUID(bytes=hashlib.sha256(f"{model} {number}".encode()).digest()[:16], version=4))


def code(model: str, number: int, length: int = 10) -> str:
    """What a provider would call a work."""
    return hashlib.sha256(f"{model} code {number}".encode()).hexdigest()[:length].upper()


def person(random: Random) -> str:
    """A name that nobody has."""
    return f"{random.choice(_GIVEN)} {random.choice(_FAMILY)}"


def title(random: Random) -> str:
    """A title without a word of `TERMS`."""
    return f"{random.choice(_LIKE)} {random.choice(_THING)} {random.choice(_WHERE)}".capitalize()


def tags(random: Random, provider: str) -> list[Row]:
    """Good tags, each once; about half with an accuracy."""
    names = random.sample(_TAGS, random.randrange(2, 7))
    found: list[Row] = [{"name": name, "provider": provider} for name in names]
    for tag in found[: len(found) // 2]:
        tag["accuracy"] = round(0.9 + random.randrange(1000) / 10000, 4)
        tag["provider"] = "clarifai"
    return found


def times(random: Random, number: int) -> Row:
    """When a row was made, changed, and last seen at its provider."""
    made = _START + timedelta(minutes=7 * number, microseconds=random.randrange(1_000_000) if number % 3 else 0)
    changed = made + timedelta(days=random.randrange(1500), seconds=random.randrange(86400))
    stamps = {"created_on": made, "updated_on": changed, "last_synced_with_source": changed if number % 9 else None}
    return {name: stamp and stamp.isoformat(" ") for name, stamp in stamps.items()}


def image(number: int, random: Random) -> Row:
    """An ordinary image."""
    provider = _OTHERS[number // 20 % len(_OTHERS)] if number % 20 == 19 else ("flickr", "stocksnap")[number % 2]
    known = code(provider, number) if provider != "flickr" else str(48_000_000_000 + 7919 * number)
    licence = ("cc0", "1.0") if provider != "flickr" else random.choice(_FLICKR)
    width, height = random.choice(((1024, 683), (683, 1024), (800, 800), (640, 480), (500, 333), (4096, 2731), (1600, 900)))
    name = person(random)
    meta: Row = {"license_url": f"https://licences.example/{licence[0]}/{licence[1]}/", "views": str(random.randrange(90_000))}
    if number % 4 == 0:
        meta["description"] = f"{title(random)}. Taken for an exhibition that never was."
    return {
        "identifier": identifier("image", number),
        **times(random, number),
        "ingestion_type": "provider_api",
        "provider": provider,
        "source": provider,
        "foreign_identifier": known,
        "foreign_landing_url": f"https://www.{provider}.example/works/{known}",
        "url": f"https://live.{provider}.example/{number % 97}/{known}.{('jpg', 'jpg', 'png', 'JPEG', 'svg')[number % 5]}",
        "thumbnail": f"https://live.{provider}.example/{number % 97}/{known}_m.jpg" if number % 3 else None,
        "width": width,
        "height": height,
        "filesize": 40_000 + random.randrange(4_000_000) if number % 5 else None,
        "license": licence[0],
        "license_version": licence[1],
        "creator": name,
        "creator_url": f"https://www.{provider}.example/people/{name.split()[0].lower()}{number % 311}",
        "title": title(random),
        "meta_data": meta,
        "tags": tags(random, provider),
        "watermarked": False,
        "removed_from_source": number % 41 == 40,
        "filetype": ("jpg", "jpg", "png", "jpg", "svg")[number % 5],
        "category": (None, "photograph", "illustration", "digitized_artwork")[number % 4],
        "standardized_popularity": round(random.random(), 6) if number % 7 else 0,
    }


def audio(number: int, random: Random) -> Row:
    """An ordinary recording."""
    provider = ("jamendo", "jamendo", "freesound", "freesound", "wikimedia_audio")[number % 5]
    known = str(1_000_000 + 31 * number)
    kind = {"jamendo": "mp3", "freesound": "mp3", "wikimedia_audio": "ogg"}[provider]
    name = person(random)
    host = provider.replace("_", "-") + ".example"
    page = f"https://www.{host}"
    meta: Row = {
        "license_url": "https://licences.example/by-nc-sa/3.0/",
        "downloads": random.randrange(5000),
        "listens": random.randrange(90_000),
    }
    if number % 6 == 0:
        meta |= {"release_date": f"20{10 + number % 12}-0{1 + number % 9}-11", "lyrics": "\n".join(title(random) for _ in range(10))}
    row: Row = {
        "identifier": identifier("audio", number),
        **times(random, number),
        "ingestion_type": "provider_api",
        "provider": provider,
        "source": provider,
        "foreign_identifier": known,
        "foreign_landing_url": f"{page}/track/{known}",
        "url": f"https://files.{host}/{known}.{kind}",
        "thumbnail": f"https://files.{host}/{known}.jpg" if number % 3 else None,
        "filesize": 900_000 + random.randrange(9_000_000) if number % 5 else None,
        "license": random.choice(("by", "by-sa", "by-nc-sa", "cc0")),
        "license_version": "3.0",
        "creator": name,
        "creator_url": f"{page}/artist/{name.split()[0].lower()}{number % 83}",
        "title": title(random),
        "meta_data": meta,
        "tags": tags(random, provider),
        "watermarked": None,
        "removed_from_source": number % 67 == 66,
        "filetype": kind,
        "category": ("music", "music", "sound_effect", None, "pronunciation")[number % 5],
        "duration": 1000 * random.choice((4, 29, 30, 95, 119, 120, 240, 599, 600, 3600)),
        "bit_rate": random.choice((128_000, 192_000, 320_000)),
        "sample_rate": random.choice((44_100, 48_000)),
        "genres": random.sample(_GENRES, number % 4) if number % 4 else None,
        "standardized_popularity": round(random.random(), 6) if number % 7 else None,
    }
    if provider == "jamendo" and number % 15 < 10:
        album = number // 40
        row |= {
            "audio_set": {
                "foreign_identifier": str(77_000 + album),
                "title": f"Songs of the {_THING[album % len(_THING)]}, part {album}",
                "foreign_landing_url": f"{page}/album/{77_000 + album}",
                "creator": f"The {_FAMILY[album % len(_FAMILY)]} Ensemble",
                "creator_url": f"{page}/artist/ensemble{album}",
                "url": f"https://files.{host}/album/{77_000 + album}.zip",
                "filesize": 50_000_000 + album if album % 2 else None,
                "filetype": "zip",
                "thumbnail": f"https://files.{host}/album/{77_000 + album}.jpg",
            },
            "audio_set_position": 1 + number % 40,
        }
    if provider == "freesound" and number % 3:
        others = ("wav", "m4a") if number % 2 else ("flac",)
        row["alt_files"] = [
            {
                "url": f"https://files.{host}/{known}.{other}",
                "filetype": other,
                "filesize": 4_000_000 + number,
                "bit_rate": 1_411_000,
            }
            for other in others
        ]
    return row


def tag(name: Any, accuracy: Any = None, provider: str = "flickr") -> Row:
    """One tag; without an accuracy if there is none."""
    return {"name": name, "provider": provider} | ({} if accuracy is None else {"accuracy": accuracy})


def odd_images() -> Iterator[Row]:
    """What makes a row unlike the ordinary ones, a row each."""
    yield {"tags": [tag("cc0"), tag(" cc0"), tag("valid", 0.99), tag("valid_no_accuracy"), tag("garbage:=metacrap")]}
    yield {"tags": [tag("harbour", 0.92)]}
    yield {"tags": [tag("half", 0.5), tag("nearly", 0.999)]}
    yield {"tags": [tag("exactly", 0.90), tag("just below", 0.8999)]}
    yield {"tags": [tag("text below", "0.4"), tag("text above", "0.95"), tag("text exactly", "0.90")]}
    yield {"tags": [tag("seen by a machine", 0.99, "rekognition"), tag("seen by a person", None, "provider1")]}
    yield {"tags": [tag("no person"), tag("squareformat"), tag("cc0"), tag("dim", 0.1)]}
    yield {"tags": [tag("by"), tag("BY"), tag("baby"), tag("ruby"), tag("byzantine"), tag("nearby")]}
    yield {"tags": [tag("by-nc-sa"), tag("License PDM 1.0"), tag("Uploaded with care"), tag("FlickrIOSApp:filter=flamingo")]}
    yield {"tags": [{"accuracy": 0.99, "provider": "clarifai"}, tag(None), tag(7), tag("named")]}
    yield {"tags": [tag("No Person", 0.98), tag("person", 0.98)]}
    yield {"tags": []}
    yield {"tags": None}
    yield {
        "tags": [
            tag("crème brûlée"),
            tag("naïve"),
            tag("日本"),
            tag("🌉 bridge"),
            tag('quoted "tag"'),
            tag("back\\slash"),
            tag("comma, tag"),
        ]
    }
    yield {"url": "live.flickr.example/0/schemeless.jpg"}
    yield {"url": "files.stocksnap.example:8080/with/a/port.jpg"}
    yield {"url": "live.flickr.example/0/it's_quoted.jpg", "creator_url": "www.flickr.example/people/o'nobody"}
    yield {"url": "https://live.flickr.example/0/query.JPG?width=1024&dot=1.0"}
    yield {"url": "http://live.flickr.example/0/plain_http.jpg"}
    yield {"url": "https://live.flickr.example/0/no_extension"}
    yield {"creator_url": "", "foreign_landing_url": None}
    yield {"creator_url": "mailto:nobody@flickr.example", "foreign_landing_url": "data:text/plain,nothing"}
    yield {"title": "Bird perched on a fence", "tags": [tag("fence")]}
    yield {"title": "Birds bathing", "tags": [tag("birds"), tag("waterfall")]}
    yield {"title": "A lane", "tags": [tag("Running")]}
    yield {"title": "A lane", "tags": [tag("water", 0.5), tag("lane", 0.95)]}
    yield {"title": "Study no. 4", "meta_data": {"description": "Glass of WATER, half full."}}
    yield {"title": "Study no. 5", "meta_data": {"description": f"{'study ' * 400}water"}}
    yield {"title": "Quiet harbour lights"}
    yield {"title": "Study no. 6", "meta_data": {"description": "The quiet harbour lights, again"}}
    yield {"title": "Quiet harbour", "tags": [tag("lights")]}
    yield {"title": "Bird-watching for beginners"}
    yield {"title": "Animals of the old zoo"}
    yield {"title": "An anime figure, animated"}
    yield {"title": "The Universe's edge"}
    yield {"title": 'He said "look", didn\'t he; C:\\temp\\new & <b>bold</b>'}
    yield {"title": "Ünïcödé — Zürich, Łódź, Ἀθῆναι, 東京, القاهرة 🌅"}
    yield {"title": "two\nlines\tand a tab"}
    yield {"title": ""}
    yield {"title": "Long " * 400}
    yield {
        "title": None,
        "creator": None,
        "creator_url": None,
        "meta_data": None,
        "tags": None,
        "width": None,
        "height": None,
        "filesize": None,
    }
    yield dict.fromkeys(
        ("foreign_landing_url", "thumbnail", "license_version", "last_synced_with_source", "filetype", "category", "watermarked")
    )
    yield {"standardized_popularity": None, "meta_data": {}}
    yield {"standardized_popularity": 1}
    yield {"meta_data": {"authority_boost": 77}}
    yield {"meta_data": {"authority_boost": "88.5"}}
    yield {"meta_data": {"authority_boost": "abc"}}
    yield {"meta_data": {"authority_boost": -5}}
    yield {"meta_data": {"authority_boost": 0}}
    yield {"meta_data": {"authority_boost": 150}}
    yield {"meta_data": {"mature": True}}
    yield {"meta_data": {"mature": False, "description": None}}
    yield {"width": 640, "height": 480}
    yield {"width": 600, "height": 511}
    yield {"width": 1600, "height": 900}
    yield {"width": None, "height": 700}
    yield {"license": "BY-SA", "license_version": "4.0"}
    yield {"license": "sampling+", "license_version": "1.0"}
    yield {"license": "nc-sampling+", "license_version": "1.0"}
    yield {"license": "devnations", "license_version": "2.0"}
    yield {"source": "flickr_commons"}
    yield {"watermarked": True}


def odd_audio() -> Iterator[Row]:
    """The same of recordings."""
    yield {"duration": 29_999}
    yield {"duration": 119_999}
    yield {"duration": 0}
    yield {"duration": None, "bit_rate": None, "sample_rate": None}
    yield {"alt_files": []}
    yield {"alt_files": [{"filetype": "m4a", "url": "https://files.freesound.example/alt.m4a"}]}
    yield {"genres": []}
    yield {"genres": ['with "quotes"', "with, comma", "back\\slash", "été"]}
    yield {"title": "Rain on the Water"}
    yield {"title": "Running scales", "tags": [tag("piano", None, "jamendo")]}
    yield {"title": "Dawn chorus", "tags": [tag("bird", None, "freesound")]}
    yield {"title": "Quiet harbour lights (live)"}
    yield {"tags": [tag("no person", 0.2, "jamendo"), tag("upbeat", None, "jamendo")]}
    yield {"tags": None, "meta_data": None, "title": None, "creator": None, "genres": None}
    yield {"license": "sampling+", "license_version": "1.0"}
    yield {"meta_data": {"mature": True, "lyrics": "la " * 900}}
    yield {"url": "files.wikimedia-audio.example/schemeless.ogg"}
    yield {"title": "Symphony no 5 in c minor, as nobody played it"}
    yield {"filetype": None, "category": None}


def rows(model: str, count: int, ordinary: Callable[[int, Random], Row], odd: Iterable[Row]) -> list[Row]:
    """All rows of a table: ordinary ones, some with what is often wrong, and at fixed places the odd ones."""
    random = Random(f"catalog {model}")
    found = [ordinary(number, random) for number in range(count)]
    for number, row in enumerate(found):
        if number % 50 == 13:
            row["meta_data"] = (row["meta_data"] or {}) | {"mature": True}
        if number % 45 == 7:
            row["title"] = f"{random.choice(('Running', 'Still water', 'Small bird'))}: {row['title']}"
        if model == "image":
            _usual_dirt(number, row)
    for position, changes in enumerate(odd):
        number = 101 + 68 * position
        found[number] |= {"removed_from_source": False} | changes
    return found


def _usual_dirt(number: int, row: Row) -> None:
    if number % 6 == 2:
        row["creator_url"] = row["creator_url"].removeprefix("https://")
    if number % 8 == 3:
        row["foreign_landing_url"] = row["foreign_landing_url"].removeprefix("https://")
    if number % 120 == 5:
        row["url"] = row["url"].removeprefix("https://")
    if number % 10 == 4:
        row["tags"] = [*row["tags"], tag("dull", round(number % 89 / 100, 2), "clarifai"), tag("uploaded:by=instagram")]


# How the rules judge the rows, written from the rules.

_EXACTLY = {"no person", "squareformat", "uploaded:by=flickrmobile", "uploaded:by=instagram", "flickriosapp:filter=flamingo", "by"}
_ANYWHERE = ("flickriosapp", "uploaded", ":", "=", "cc0", "by-nc", "by-nd", "by-sa", "pdm")


def is_bad(one: Row) -> bool:
    """Whether a tag is to be dropped."""
    name, accuracy = one.get("name"), one.get("accuracy")
    if not isinstance(name, str) or one.get("provider") == "rekognition" or (accuracy is not None and float(accuracy) < 0.9):
        return True
    return name.lower() in _EXACTLY or any(part in name.lower() for part in _ANYWHERE)


def fixed_fields(row: Row) -> list[str]:
    """The fields of an image that cleaning changes."""
    changed = [
        name for name in ("url", "creator_url", "foreign_landing_url") if row[name] and not re.match(r"[a-z]+://|mailto:|data:", row[name])
    ]
    return changed + (["tags"] if any(is_bad(one) for one in row["tags"] or []) else [])


def words(row: Row, *, cleaned: bool) -> list[list[str]]:
    """The words of each text that a document is searched by."""
    good = [one for one in row["tags"] or [] if not (cleaned and is_bad(one))]
    description = ((row["meta_data"] or {}).get("description") or "")[:2000]
    texts = [row["title"] or "", description, *(one["name"] for one in good if isinstance(one.get("name"), str))]
    return [re.findall(r"[^\W_]+", text.lower()) for text in texts]


def has(texts: list[list[str]], term: str) -> bool:
    """Whether one of the texts has the term, word by word."""
    return any(f" {term} " in f" {' '.join(text)} " for text in texts)


def expected(found: list[Row], *, cleaned: bool) -> Row:
    """What a refresh is to count."""
    shown = [row for row in found if not row["removed_from_source"]]
    texts = [words(row, cleaned=cleaned) for row in shown]
    sensitive = sum(any(has(text, term) for term in TERMS) for text in texts)
    fixes = [fixed_fields(row) if cleaned else [] for row in found]
    dropped = [[is_bad(one) for one in row["tags"] or []] if cleaned else [] for row in found]
    return {
        "rows": len(found),
        "rows_by_provider": dict(sorted(Counter(row["provider"] for row in found).items())),
        "removed": len(found) - len(shown),
        "documents": len(shown),
        "documents_by_source": dict(sorted(Counter(row["source"] for row in shown).items())),
        "documents_by_license": dict(sorted(Counter(row["license"].lower() for row in shown).items())),
        "mature": sum((row["meta_data"] or {}).get("mature") is True for row in shown),
        "sensitive": sensitive,
        "filtered": len(shown) - sensitive,
        "phrase": {"term": PHRASE, "documents": sum(has(text, PHRASE) for text in texts)},
        "cleaned_rows": sum(bool(fields) for fields in fixes),
        "fixed_fields": dict(sorted(Counter(field for fields in fixes for field in fields).items())),
        "dropped_tags": sum(sum(bad) for bad in dropped),
        "all_tags_dropped": sum(bool(bad) and all(bad) for bad in dropped),
        "audiosets": len({row["audio_set"]["foreign_identifier"] for row in found if row.get("audio_set")}),
    }


def field_text(name: str, value: Any) -> str:
    """A value as Postgres reads it from CSV: a null is nothing, an empty text is quoted."""
    if value is None:
        return ""
    if name == "genres":
        value = "{" + ",".join('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in value) + "}"
    elif isinstance(value, bool):
        value = "t" if value else "f"
    elif isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if not text or re.search(r'[",\r\n\\]', text) else text


def csv_of(columns: list[str], found: list[Row]) -> bytes:
    """The rows as CSV with a header."""
    lines = (",".join(field_text(name, row.get(name)) for name in columns) for row in found)
    return "\n".join([",".join(columns), *lines, ""]).encode()


def files() -> dict[str, bytes]:
    """What the folder is to hold, gzip files by what is in them."""
    images = rows("image", IMAGES, image, odd_images())
    recordings = rows("audio", AUDIO_ROWS, audio, odd_audio())
    counts = {"image": expected(images, cleaned=True), "audio": expected(recordings, cleaned=False)}
    return {
        "audio.csv.gz": csv_of(AUDIO_COLUMNS, recordings),
        "expected.json": (json.dumps(counts, indent=2) + "\n").encode(),
        "image.csv.gz": csv_of(IMAGE_COLUMNS, images),
    }


def content(path: Path) -> bytes | None:
    """What a file holds; None if there is no such file, or it is broken."""
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError):
        return None


def main() -> int:
    """Write the folder, or check it. What compresses a file differs from one zlib to the next, so what is compressed is compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file differs")
    check = parser.parse_args().check
    wanted = files()
    FOLDER.mkdir(exist_ok=True)
    stray = sorted(path.name for path in FOLDER.iterdir() if path.name not in wanted)
    differing = [name for name in wanted if content(FOLDER / name) != wanted[name]]
    for name in sorted(stray + differing):
        if check:
            print(f"differs: {name}")
        elif name in wanted:
            (FOLDER / name).write_bytes(gzip.compress(wanted[name], mtime=0) if name.endswith(".gz") else wanted[name])
        else:
            (FOLDER / name).unlink()
    return 1 if check and (stray or differing) else 0


if __name__ == "__main__":
    sys.exit(main())
