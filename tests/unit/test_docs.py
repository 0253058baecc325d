"""What the documents say, held against the tree: links, commands, settings, exit codes, the picture of the house."""

import importlib.util
import re
import tomllib
from pathlib import Path

import click
import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ROOMS = ("crypto", "overlay", "verify", "node")
FILES = [
    str(path.relative_to(ROOT))
    for top in (*ROOMS, "docs", "deploy", "tests", "benchmarks")
    for path in (ROOT / top).rglob("*.*")
    if "node_modules" not in path.parts
] + [path.name for path in ROOT.iterdir()]
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf-8")
SOURCES = "\n".join(
    path.read_text("utf-8") for path in sorted((ROOT / "node").rglob("*.py")) if path.name != "config.py"
)


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = load("make_config_reference")
SETTINGS = sorted(key for key, _ in reference.settings())


def code_of(page):
    """Fenced blocks and inline code, apart from the prose."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return blocks, re.findall(
        r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    )


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- links and paths --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    for words in code_of(page)[1]:
        for name in re.findall(r"[\w./-]+\.(?:py|md|sh)\b", words):
            assert any(f"/{there}".endswith(f"/{name}") for there in FILES), name


# --- commands ---------------------------------------------------------------------------------------


def test_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w%-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        blocks, words = code_of(page)
        for code in [*blocks, *words]:
            for target in re.findall(r"(?:^|&& )make ([a-z-]+)", code, re.MULTILINE):
                if target.startswith("bench-") and target not in targets:
                    assert (ROOT / f"benchmarks/{target[6:].replace('-', '_')}.py").exists(), target
                else:
                    assert target in targets, f"{page.name}: make {target}"


def commands():
    from node.cli.app import app

    return typer.main.get_command(app)


def check_command(line):
    """Whether `clove ...` names a command and options that exist. Values are not looked at."""
    words = line.split("#")[0].split("|")[0].split(";")[0].replace("…", "").split()
    command, context = commands(), click.Context(commands())
    words = words[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            return f"no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    missing = given - known - {"-h", "--help"}
    return f"no option {missing}" if missing else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page):
    blocks, words = code_of(page)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    shown = [part.strip() for line in [*lines, *words] for part in re.split(r"[|;]|&&", line)]
    for line in shown:
        if re.match(r"clove [a-z]", line):
            assert not check_command(line), line


def test_every_command_is_in_the_operators_table():
    table = OPERATIONS.partition("## Commands and exit codes")[2].partition("## Ports")[0]
    for name in commands().commands:
        assert f"`{name}`" in table


def test_exit_codes_are_the_ones_of_the_code():
    from node.errors import ExitCode

    table = OPERATIONS.partition("| code | meaning |")[2].partition("\n## ")[0]
    written = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert written == {int(code) for code in ExitCode} | {130}


# --- settings and metrics ---------------------------------------------------------------------------


def test_table_of_settings_is_the_one_that_the_code_gives():
    assert reference.replaced(OPERATIONS) == OPERATIONS, "run: python docs/make_config_reference.py"
    assert sorted(reference.PURPOSE) == SETTINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_named_exist(page):
    sections = {key.partition(".")[0] for key in SETTINGS}
    for words in code_of(page)[1]:
        for key in re.findall(r"(?<![\w./])([a-z]+\.[a-z_]+)(?![\w./(])", words):
            if key.partition(".")[0] in sections and not key.endswith((".py", ".key", ".md")):
                assert key in SETTINGS, key


@pytest.mark.parametrize("key", SETTINGS)
def test_setting_is_said_to_be_unused_if_and_only_if_nothing_reads_it(key):
    is_read = re.search(rf"\b{re.escape(key)}\b", SOURCES) is not None
    assert ("Not in use yet" in reference.PURPOSE[key]) is not is_read


def test_every_metric_is_in_the_operators_table():
    from node.metrics import Metrics

    names = {family.name for family in Metrics(version="1", profile="test").registry.collect()}
    for name in names:
        assert name in OPERATIONS, name


def test_metrics_are_said_not_to_be_counted_if_and_only_if_nothing_counts_them():
    from prometheus_client import Info
    from prometheus_client.metrics import MetricWrapperBase

    from node.metrics import Metrics

    said = re.findall(r"`(\w+)`", OPERATIONS.partition("not counted yet: ")[2].partition("\n")[0])
    kept = vars(Metrics(version="1", profile="test")).items()
    uncounted = {
        next(iter(metric.describe())).name
        for name, metric in kept
        if isinstance(metric, MetricWrapperBase)
        and not isinstance(metric, Info)
        and not re.search(rf"metrics\.{name}\b", SOURCES)
    }
    assert {name.removesuffix("_total") for name in said} == uncounted


# --- the picture of the house -----------------------------------------------------------------------


def pictured():
    """Files of the tree in docs/architecture.md: folders end in a slash, what is deeper lies in them."""
    picture = re.search(
        r"^```text\n(.*?)^```", (ROOT / "docs/architecture.md").read_text("utf-8"), re.M | re.S
    )[1]
    folders, files = {}, []
    for line in picture.splitlines():
        words = line.split()
        if not words:
            continue
        depth = len(line) - len(line.lstrip())
        if words[0].endswith("/"):
            folders = {at: name for at, name in folders.items() if at < depth} | {depth: words[0]}
            continue
        inside = "".join(name for at, name in sorted(folders.items()) if at < depth)
        for word in words:
            if not word.endswith(".py"):
                break
            files.append(inside + word)
    return files


def test_picture_of_the_house_shows_every_module_once():
    there = {
        str(path.relative_to(ROOT))
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    shown = pictured()
    assert len(shown) == len(set(shown))
    assert set(shown) == there


# --- decisions and specifications -------------------------------------------------------------------


def test_decisions_are_numbered_in_a_row_and_listed():
    decisions = sorted(path for path in (ROOT / "docs/adr").glob("*.md") if path.name != "README.md")
    index = (ROOT / "docs/adr/README.md").read_text("utf-8")
    for number, path in enumerate(decisions, 1):
        title = path.read_text("utf-8").splitlines()[0]
        assert path.name.startswith(f"{number:04d}-")
        assert title.startswith(f"# {number:04d}: ")
        assert f"[{number:04d}]({path.name}) | {title.partition(': ')[2]} |" in index
        for part in ("**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in path.read_text("utf-8"), path.name


def test_every_specification_and_vector_is_in_the_index():
    folder = ROOT / "docs/spec"
    index = (folder / "README.md").read_text("utf-8")
    for path in [*folder.glob("*.md"), *(folder / "vectors").glob("*.json")]:
        assert path.name == "README.md" or f"({path.relative_to(folder)})" in index, path.name


def test_glossary_is_sorted_and_names_nothing_twice():
    words = re.findall(r"^\| \*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text("utf-8"), re.MULTILINE)
    assert words == sorted(set(words))


# --- containers -------------------------------------------------------------------------------------


def test_image_holds_every_room_that_the_wheel_does():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    dockerfile = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split()
    for source in wheel["only-include"]:
        folder = source.removesuffix("/clovenet")
        assert f"COPY {folder}/ {folder}/" in dockerfile
        assert f"!{folder.partition('/')[0]}" in ignored


def test_containers_are_the_network_that_the_documents_promise():
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    services = re.findall(
        r"^  ([\w-]+):", compose.partition("\nservices:")[2].partition("\nvolumes:")[0], re.MULTILINE
    )
    assert sum(name.startswith("relay-") for name in services) == 16
    assert sum(name.startswith("model-") for name in services) == 2
    assert {"bootstrap", "client", "pull"} < set(services)


def test_settings_of_the_containers_exist():
    compose = (ROOT / "docker-compose.yml").read_text("utf-8")
    for section, key in re.findall(r"CLOVE_([A-Z]+)__([A-Z_]+):", compose):
        assert f"{section}.{key}".lower() in SETTINGS
