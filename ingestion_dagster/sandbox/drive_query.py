"""The language in which Google Drive is searched, as far as it is used: a query becomes a function of a file's metadata."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

Condition = Callable[[Mapping[str, Any]], bool]

_TOKEN = re.compile(r"\s*(?:'((?:[^'\\]|\\.)*)'|(!=|<=|>=|=|<|>)|([(){}])|(\w+))")
_TIMES = frozenset({"modifiedTime", "createdTime"})
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def condition(text: str) -> tuple[Condition, frozenset[str]]:
    """What a query asks for, and the folders that it names. Raises ValueError for one that is not understood."""
    parser = _Parser(text)
    found = parser.either()
    if parser.rest:
        raise ValueError(f"not understood: {parser.rest[0][1]}")
    return found, frozenset(parser.folders)


class _Parser:
    def __init__(self, text: str) -> None:
        self.rest: list[tuple[str, str]] = []
        self.folders: set[str] = set()
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                raise ValueError(f"not understood: {text[position:]}")
            literal, operator, bracket, word = found.groups()
            self.rest.append(("literal", re.sub(r"\\(.)", r"\1", literal)) if literal is not None else ("", operator or bracket or word))
            position = found.end()

    def either(self) -> Condition:
        """Conditions with `or` between them."""
        found = [self._all()]
        while self._is("or"):
            found.append(self._all())
        return lambda file: any(each(file) for each in found)

    def _all(self) -> Condition:
        found = [self._one()]
        while self._is("and"):
            found.append(self._one())
        return lambda file: all(each(file) for each in found)

    def _one(self) -> Condition:
        if self._is("not"):
            inner = self._one()
            return lambda file: not inner(file)
        if self._is("("):
            within = self.either()
            self._expect(")")
            return within
        kind, word = self._next()
        if kind == "literal":
            self._expect("in")
            self._expect("parents")
            self.folders.add(word)
            return lambda file: word in file["parents"]
        if word == "appProperties":
            return self._property()
        return self._comparison(word)

    def _property(self) -> Condition:
        for expected in ("has", "{", "key", "="):
            self._expect(expected)
        key = self._literal()
        for expected in ("and", "value", "="):
            self._expect(expected)
        value = self._literal()
        self._expect("}")
        return lambda file: file["appProperties"].get(key) == value

    def _comparison(self, field: str) -> Condition:
        operator = _OPERATORS.get(self._next()[1])
        if operator is None or field not in {"trashed", "mimeType", "name", *_TIMES}:
            raise ValueError(f"not understood: {field}")
        kind, text = self._next()
        if field == "trashed":
            return lambda file: operator(file["trashed"], text == "true")
        if kind != "literal":
            raise ValueError(f"not understood: {text}")
        if field in _TIMES:
            moment = datetime.fromisoformat(text)
            return lambda file: operator(datetime.fromisoformat(file[field]), moment)
        return lambda file: operator(file[field], text)

    def _next(self) -> tuple[str, str]:
        if not self.rest:
            raise ValueError("the query breaks off")
        return self.rest.pop(0)

    def _literal(self) -> str:
        kind, text = self._next()
        if kind != "literal":
            raise ValueError(f"not understood: {text}")
        return text

    def _is(self, word: str) -> bool:
        if self.rest and self.rest[0] == ("", word):
            self.rest.pop(0)
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._is(word):
            raise ValueError(f"expected {word}")
