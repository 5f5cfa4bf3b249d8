"""Types that Qlik names and that would be stored otherwise than they are meant."""

import pyarrow as pa
import pytest

from ingestion_dagster.cubic.columns import arrow_type, of_dfm, parse_type


@pytest.mark.parametrize(
    ("kind", "precision", "scale", "stored"),
    [
        ("INT1", 0, 0, pa.int32()),
        ("UINT2", 0, 0, pa.int32()),
        ("INT4", 0, 0, pa.int32()),
        ("UINT4", 0, 0, pa.int64()),
        ("INT8", 0, 0, pa.int64()),
        ("UINT8", 0, 0, pa.decimal128(20, 0)),
        ("NUMERIC", 18, 0, pa.int64()),
        ("NUMERIC", 19, 0, pa.decimal128(19, 0)),
        ("NUMERIC", 10, 2, pa.decimal128(10, 2)),
        ("NUMERIC", 38, 38, pa.decimal128(38, 38)),
        ("REAL4", 0, 0, pa.float32()),
        ("REAL8", 0, 0, pa.float64()),
        ("BOOLEAN", 0, 0, pa.bool_()),
        ("DATE", 0, 0, pa.date32()),
        ("TIME", 0, 0, pa.time64("us")),
        ("DATETIME", 0, 7, pa.timestamp("us")),
        ("BYTES", 0, 0, pa.binary()),
        ("BLOB", 0, 0, pa.binary()),
        ("WSTRING", 0, 0, pa.string()),
        ("NCLOB", 0, 0, pa.string()),
        ("wstring", 0, 0, pa.string()),
    ],
)
def test_a_type_is_stored_without_loss(kind: str, precision: int, scale: int, stored: pa.DataType) -> None:
    word, doubt = of_dfm(kind, precision, scale)
    assert arrow_type(word) == stored
    assert parse_type(word) == word
    assert not doubt


@pytest.mark.parametrize(
    ("kind", "precision", "scale"),
    [
        ("NUMERIC", 0, 0),
        ("NUMERIC", None, None),
        ("NUMERIC", 39, 0),
        ("NUMERIC", 10, 12),
        ("NUMERIC", 10, -2),
        ("NUMERIC", "10", "2"),
        ("NUMERIC", True, 0),
        ("GEOMETRY", 0, 0),
        (None, 0, 0),
        (7, 0, 0),
        ([], {}, []),
    ],
)
def test_what_is_unknown_stays_text_and_says_so(kind: object, precision: object, scale: object) -> None:
    word, doubt = of_dfm(kind, precision, scale)
    assert word == "string"
    assert "text" in doubt
