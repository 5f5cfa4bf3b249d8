"""The reference lists of metric files: versioned JSON in this package, checked when first used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(min_length=1, max_length=50)]
GeographyCode = Annotated[str, StringConstraints(min_length=3, max_length=9)]


class _List(BaseModel):
    """What every reference list has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(min_length=1)
    description: str = Field(min_length=1)


L = TypeVar("L", bound=_List)


class ThemesTopics(_List):
    """Child themes of each parent theme; topics of each child theme, whatever its parent."""

    child_themes: dict[Name, frozenset[Name]]
    topics: dict[Name, Annotated[frozenset[Name], Field(min_length=1)]]

    @model_validator(mode="after")
    def _every_child_theme_has_topics(self) -> Self:
        children = frozenset().union(*self.child_themes.values())
        if children != self.topics.keys():
            raise ValueError(f"child themes and the keys of topics differ: {sorted(children ^ self.topics.keys())}")
        return self


class GeographyType(BaseModel):
    """The rule for codes of one geography type: a pattern with its wording, or the codes of the only names there are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code_pattern: re.Pattern[str] | None = None
    code_rule: str | None = None
    codes_by_name: dict[str, GeographyCode] | None = None

    @model_validator(mode="after")
    def _one_kind_of_rule(self) -> Self:
        by_pattern = self.code_pattern is not None and self.code_rule is not None
        if by_pattern is (self.codes_by_name is not None) or (self.code_pattern is None) is not (self.code_rule is None):
            raise ValueError("either code_pattern and code_rule, or codes_by_name")
        return self


class DeprecatedGeography(BaseModel):
    """A geography no longer accepted; without a code, whatever its code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    type: Name
    code: GeographyCode | None = None
    replacement: str


class CodeLength(BaseModel):
    """Fewest and most characters of any geography code; the column holds 9."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(ge=1)
    max: int = Field(le=9)


class GeographyRules(_List):
    """Geography types and their rules."""

    code_length: CodeLength
    types: dict[Name, GeographyType]
    deprecated: tuple[DeprecatedGeography, ...]

    @model_validator(mode="after")
    def _deprecated_types_exist(self) -> Self:
        if unknown := {geography.type for geography in self.deprecated} - self.types.keys():
            raise ValueError(f"deprecated geographies of unknown types: {sorted(unknown)}")
        return self


class MetricGroups(_List):
    """Metric groups with what their files hold; which of them is the one whose files have periods instead of a time series."""

    headline: Name
    groups: dict[Name, Annotated[str, StringConstraints(min_length=1)]]

    @model_validator(mode="after")
    def _headline_is_one_of_them(self) -> Self:
        if self.headline not in self.groups:
            raise ValueError(f"{self.headline} is none of the groups")
        return self


class Frequencies(_List):
    """The letter stored for each metric frequency, in lower case."""

    letters: dict[str, Annotated[str, StringConstraints(pattern="^[A-Z]$")]]


class Sexes(_List):
    """What is stored for each accepted sex, in lower case."""

    stored: dict[str, Annotated[str, StringConstraints(min_length=1, max_length=3)]]


@dataclass(frozen=True, slots=True)
class Reference:
    """All reference lists of metric files."""

    themes_topics: ThemesTopics
    geographies: GeographyRules
    groups: MetricGroups
    metric_groups: frozenset[str]
    frequencies: Mapping[str, str]
    sexes: Mapping[str, str]

    @property
    def versions(self) -> dict[str, str]:
        """Version of each list that is expected to grow, for messages and metadata."""
        lists = {"themes_topics": self.themes_topics, "geography_rules": self.geographies, "metric_groups": self.groups}
        return {name: entries.version for name, entries in lists.items()}


def _read(kind: type[L], name: str) -> L:
    return kind.model_validate_json(files(__package__).joinpath("reference", f"{name}.json").read_bytes())


@lru_cache(maxsize=1)
def reference() -> Reference:
    """The lists shipped with this version of the package."""
    groups = _read(MetricGroups, "metric_groups")
    return Reference(
        themes_topics=_read(ThemesTopics, "themes_topics"),
        geographies=_read(GeographyRules, "geography_rules"),
        groups=groups,
        metric_groups=frozenset(groups.groups),
        frequencies=_read(Frequencies, "frequencies").letters,
        sexes=_read(Sexes, "sexes").stored,
    )
