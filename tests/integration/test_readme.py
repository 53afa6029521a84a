"""Every command and option on a page exists, and every command is in the README."""

import re
import shlex
from pathlib import Path

import click
import pytest

from privet.apps.cli.main import privet as command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "cli.md")]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(privet [a-z][^`\n]*)`")


def lines():
    """Yields every `privet ...` on a page, in a block of bash or between backticks."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for line in [*"\n".join(BLOCK.findall(text)).splitlines(), *INLINE.findall(text)]:
            if line.startswith("privet "):
                yield pytest.param(line, id=f"{path.name}-{line}")


def leaves(each, name, parent=None):
    """Yields the full name of every command, with the meaning that --help lists it by."""
    context = click.Context(each, parent=parent, info_name=name, terminal_width=200, **each.context_settings)
    for below in each.list_commands(context):
        found = each.get_command(context, below)
        if isinstance(found, click.Group):
            yield from leaves(found, f"{name} {below}", context)
        else:
            listed = re.search(rf"^  {below} +(.+)$", each.get_help(context), re.MULTILINE)
            yield pytest.param(f"{name} {below}", listed[1].rstrip("."), id=f"{name} {below}")


@pytest.mark.parametrize("line", list(lines()))
def test_command_on_a_page_exists_with_its_options(line):
    each, words = command, shlex.split(line, comments=True)[1:]
    while isinstance(each, click.Group) and words and not words[0].startswith("-"):
        found = each.get_command(click.Context(each), words[0])
        assert found is not None, f"no command {words[0]!r}"
        each, words = found, words[1:]
    options = {name for parameter in each.params for name in parameter.opts} | {"--help"}
    assert not [word for word in words if word.startswith("-") and word.split("=")[0] not in options]


@pytest.mark.parametrize(("name", "meaning"), list(leaves(command, "privet")))
def test_readme_lists_every_command_with_the_words_of_help(name, meaning):
    rows = [line for line in README.splitlines() if re.match(rf"\| `{name}\b", line)]
    assert len(rows) == 1, f"the README's table of commands needs one row for {name}"
    assert meaning in rows[0], f"--help says: {meaning}"
