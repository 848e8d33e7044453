"""Laws: whatever is fed in, nothing is raised, and every config that comes out is a valid one."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fairlead.config import schema
from fairlead.config.json_schema import json_schema
from fairlead.config.load import parse, read_file, to_plain
from fairlead.config.problems import ERROR
from fairlead.config.scalars import KINDS
from fairlead.config.schema import Config, options_of


def tables(table: type[Any] = Config) -> list[type[Any]]:
    """Every table of the schema."""
    inner = [option.table for option, _ in options_of(table).values() if option.table is not None]
    return [table, *(each for item in inner for each in tables(item))]


NAMES = sorted({name for table in tables() for name in options_of(table)})
# Values that are right somewhere, so that the walk gets deep and some configs come out whole.
USEFUL = [
    "127.0.0.1:1", "[::1]:0", "http://a:1", "b:2", "https://c/x", "5s", "1m", "500ms", "20%", "1MiB", "auto",
    "random", "session", "prefix_hash", "connect", "/x", "-", "text", "x", 0, 1, 2, 100, 502, 1.5, True, None,
    "unix:/run/x", "X-A: b", "x-a", "10.0.0.0/8", "::1", "unix", "template", "$status", "b:2", "required", 1.2,
]  # fmt: skip
leaves = (
    st.sampled_from(USEFUL)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=5)
    | st.dates()
)
keys = st.sampled_from(NAMES) | st.text(max_size=8) | st.integers() | st.none() | st.tuples(st.booleans())
things = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=25
)


words = st.text("abcxyz", min_size=1, max_size=9)
ports = st.integers(1, 65535)
GOOD: dict[str, st.SearchStrategy[Any]] = {  # for kinds without a range and without choices
    "bool": st.booleans(),
    "text": words,
    "token": words,
    "file": words,
    "secret_url": st.builds("https://{}/{}?key={}".format, words, words, words),
    "header": st.builds("{}:{}".format, words, words | st.just("  a b:c ")),
    "header_name": words.map(str.upper),
    "network": st.sampled_from(["10.0.0.1", "10.0.0.0/8", "172.16.0.0/255.240.0.0", "2001:DB8::/32", "::/0", "unix"]),
    "address": st.builds("{}:{}".format, st.sampled_from(["127.0.0.1", "[::1]", "host"]), ports)
    | words.map("unix:/run/{}".format),
    "url": st.builds(
        "{}:{}{}".format, st.sampled_from(["http://a", "b", "HTTPS://[::1]"]), ports, words.map("/".__add__)
    )
    | words.map("unix:/run/{}?#@".format),
    "link": st.builds("http://{}:{}/metrics".format, words, ports),
    "http_path": words.map("/".__add__),
}


def _whole_config(obj: dict[str, Any]) -> dict[str, Any]:
    backends = [{**each, "name": f"n{index}"} for index, each in enumerate(obj["backends"])]
    routes = [{**each, "backends": f"n{index % len(backends)}"} for index, each in enumerate(obj.get("routes", []))]
    return {**obj, "backends": backends, "routes": list({each["path"]: each for each in routes}.values())} | {
        "trusted_proxies": list(dict.fromkeys(["unix", "::1", *obj.get("trusted_proxies", [])])), "admin": "localhost:0"
    }  # fmt: skip


def _one_of_each(obj: dict[str, Any], key: str) -> dict[str, Any]:
    return {**obj, key: list({each.partition(":")[0]: each for each in obj.get(key, [])}.values())}


# What a table needs besides good values, so that its options fit each other.
NEEDS: dict[type[Any], Callable[[dict[str, Any]], dict[str, Any]]] = {
    Config: _whole_config,
    schema.Tls: lambda obj: {"client_ca": "ca.pem", **obj},
    schema.BackendTls: lambda obj: {**obj, "key": obj.get("cert"), "cert": obj.get("cert")},
    schema.Headers: lambda obj: _one_of_each(obj, "set"),
    schema.Backend: lambda obj: _one_of_each(obj, "headers"),
    schema.AccessLog: lambda obj: {**obj, "template": "$status"},
}


def likely(table: type[Any], flaws: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with their real options and good values; with flaws, some that are wrong or do not fit."""
    choices: dict[str, st.SearchStrategy[Any]] = {}
    needed: dict[str, st.SearchStrategy[Any]] = {}
    for name, (option, default) in options_of(table).items():
        if option.table is not None:
            value: st.SearchStrategy[Any] = likely(option.table, flaws)
        elif option.choices:
            value = st.sampled_from(option.choices)
        elif option.low is not None and option.high is not None:
            value = st.sampled_from([option.low, option.high]).map(KINDS[option.kind].write)
        else:
            value = GOOD[option.kind]
        if option.many:
            value = st.lists(value, min_size=1, max_size=3, unique_by=repr)
        if flaws and option.table is None:
            value = value | st.sampled_from(USEFUL)
        is_needed = default is dataclasses.MISSING or name == "backends"
        (needed if is_needed and not flaws else choices)[name] = value
    made = st.fixed_dictionaries(needed, optional=choices)
    return made if flaws else made.map(lambda obj: fitting(table, obj))


def fitting(table: type[Any], obj: dict[str, Any]) -> dict[str, Any]:
    """Without the options that are meant for another `name`, and with those that need each other."""
    if table in NEEDS:
        obj = NEEDS[table](obj)
    chosen = obj.get("name", options_of(table)["name"][1] if issubclass(table, schema.Policy) else None)
    only_for = {name: option.only_for for name, (option, _) in options_of(table).items()}
    return {name: value for name, value in obj.items() if only_for[name] in (None, chosen)}


def assert_valid(value: Any) -> None:
    """Every value has the type that its annotation says and lies in its range."""
    hints = typing.get_type_hints(type(value))
    for name, (option, _) in options_of(type(value)).items():
        found = getattr(value, name)
        if found is None:
            assert type(None) in typing.get_args(hints[name])
            continue
        for item in found if option.many else [found]:
            if option.table is not None:
                assert type(item) is option.table
                assert_valid(item)
            elif option.low is not None and option.high is not None and item not in option.choices:
                assert option.low <= item <= option.high or (item == 0 and option.zero)


def check_law(obj: object) -> None:
    config, problems = parse(obj, "law")
    errors = [problem for problem in problems if problem.severity == ERROR]
    assert (config is None) == bool(errors)
    for problem in problems:
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1000
    if config is not None:
        assert_valid(config)
        again, again_problems = parse(to_plain(config), "again")
        assert again == config
        assert len(again_problems) == len(problems)
        assert accepts(json_schema(), to_plain(config))


@given(things)
@settings(max_examples=150, deadline=None)
def test_arbitrary_data_never_raises(obj: object) -> None:
    check_law(obj)


@given(likely(Config, flaws=True) | likely(Config, flaws=False))
@settings(max_examples=200, deadline=None)
def test_plausible_data_gives_problems_or_a_valid_config_that_reads_as_itself(obj: object) -> None:
    check_law(obj)


def test_the_plausible_data_is_mostly_good() -> None:
    """Guards the laws above: they would hold as well if no config ever came out."""
    seen: list[bool] = []

    @given(likely(Config, flaws=False))
    @settings(max_examples=50, deadline=None, database=None)
    def look(obj: object) -> None:
        seen.append(parse(obj, "law")[0] is not None)

    look()
    assert sum(seen) > len(seen) / 2


@given(st.text(alphabet="ab:[]{}-&*!<>'\"#|, \n\t%@?0.\\/", max_size=60) | st.text(max_size=40))
@settings(max_examples=150, deadline=None)
def test_arbitrary_text_never_raises(tmp_path_factory: Any, text: str) -> None:
    folder: Path = tmp_path_factory.getbasetemp()
    file = folder / "law.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    config, problems = read_file(file)
    assert config is not None or problems


@given(likely(Config, flaws=False))
@settings(max_examples=50, deadline=None)
def test_a_file_says_the_same_as_its_data(tmp_path_factory: Any, obj: dict[str, Any]) -> None:
    obj.pop("access_log", None)  # these name files, which `parse` does not look at
    obj.pop("listen", None)
    obj.pop("recording", None)
    obj.pop("decisions", None)
    obj.pop("backend_tls", None)
    obj.pop("admin_token_file", None)
    for backend in obj["backends"]:
        backend.pop("tls", None)
    file: Path = tmp_path_factory.getbasetemp() / "same.yaml"
    file.write_text(yaml.safe_dump(obj or {"drain": 0}), encoding="utf-8")
    config, problems = read_file(file)
    expected, expected_problems = parse(obj or {"drain": 0}, str(file))
    assert config == expected
    assert sorted((p.path, p.message) for p in problems) == sorted((p.path, p.message) for p in expected_problems)


def test_the_schema_is_whole_and_agrees_with_itself() -> None:
    for table in tables():
        hints = typing.get_type_hints(table)
        assert table.__doc__ and table.__doc__.count("\n") == 0
        for name, (option, default) in options_of(table).items():
            assert option.help and option.help.count("\n") == 0
            assert (option.kind == "table") == (option.table is not None)
            assert option.kind == "table" or option.kind in KINDS
            assert option.null == (type(None) in typing.get_args(hints[name])), (table, name)
            if default not in (None, dataclasses.MISSING) and option.kind != "table" and name != "name":
                written = KINDS[option.kind].write
                values = default if option.many else [default]
                assert all(KINDS[option.kind].read(written(value), option) == value for value in values)
    assert_valid(Config())


def accepts(rules: dict[str, Any], value: Any, root: dict[str, Any] | None = None) -> bool:
    """The part of JSON Schema that we write, so that the schema can be held against what the parser takes."""
    root = root or rules
    if "$ref" in rules:
        target = root["$defs"][rules["$ref"].removeprefix("#/$defs/")]
        if not accepts(target, value, root):
            return False
    if "anyOf" in rules and not any(accepts(each, value, root) for each in rules["anyOf"]):
        return False
    if "enum" in rules and value not in rules["enum"]:
        return False
    if "const" in rules and value != rules["const"]:
        return False
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match rules.get("type"):
        case None:
            pass
        case "integer":
            if not (number and value == int(value)):
                return False
        case "number":
            if not number:
                return False
        case name:
            if not isinstance(value, types[name]):
                return False
    if isinstance(value, str) and "pattern" in rules and not re.search(rules["pattern"], value):
        return False
    if number and not rules.get("minimum", value) <= value <= rules.get("maximum", value):
        return False
    if isinstance(value, list) and "items" in rules:
        if len(value) < rules.get("minItems", 0):
            return False
        return all(accepts(rules["items"], item, root) for item in value)
    if isinstance(value, dict) and "properties" in rules:
        known = rules["properties"]
        missing = set(rules.get("required", ())) - set(value)
        return not missing and all(name in known and accepts(known[name], value[name], root) for name in value)
    return True


def test_the_json_schema_takes_good_files_and_refuses_bad_ones() -> None:
    rules = json_schema()
    good: list[dict[str, Any]] = [
        {"backends": "a:1"},
        {"backends": ["a:1", {"url": "http://b", "weight": 2}], "access_log": False, "policy": "random"},
        {"backends": ["a:1"], "listen": {"address": "[::1]:1", "tls": None}, "timeouts": None, "drain": 0},
        {"backends": ["a:1"], "retries": {"on": [502, "connect"], "budget": 0.2}, "limits": {"body": "1.5MiB"}},
        {"backends": "unix:/run/a", "listen": ["unix:/run/x", {"address": "unix:/run/y", "http2": False}]},
        {"backends": {"url": "https://a", "headers": "X-A: b", "tls": {"verify": False}, "backup": False}},
        {"backends": "a:1", "routes": {"path": "/", "backends": "a:1"}, "trusted_proxies": ["10.0.0.0/8", "unix"]},
        {"backends": "a:1", "listen": {"address": "a:1", "tls": {"cert": "c", "key": "k", "min_version": 1.3}}},
        {"backends": "a:1", "headers": {"set": ["X-A: b"], "remove": "x-b"}},
    ]
    bad: list[dict[str, Any]] = [
        {},
        {"backends": []},
        {"backends": ["a:1"], "polcy": "random"},
        {"backends": ["a:1"], "policy": "fastest"},
        {"backends": ["a:1"], "timeouts": {"connect": 5}},
        {"backends": ["a:1"], "retries": {"attempts": 6}},
        {"backends": [{"weight": 1}]},
        {"backends": "a:1", "listen": "unix:x"},
        {"backends": "a:1", "listen": {"address": "a:1", "tls": {"cert": "c", "key": "k", "min_version": 1.1}}},
        {"backends": "a:1", "headers": {"set": "X-A"}},
        {"backends": "a:1", "headers": {"remove": "X A"}},
        {"backends": "a:1", "trusted_proxies": "somewhere"},
        {"backends": "a:1", "routes": {"backends": "a:1"}},
    ]
    for obj in good:
        assert parse(obj, "good")[0] is not None
        assert accepts(rules, obj), obj
    for obj in bad:
        assert parse(obj, "bad")[0] is None
        assert not accepts(rules, obj), obj
