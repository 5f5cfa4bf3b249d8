"""Telling the API that what it serves has changed, so that it drops its caches."""

import http.client
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import orjson

log = logging.getLogger(__name__)

ATTEMPTS = 3
SECONDS = 10.0


def drop_caches(url: str | None, model: str, suffix: str, sleep: Callable[[float], None] = time.sleep) -> str:
    """POST `{model, suffix}` as JSON to a URL; how that went, in a word: `told`, `off` without a URL, or `failed`.

    The promotion is done by then: what hinders this is logged, and fails nothing.
    """
    if url is None:
        return "off"
    body = orjson.dumps({"model": model, "suffix": suffix})
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(2.0**attempt)
        try:
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - of our settings
            with urllib.request.urlopen(request, timeout=SECONDS):  # noqa: S310
                return "told"
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            log.warning("the API was not told to drop its caches (%s), attempt %d of %d", type(error).__name__, attempt + 1, ATTEMPTS)
    return "failed"
