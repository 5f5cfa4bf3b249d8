"""Every public name of the package says what it is, in words of its own, and names nothing that is not there."""

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "ingestion_dagster"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "versions" not in path.parts)

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_FILLER = frozenset(
    {"a", "an", "and", "as", "by", "for", "from", "in", "is", "it", "its", "of", "on", "or", "that", "the", "this", "to", "with"}
)


def public(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """A module, and what it offers: classes, functions, and the methods of public classes; not what Python calls by itself."""
    yield "", tree
    for name, node in _within(tree):
        yield name, node
        if isinstance(node, ast.ClassDef):
            for inner, method in _within(node):
                yield f"{name}.{inner}", method


def _within(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Definition]]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("_"):
            yield each.name, each


@cache
def trees() -> dict[Path, ast.Module]:
    """The package, read once, and by who runs these tests alone."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


@cache
def documented() -> dict[str, Definition]:
    """All that is public, as `file:name`."""
    return {f"{path.relative_to(PACKAGE)}:{name}": node for path, tree in trees().items() for name, node in public(tree)}


@cache
def classes() -> dict[str, ast.ClassDef]:
    """The package's classes by name."""
    return {node.name: node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def words(text: str) -> set[str]:
    """The words of a name, or of a sentence, in small letters, without those that say nothing."""
    found = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", text)
    return {word.lower().rstrip("s") for word in found} - _FILLER


def test_the_package_is_looked_at() -> None:
    assert len(MODULES) > 300
    assert len(documented()) > 1500


def test_no_public_name_goes_without_a_docstring() -> None:
    assert [name for name, node in documented().items() if not ast.get_docstring(node)] == []


def test_no_docstring_says_no_more_than_the_name() -> None:
    empty = [
        name
        for name, node in documented().items()
        if (text := ast.get_docstring(node)) and not isinstance(node, ast.Module) and not words(text) - words(name.rpartition(":")[2])
    ]
    assert empty == []


def test_the_first_sentence_is_one() -> None:
    """A line that breaks off in the middle is what a rename has left."""
    broken = [
        name
        for name, node in documented().items()
        if (text := ast.get_docstring(node)) and not re.match(r"[^a-z].*?[.!?:`)](\s|$)", text, re.DOTALL)
    ]
    assert broken == []


def is_exception(name: str) -> bool:
    """Whether a class of this name can be raised: one of Python's, of a library's module, or of the package."""
    found = getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, BaseException):
        return True
    node = classes().get(name)
    if node is None:
        return False
    return any(is_exception(ast.unparse(base).rpartition(".")[2]) or "." in ast.unparse(base) for base in node.bases)


def raised(text: str) -> set[str]:
    """What a docstring says is raised, as far as it names classes."""
    sentences = re.findall(r"[Rr]aises? ([^.]*)", re.sub(r"`(\w+)\.(\w+)`", r"`\1:\2`", " ".join(text.split())))
    return {name for sentence in sentences for name in re.findall(r"`([A-Z]\w+)`", sentence)}


def test_what_a_docstring_says_is_raised_is_there_to_be_raised() -> None:
    wrong = {
        name: unknown
        for name, node in documented().items()
        if (unknown := {each for each in raised(ast.get_docstring(node) or "") if not is_exception(each)})
    }
    assert wrong == {}


def raises(node: Definition) -> set[str]:
    """The exceptions of the package that a function raises by itself."""
    found = {each.exc for each in ast.walk(node) if isinstance(each, ast.Raise) and each.exc is not None}
    names = {(exc.func if isinstance(exc, ast.Call) else exc) for exc in found}
    return {name.id for name in names if isinstance(name, ast.Name) and name.id in classes() and is_exception(name.id)}


def test_what_the_engine_raises_is_told() -> None:
    """`See Protocol`, `As other` and `Raises as other` tell it, too."""
    untold = {
        name: missing
        for name, node in documented().items()
        if name.startswith("engine/")
        and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not re.search(r"\bSee [A-Z]|\b[Aa]s `", text := ast.get_docstring(node) or "")
        and (missing := {each for each in raises(node) if each not in text})
    }
    assert untold == {}


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The names of a function's parameters."""
    arguments = node.args
    return {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} | {
        each.arg for each in (arguments.vararg, arguments.kwarg) if each
    }


@pytest.mark.parametrize("path", sorted((PACKAGE / "engine").glob("*.py")), ids=lambda path: path.stem)
def test_a_parameter_that_the_engine_explains_is_one(path: Path) -> None:
    """`name`: … at the start of a sentence explains a parameter, or a field of what is returned."""
    known = {each.id for each in ast.walk(trees()[path]) if isinstance(each, ast.Name)} | {
        each.attr for each in ast.walk(trees()[path]) if isinstance(each, ast.Attribute)
    }
    wrong = []
    for name, node in public(trees()[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            explained = set(re.findall(r"(?:^|[.;] )`(\w+)`:", " ".join((ast.get_docstring(node) or "").split())))
            wrong += [f"{name}: {each}" for each in explained - parameters(node) - known]
    assert wrong == []
