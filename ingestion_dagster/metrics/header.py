"""The top-level texts of a metric file and the rules between them.

Source of every rule, unless said otherwise: UKHSA data dashboard ingestion, validation rules.
"""

import re
from collections.abc import Iterable
from typing import Final

from ingestion_dagster.metrics.problems import Code, Findings
from ingestion_dagster.metrics.rules import reference

# Most characters of each text, from the columns of the target tables. The code's length is a rule of the geography list.
_TEXTS: Final[dict[str, int | None]] = {
    "parent_theme": 50,
    "child_theme": 50,
    "topic": 50,
    "metric_group": 50,
    "metric": 100,
    "geography_type": 50,
    "geography": 100,
    "geography_code": None,
    "age": 50,
    "sex": None,
    "stratum": 50,
}
_AGE = re.compile(r"all|(?P<low>[0-9]{2})-(?P<high>[0-9]{2})|[0-9]{2}\+")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def read_texts(payload: dict[str, object], headline: bool, findings: Findings) -> dict[str, str]:
    """The top-level texts by field; every problem in them and between them is added to the findings.

    Without a problem, every field is there. A headline file has no metric frequency.
    """
    texts: dict[str, str] = {}
    for field, limit in _TEXTS.items():
        _read_text(payload, field, limit, texts, findings)
    if not headline:
        _read_text(payload, "metric_frequency", None, texts, findings)
    for rule in (_theme, _metric, _geography_code, _geography_name, _age, _sex, _frequency):
        rule(texts, findings)
    return texts


def _read_text(payload: dict[str, object], field: str, limit: int | None, texts: dict[str, str], findings: Findings) -> None:
    value = payload.get(field)
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            findings.add(Code.BAD_CHARACTER, field, "remove NUL characters and halves of surrogate pairs")
        elif limit is not None and len(value) > limit:
            findings.add(Code.TEXT_TOO_LONG, field, f"at most {limit} characters")
        else:
            texts[field] = value
    elif field not in payload:
        findings.add(Code.MISSING_FIELD, field, f"add the field {field}")
    elif value is None:
        findings.add(Code.NULL_FIELD, field, f"{field} must not be null")
    else:
        findings.add(Code.WRONG_TYPE, field, f"{field} must be a string")


def _theme(texts: dict[str, str], findings: Findings) -> None:
    """Exact members of the lists. Topics depend on the child theme alone, so they are judged under a bad parent theme too.

    A bad topic is dropped from the texts: that the metric's name lacks it is no second fault.
    """
    lists = reference().themes_topics
    listed = f"reference list themes_topics, version {lists.version}"
    parent, child, topic = texts.get("parent_theme"), texts.get("child_theme"), texts.get("topic")
    if parent is not None and parent not in lists.child_themes:
        findings.add(Code.UNKNOWN_THEME, "parent_theme", f"not one of the parent themes {_quoted(lists.child_themes)} ({listed})")
        parent = None
    if child is None:
        return
    if child not in lists.topics:
        whose = "of any parent theme" if parent is None else f"of parent theme '{parent}'"
        findings.add(Code.UNKNOWN_CHILD_THEME, "child_theme", f"not one of the child themes {whose} ({listed})")
        return
    if parent is not None and child not in lists.child_themes[parent]:
        findings.add(Code.UNKNOWN_CHILD_THEME, "child_theme", f"not one of the child themes of parent theme '{parent}' ({listed})")
    if topic is not None and topic not in lists.topics[child]:
        del texts["topic"]
        findings.add(Code.UNKNOWN_TOPIC, "topic", f"not one of the topics of child theme '{child}' ({listed})")


def _metric(texts: dict[str, str], findings: Findings) -> None:
    """At least three parts between underscores, alphanumeric from the third on; topic and group appear somewhere in the name."""
    group, metric, topic = texts.get("metric_group"), texts.get("metric"), texts.get("topic")
    if group is not None and group not in reference().metric_groups:
        listed = f"reference list metric_groups, version {reference().groups.version}"
        findings.add(Code.UNKNOWN_METRIC_GROUP, "metric_group", f"not one of {_quoted(reference().metric_groups)} ({listed})")
        group = None
    if metric is None:
        return
    if not "".join(metric.split("_")[2:]).isalnum():
        findings.add(Code.BAD_METRIC_NAME, "metric", "name it <topic>_<metric group>_<detail>, the detail in letters and digits")
    if topic is not None and topic.lower() not in metric.lower():
        findings.add(Code.BAD_METRIC_NAME, "metric", "the name must contain the topic, in any case")
    if group is not None and group not in metric:
        findings.add(Code.BAD_METRIC_NAME, "metric", f"the name must contain the metric group '{group}', in this case")


def _geography_code(texts: dict[str, str], findings: Findings) -> None:
    """The code's length, and the rule its type sets for it."""
    rules = reference().geographies
    listed = f"reference list geography_rules, version {rules.version}"
    kind, code = texts.get("geography_type"), texts.get("geography_code")
    if kind is not None and kind not in rules.types:
        findings.add(Code.UNKNOWN_GEOGRAPHY_TYPE, "geography_type", f"not one of {_quoted(rules.types)} ({listed})")
    if code is None:
        return
    shortest, longest = rules.code_length.min, rules.code_length.max
    if not shortest <= len(code) <= longest:
        findings.add(Code.BAD_GEOGRAPHY_CODE, "geography_code", f"a code has {shortest} to {longest} characters ({listed})")
        return
    rule = rules.types.get(kind) if kind is not None else None
    if rule is None:
        return
    if rule.code_pattern is not None and not rule.code_pattern.fullmatch(code):
        findings.add(Code.BAD_GEOGRAPHY_CODE, "geography_code", f"the code of a geography of type '{kind}' {rule.code_rule} ({listed})")
    if rule.codes_by_name is not None and code not in rule.codes_by_name.values():
        allowed = _quoted(rule.codes_by_name.values())
        findings.add(Code.BAD_GEOGRAPHY_CODE, "geography_code", f"the code of a geography of type '{kind}' is one of {allowed} ({listed})")


def _geography_name(texts: dict[str, str], findings: Findings) -> None:
    """The name fits the code where the type has a closed list of names; no deprecated geography."""
    rules = reference().geographies
    listed = f"reference list geography_rules, version {rules.version}"
    kind, name, code = texts.get("geography_type"), texts.get("geography"), texts.get("geography_code")
    if kind not in rules.types or name is None:
        return
    names = rules.types[kind].codes_by_name
    if names is not None and name not in names:
        message = f"the name of a geography of type '{kind}' is one of {_quoted(names)} ({listed})"
        findings.add(Code.GEOGRAPHY_NAME_CODE_MISMATCH, "geography", message)
    elif names is not None and code in names.values() and names[name] != code:
        findings.add(Code.GEOGRAPHY_NAME_CODE_MISMATCH, "geography", f"the name and the code belong to two geographies ({listed})")
    for old in rules.deprecated:
        if old.name == name and old.type == kind and old.code in (None, code):
            findings.add(Code.DEPRECATED_GEOGRAPHY, "geography", f"this geography was replaced; use {old.replacement} ({listed})")


def _age(texts: dict[str, str], findings: Findings) -> None:
    if (age := texts.get("age")) is None:
        return
    match = _AGE.fullmatch(age)
    if match is None or (match["low"] is not None and match["low"] >= match["high"]):
        findings.add(Code.BAD_AGE, "age", "'all', or NN-NN with two digits each and the lower age first, or NN+")


def _sex(texts: dict[str, str], findings: Findings) -> None:
    """Stricter than the source, which files everything it does not know under 'all'."""
    sex = texts.get("sex")
    if sex is not None and sex.lower() not in reference().sexes:
        findings.add(Code.UNKNOWN_SEX, "sex", f"one of {_quoted(reference().sexes)}, in any case (reference list sexes)")


def _frequency(texts: dict[str, str], findings: Findings) -> None:
    frequency = texts.get("metric_frequency")
    if frequency is not None and frequency.lower() not in reference().frequencies:
        allowed = _quoted(reference().frequencies)
        findings.add(Code.UNKNOWN_FREQUENCY, "metric_frequency", f"one of {allowed}, in any case (reference list frequencies)")


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))
