"""The example of a proxy in front of Dagster's web interfaces, read as nginx reads it: nothing is reached without a login and TLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import crossplane
import pytest
import yaml

PROXY = Path(__file__).parents[2] / "deploy" / "proxy"
Directive = dict[str, Any]


@pytest.fixture(scope="module")
def directives() -> list[Directive]:
    """All of nginx.conf, with what it includes in its place."""

    def read(name: str) -> list[Directive]:
        parsed = crossplane.parse(str(PROXY / name), single=True, check_ctx=name == "nginx.conf")
        assert (parsed["status"], parsed["errors"]) == ("ok", [])
        return list(parsed["config"][0]["parsed"])

    def whole(block: list[Directive]) -> list[Directive]:
        made: list[Directive] = []
        for each in block:
            if each["directive"] == "include":
                made += whole(read(Path(each["args"][0]).name))
            else:
                made.append(each | ({"block": whole(each["block"])} if "block" in each else {}))
        return made

    return whole(read("nginx.conf"))


def every(block: list[Directive], name: str) -> Iterator[Directive]:
    for each in block:
        if each["directive"] == name:
            yield each
        yield from every(each.get("block", []), name)


def one(block: list[Directive], name: str) -> list[str]:
    [found] = [each["args"] for each in block if each["directive"] == name]
    return list(found)


def servers(directives: list[Directive]) -> dict[str, list[Directive]]:
    """The servers that pass something on, by name."""
    blocks = [each["block"] for each in every(directives, "server")]
    return {one(block, "server_name")[0]: block for block in blocks if any(every(block, "proxy_pass"))}


def headers(block: list[Directive], directive: str) -> dict[str, str]:
    return {each["args"][0]: each["args"][1] for each in block if each["directive"] == directive}


def test_each_interface_has_a_name_and_operators_alone_reach_what_can_change_something(directives: list[Directive]) -> None:
    found = servers(directives)
    assert set(found) == {"look.example.org", "operate.example.org"}
    led = {
        name: [each["args"][1] for each in every(block, "set") if each["args"][0] in ("$dagster", "$auth_path")]
        for name, block in found.items()
    }
    assert led == {
        "look.example.org": ["/oauth2/auth", "viewer:3000"],
        "operate.example.org": ["/oauth2/auth?allowed_groups=operators", "webserver:3000"],
    }


def test_nothing_is_passed_on_without_a_login_but_the_login(directives: list[Directive]) -> None:
    for name, block in servers(directives).items():
        assert one(block, "listen") == ["8443", "ssl"], name
        passing = {" ".join(each["args"]): each["block"] for each in every(block, "location") if any(every(each["block"], "proxy_pass"))}
        assert set(passing) == {"/", "/oauth2/", "= /internal/auth"}
        assert one(passing["/"], "auth_request") == ["/internal/auth"]
        assert "internal" in {each["directive"] for each in passing["= /internal/auth"]}
        assert one(passing["/oauth2/"], "proxy_pass") == ["http://$login"]
        assert one(passing["/oauth2/"], "set") == ["$login", "oauth2_proxy:4180"]
    plain = [each["block"] for each in every(directives, "server") if "ssl" not in one(each["block"], "listen")]
    assert [{each["directive"] for each in block} for block in plain] == [{"listen", "access_log", "return"}], (
        "plain HTTP leads to TLS and nowhere else"
    )


def test_subscriptions_pass_and_pages_from_elsewhere_do_not(directives: list[Directive]) -> None:
    for block in servers(directives).values():
        [to_dagster] = [each["block"] for each in every(block, "location") if each["args"] == ["/"]]
        sent = headers(to_dagster, "proxy_set_header")
        assert (sent["Upgrade"], sent["Connection"]) == ("$http_upgrade", "$connection_upgrade")
        assert one(directives_of(to_dagster, "if"), "return") == ["403"]
        assert {name for name, value in sent.items() if value == ""} >= {
            "Cookie",
            "Authorization",
            "X-Auth-Request-User",
            "X-Auth-Request-Groups",
        }
        told = headers(block, "add_header")
        assert {"Strict-Transport-Security", "X-Frame-Options", "X-Content-Type-Options"} <= told.keys()
    [origins] = [each["block"] for each in every(directives, "map") if each["args"][0] == "$http_origin"]
    allowed = {each["directive"] for each in origins if each["args"] == ["0"]}
    assert allowed == {"", *(f"https://{name}" for name in servers(directives))}


def directives_of(block: list[Directive], name: str) -> list[Directive]:
    [found] = [each["block"] for each in block if each["directive"] == name]
    return list(found)


def test_no_log_holds_what_an_identity_provider_answered(directives: list[Directive]) -> None:
    [form] = every(directives, "log_format")
    assert not {"$request ", "$request_uri", "$args", "$query_string", "$http_referer", "$http_cookie"} & set(
        "".join(form["args"]).replace('"', " ").split()
    )
    assert "$request_uri" not in "".join(form["args"])


def test_the_proxy_alone_is_published_and_names_what_there_is() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!reset", lambda loader, node: ("reset", loader.construct_sequence(cast("yaml.SequenceNode", node))))
    made = yaml.load((PROXY / "compose.yaml").read_text(), Loader)["services"]
    base = yaml.safe_load((PROXY.parent / "compose.yaml").read_text())["services"]
    assert {name for name, each in made.items() if name not in base} == {"proxy", "oauth2_proxy"}
    assert {name: each["ports"] for name, each in made.items() if "ports" in each} == {
        "proxy": ["443:8443", "80:8080"], "webserver": ("reset", []), "viewer": ("reset", []),
    }  # fmt: skip
    assert {name for name, each in base.items() if "ports" in each} == {"webserver", "viewer"}
    mounted = {volume.split(":")[0].removeprefix("./proxy/") for volume in made["proxy"]["volumes"]}
    assert {name for name in mounted if name.endswith(".conf")} == {path.name for path in PROXY.glob("*.conf")}
    for each in (made["proxy"], made["oauth2_proxy"]):
        assert (each["read_only"], each["cap_drop"]) == (True, ["ALL"])
    for name in ("look.example.org", "operate.example.org"):
        assert f"--whitelist-domain={name}" in made["oauth2_proxy"]["command"]
