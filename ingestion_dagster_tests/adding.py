"""`docs/adding-a-pipeline.md`, followed to the letter: its code blocks that name a file are written, or applied, where they say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "adding-a-pipeline.md"

_FENCE = re.compile(r'^```(?P<language>\w+) title="(?P<file>[^"]+)"\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block of the page, and the file that it is, or (a diff) is to become part of."""

    language: str
    file: str
    text: str

    @property
    def added(self) -> list[str]:
        """The lines that somebody has to write."""
        if self.language != "diff":
            return self.text.splitlines()
        return [line[1:] for line in self.text.splitlines() if line.startswith("+")]

    def apply(self, path: Path) -> None:
        """Write the file, or make the change: the lines that are told before and after it must stand there, once, like this."""
        if self.language != "diff":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text, encoding="utf-8")
            return
        lines = self.text.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if not line.startswith("+"))
        after = "".join(line[1:] for line in lines if not line.startswith("-"))
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{self.file} has {text.count(before)} times:\n{before}"
        path.write_text(text.replace(before, after), encoding="utf-8")


def section(heading: str) -> str:
    """What the page says below a heading, until the next one of its rank."""
    found = re.split(rf"^(#+) {re.escape(heading)}$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(found) == 3, f"{PAGE.name} has no heading, or more than one: {heading}"
    return re.split(rf"^#{{1,{len(found[1])}}} ", found[2], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(heading: str) -> Iterator[Block]:
    """The code blocks below a heading that name a file, in order."""
    for found in _FENCE.finditer(section(heading)):
        yield Block(**found.groupdict())


def followed(heading: str, root: Path) -> None:
    """Do what stands below a heading. `root` is a copy of the package; other files are copied next to it when they are to change."""
    done = list(blocks(heading))
    assert done, f"nothing is to be done below: {heading}"
    for block in done:
        inside = block.file.removeprefix("ingestion_dagster/")
        path = root / inside if inside != block.file else root.parent / block.file
        if not path.exists() and block.language == "diff":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((ROOT / block.file).read_bytes())
        block.apply(path)
