"""What MkDocs asks of this project while it builds the site: pages that are made, links that lead out of docs/, diagrams."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.docs_site import benchmarks_page, cli_reference, configuration, mermaid, outside

ROOT = Path(__file__).resolve().parents[2]
_made: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Bring the script along that draws diagrams, if a page has one."""
    if any("```mermaid" in path.read_text(encoding="utf-8") for path in Path(config.docs_dir).glob("*.md")):
        config.extra_javascript.append(mermaid.SITE_PATH)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, the plots, and the files outside docs/ that pages lead to."""
    _made.update(
        {
            "configuration.md": configuration.render(),
            "cli.md": cli_reference.render(),
            **{page: (ROOT / name).read_text(encoding="utf-8") for name, page in outside.PAGES.items()},
        }
    )
    for name, text in _made.items():
        files.append(File.generated(config, name, content=text))
    for name, drawing in benchmarks_page.plots().items():
        files.append(File.generated(config, name, content=drawing))
    sources = [*_made.values(), *(path.read_text(encoding="utf-8") for path in Path(config.docs_dir).glob("*.md"))]
    for linked in sorted({path for text in sources for path in outside.files(text, ROOT)}):
        files.append(File.generated(config, f"{outside.FOLDER}/{linked}", abs_src_path=str(ROOT / linked)))
    if mermaid.SITE_PATH in config.extra_javascript:
        files.append(File.generated(config, mermaid.SITE_PATH, abs_src_path=str(mermaid.script())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page with its links led to where things are in the site, and the benchmarks' figures in their page."""
    del config, files
    if page.file.src_uri == "benchmarks.md":
        markdown = markdown.replace(benchmarks_page.MARKER, benchmarks_page.render())
    return outside.relinked(markdown, at_root=page.file.src_uri in outside.PAGES.values())


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that makes a reader's browser ask anybody else for anything. Raises `RuntimeError`."""
    for path in Path(config.site_dir).rglob("*.html"):
        asked = re.findall(r'<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"', path.read_text(encoding="utf-8"))
        if asked:
            raise RuntimeError(f"{path.name} would ask {', '.join(sorted(set(asked)))}")
