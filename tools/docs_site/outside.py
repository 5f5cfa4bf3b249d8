"""Links that lead out of docs/: to a page made of the file, or to a copy of it in the site."""

import re
from pathlib import Path

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root that are pages of the site, and under which names."""
FOLDER = "files"
"""Where other files stand in the site."""

_ELSEWHERE = {".env.example": "configuration.md"}
_LINK = re.compile(r"(\]\()((?:\.\./)?)([^)\s#:]+)(#[^)\s]*)?\)")


def relinked(markdown: str, *, at_root: bool) -> str:
    """The page with links to files of the repository led to where they are in the site; `at_root`: it stands beside docs/, not in it."""

    def led(match: re.Match[str]) -> str:
        start, up, path, anchor = match.groups(default="")
        if not (up or at_root):
            return match.group()
        target = PAGES.get(path) or _ELSEWHERE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"{FOLDER}/{path}")
        return f"{start}{target}{anchor})"

    return _LINK.sub(led, markdown)


def files(markdown: str, root: Path) -> set[str]:
    """Files of the repository, relative to its root, that a page leads to and that are no pages of the site."""
    found = {path for _, up, path, _ in _LINK.findall(markdown) if up or not path.endswith(".md")}
    return {path for path in found if path not in PAGES | _ELSEWHERE and not path.startswith("docs/") and (root / path).is_file()}
