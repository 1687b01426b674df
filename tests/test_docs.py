"""Everything that can be named is in the manual, and the documents name nothing that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields as dataclass_fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from msgspec import structs
from pydantic import BaseModel

from api.app import create_app
from api.auth import SCOPES
from config.load import Hall, load
from config.settings import SINKS, DeviceSettings, RuleVersion, Settings
from daemon.__main__ import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
EVERYTHING = [*DOCUMENTS, DOCS / "asyncapi.yaml"]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def ticked(name: str) -> set[str]:
    """What stands in backquotes, whole and word by word."""
    found: set[str] = set()
    for quoted in re.findall(r"`([^`\n]+)`", text(name)):
        found |= {quoted, *re.findall(r"[\w.-]+", quoted)}
    return found


def modules_with(package: str, name: str) -> dict[str, Any]:
    found = {}
    for source in sorted((ROOT / package).glob("*.py")):
        module = import_module(f"{package}.{source.stem}")
        if hasattr(module, name):
            found[source.stem] = module
    return found


RULES = modules_with("rules", "RULE")
DRIVERS = modules_with("drivers", "DRIVER")


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model and those within it."""
    yield model
    for field in model.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            hint = waiting.pop()
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                yield from models(hint)
            waiting += get_args(hint)


def keys(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


COMMANDS = dict(commands(typer.main.get_command(cli)))


# -- what there is, is in the manual


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_described_with_its_codes_and_options(name: str) -> None:
    module, told = RULES[name], ticked("docs/rules.md")
    options = {field.name for field in structs.fields(module.RULE)}

    assert {name} | options <= told
    assert all(code in text("docs/rules.md") for code in module.CODES)


@pytest.mark.parametrize("name", RULES)
def test_the_default_of_a_rule_is_the_one_in_the_manual(name: str) -> None:
    """The rows of options name them and their defaults in the same order."""
    documented: dict[str, str] = {}
    rule = ""
    for row in re.findall(r"^\|(.+)\|$", text("docs/rules.md"), re.MULTILINE):
        cells = [cell.strip() for cell in row.split("|")]
        rule = cells[0].strip("`") if cells[0].startswith("`") else rule
        names = re.findall(r"`(\w+)`", cells[1]) if len(cells) == 4 else []
        if rule == name and names:
            documented |= dict(zip(names, cells[2].replace("`", "").split(", "), strict=True))
    expected = {
        field.name: str(field.default).lower() for field in structs.fields(RULES[name].RULE)
    }

    assert {option: told.strip('"') for option, told in documented.items()} == expected


@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_is_described_with_its_options(name: str) -> None:
    fields = dataclass_fields(DRIVERS[name].DRIVER.options)
    options = {field.name for field in fields if field.init}

    assert name in ticked("docs/devices.md")
    assert {name} | options <= ticked("docs/settings.md")


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_is_described_with_its_options(name: str) -> None:
    assert {name} | keys(SINKS[name]) <= ticked("docs/settings.md")
    assert (DOCS / f"{name}.md").exists()


def test_every_setting_is_described() -> None:
    told = ticked("docs/settings.md")
    wanted = {key for model in models(Settings) for key in keys(model)}
    wanted |= keys(DeviceSettings) | keys(RuleVersion)

    assert {key for key in wanted if key not in told} == set()


def test_every_setting_stands_in_the_example() -> None:
    example = text("config/hallwatch.example.toml")
    wanted = {key for model in models(Settings) for key in keys(model)}

    assert {key for key in wanted if not re.search(rf"\b{key}\b", example)} == set()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_is_in_the_manual_with_its_options(words: tuple[str, ...]) -> None:
    told = ticked("README.md") | ticked("docs/manual.md") | ticked("docs/devices.md")

    assert set(words) <= told
    assert f"hallwatch {words[0]}" in text("README.md")


def test_every_path_of_the_api_is_described_with_its_scope() -> None:
    described = dict(
        re.findall(r"\| `([A-Z]+ /[^`]+)`[^|]*\| `?([\w:]+)`? *\|", text("docs/api.md"))
    )
    described |= {"GET /readyz": "none"}  # in one row with /healthz

    class Nowhere:
        """The daemon as far as the document needs it."""

        zone = None

        def connect(self) -> None:
            return None

    document = create_app(Nowhere()).openapi()  # type: ignore[arg-type]
    expected = {
        f"{method.upper()} {path}": (operation.get("security") or [{"": ["none"]}])[0]
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }

    assert described == {path: next(iter(scope.values()))[0] for path, scope in expected.items()}


def test_every_scope_is_described() -> None:
    assert set(SCOPES) <= ticked("docs/api.md")


def test_every_metric_is_described() -> None:
    named = {
        node.args[0].value
        for source in (ROOT / "api" / "app.py", *(ROOT / "daemon").glob("*.py"))
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Metric"
        and isinstance(node.args[0], ast.Constant)
    }

    assert len(named) >= 7
    assert {f"hallwatch_{name!s}" for name in named} <= ticked("docs/operations.md")


def test_every_topic_of_the_async_document_is_in_the_manual() -> None:
    topics = set(re.findall(r"address: (\S+)", text("docs/asyncapi.yaml")))
    described = {word for word in ticked("docs/mqtt.md") if word.startswith("hall/{hall}/")}
    described = {topic for topic in described if "/peer/" not in topic} - {"hall/{hall}/"}

    assert topics == described


def test_every_module_is_on_the_map() -> None:
    told = text("docs/architecture.md")
    ordinary = {
        path.relative_to(ROOT).as_posix()
        for package in ("api", "config", "daemon", "drivers", "rules")
        for path in (ROOT / package).glob("*.py")
        if path.stem != "__init__"
    }
    ordinary -= {f"rules/{name}.py" for name in RULES} | {f"drivers/{name}.py" for name in DRIVERS}
    ordinary -= {"api/pages.py"}  # a part of the lists

    assert {path for path in ordinary if path not in told} == set()


# -- what is in the documents, is there


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text("utf-8"))

    assert [
        link for link in links if "://" not in link and not (document.parent / link).exists()
    ] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    named = re.findall(
        r"(?<![\w/.-])((?:api|config|daemon|drivers|rules|tests|docs|systemd)/[\w./-]*\w)",
        document.read_text("utf-8"),
    )

    assert [path for path in named if not (ROOT / path).exists() and "NNN" not in path] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(document: Path) -> None:
    """With its options."""
    told = document.read_text("utf-8")
    code = re.findall(r"`(hallwatch [^`\n]+)`", told)
    for block in re.findall(r"```sh\n(.*?)```", told, re.DOTALL):
        code += re.findall(r"(?:^|bin/|-- )(hallwatch [a-z-][^#\n]*)", block, re.MULTILINE)
    for line in code:
        name = line.split()[1]
        if name.startswith("--"):
            assert name == "--help"
            continue
        found = [command for words, command in COMMANDS.items() if words[0] == name]
        known = {option for command in found for one in command.params for option in one.opts}
        used = set(re.findall(r"(?<=[ \[])--?[a-z][a-z-]*", line))

        assert found, f"there is no command {name}: {line}"
        assert used <= known, line


def test_the_commands_of_the_readme_are_all_there_are() -> None:
    told = re.findall(r"^\| `hallwatch (\w+)", text("README.md"), re.MULTILINE)

    assert set(told) == {words[0] for words in COMMANDS}


def test_the_targets_of_make_that_are_named_exist() -> None:
    targets = set(re.findall(r"^(\w+):", text("Makefile"), re.MULTILINE))
    named = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"(?:^|`)make (\w+)", document.read_text("utf-8"), re.MULTILINE)
    }

    assert {"demo", "test", "check"} <= named <= targets


@pytest.mark.parametrize("document", EVERYTHING, ids=lambda path: path.name)
def test_no_document_leaks_how_it_was_made(document: Path) -> None:
    told = document.read_text("utf-8")

    assert re.findall(r"(?i)\bshared/|/work/|\bprompt\b|\bLLM\b|\bTODO\b|\bFIXME\b", told) == []


def test_the_settings_in_the_chinese_readme_are_good(tmp_path: Path) -> None:
    """Put together they are one settings file."""
    parts = re.findall(r"```toml\n(.*?)```", text("README.zh-CN.md"), re.DOTALL)
    told = "\n".join(parts).replace('"抄来的序列号"', '"DEMO20260001"')
    told = told.replace("/var/lib/hallwatch", str(tmp_path))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "gate-1").write_text("123456\n")
    (tmp_path / "hallwatch.toml").write_text(told, "utf-8")
    hall: Hall = load(tmp_path / "hallwatch.toml")

    assert [device.id for device in hall.devices] == ["gate-1", "gate-2"]
    assert hall.warnings == ()
