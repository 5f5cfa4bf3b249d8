"""The embedded index finds the words that a real node finds."""

import urllib.request
import uuid
from collections.abc import Iterator

import orjson
import pytest

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.analysis import LONGEST, STOP_WORDS, english, standard
from ingestion_dagster.catalog.opensearch import OpenSearch
from ingestion_dagster.catalog.porter import stem

TEXTS = """
Animals animal animated animate anime Universe's universes UNIVERSE the Cat's cat’s CATS'S Bird`s
caresses ponies ties cats feed agreed plastered motoring sing conflated troubled sized
hopping tanned falling hissing fizzed failing filing
happy sky relational conditional rational valenci hesitanci digitizer conformabli radicalli differentli vileli analogousli
vietnamization predication operator feudalism decisiveness hopefulness
callousness formaliti sensitiviti sensibiliti triplicate formative formalize electriciti
electrical hopeful goodness revival allowance inference airliner gyroscopic adjustable defensible irritant replacement adjustment
dependent
adoption homologou communism activate
angulariti homologous effective bowdlerize
probate rate cease controll roll generously dying skis
technology technologies possibly visibly assemblies specced is as us s ay by oy singing bring sting yes yellow toyed crying dryly
foo_bar _a_ __ a.b.c x:y 3.14 1,000.5 1;2 a;b a,b 12:30 e-mail don't O’Neil rock'n'roll l'été
http://www.example.org/a?b=c#d user@example.org C++ C#
Straße KÖLN İstanbul ΣΊΣΥΦΟΣ ΟΔΟΣ ﬁne ｆｕｌｌ ＷＩＤＴＨ１ ½ ² №5 ™ ©2024 Ⅻ ⓐ
日本語テキスト ひらがな カタカナ ｶﾀｶﾅ 한국어 가나다 สวัสดีครับ ភាសាខ្មែរ हिन्दी العربية ١٢٣ עברית ישראל'ס
👨‍👩‍👧 👍🏽 🇩🇪🇫🇷 ☺️x 1️⃣2 #️⃣ ❤️ 🐦🐦 a👍b soft­hyphen zero\u200bwidth a‿b m·l naïve naïve
""".strip().splitlines()  # noqa: RUF001


@pytest.fixture(scope="module")
def node(opensearch: str) -> Iterator[str]:
    """The address of an index with the analyzers on a real node."""
    engine = OpenSearch.at(opensearch)
    name = f"analysis-{uuid.uuid4().hex[:10]}"
    engine.create(name, mapping.AUDIO.definition({}))
    yield f"{opensearch}/{name}/_analyze"
    engine.delete_index(name)
    engine.close()


def analyzed(node: str, text: str, analyzer: str) -> list[tuple[str, int]]:
    """What the node makes of a text."""
    body = orjson.dumps({"analyzer": analyzer, "text": text})
    with urllib.request.urlopen(urllib.request.Request(node, body, {"Content-Type": "application/json"}), timeout=30) as answer:
        return [(token["token"], token["position"]) for token in orjson.loads(answer.read())["tokens"]]


@pytest.mark.parametrize("text", [*TEXTS, " ".join(sorted(STOP_WORDS)), "x" * 600 + " " + "1" * 255])
def test_words_and_their_places_are_those_of_the_node(node: str, text: str) -> None:
    assert [tuple(word) for word in english(text)] == analyzed(node, text, mapping.ENGLISH)
    assert [tuple(word) for word in standard(text)] == analyzed(node, text, "standard")


def test_stems_are_those_of_the_node_for_any_ending(node: str) -> None:
    plain = ["s", "es", "ed", "ing", "eed", "sses", "ies", "y", "ly", "ful", "ance", "er", "ement", "ion", "e", "ll"]
    endings = [*plain, *["ational", "tional", "izer", "bli", "alli", "ization", "ator", "ness", "iviti", "logi", "icate", "ical"]]
    words = [start + ending for start in ("sk", "train", "hop", "cont", "visi", "y", "apolo", "x") for ending in endings]
    found = [token for token, _ in analyzed(node, " ".join(words), mapping.ENGLISH)]
    assert [stem(word) for word in words] == found


def test_the_first_word_of_a_title_is_found_as_any_other() -> None:
    stems = {
        word: [found.text for found in english(word)] for word in ("Animals", "animals", "Animated", "anime", "Universe's", "universe")
    }
    expected = {
        "Animals": "animal",
        "animals": "animal",
        "Animated": "animate",
        "anime": "anime",
        "Universe's": "universe",
        "universe": "universe",
    }
    assert stems == {word: [stem] for word, stem in expected.items()}


def test_a_text_without_end_is_cut_in_time() -> None:
    for text in ("_" * 20_000, "a." * 10_000, "x" * 20_000, "1,a" * 7_000, "\u0301" * 20_000, "é_" * 10_000):
        assert all(len(word.text) <= LONGEST for word in standard(text))
