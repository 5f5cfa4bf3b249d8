"""What is uploaded to Google Drive, in pieces that can be sent again."""

import io
import mimetypes
from pathlib import Path
from typing import Any

SHEET = "application/vnd.google-apps.spreadsheet"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

_PIECE = 8 << 20
_OTHER = "application/octet-stream"


def file_media(path: Path, kind: str) -> Any:
    """A file as the client uploads it."""
    from googleapiclient.http import MediaFileUpload

    return _resumable(MediaFileUpload(str(path), mimetype=kind, chunksize=_PIECE, resumable=True))


def bytes_media(data: bytes, name: str) -> Any:
    """Bytes as the client uploads them, of the kind that the name's ending stands for."""
    from googleapiclient.http import MediaIoBaseUpload

    kind = XLSX if name.lower().endswith(".xlsx") else mimetypes.guess_type(name)[0] or _OTHER
    return _resumable(MediaIoBaseUpload(io.BytesIO(data), mimetype=kind, chunksize=_PIECE, resumable=True))


def _resumable(media: Any) -> Any:
    # As a stream a piece would be sent once: where a token has expired or a connection was stale, nothing would be left of it.
    media.has_stream = lambda: False
    return media
