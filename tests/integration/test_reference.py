"""The pages say what the code says: undocumented fails."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import privet
from privet import parts

DOCS = Path(__file__).parents[2] / "docs"
NINE = ("Plan", "Engine", "Fleet", "Mechanism", "Aggregator", "Record", "Ledger", "View", "Attack")


def test_reference_pages_say_what_the_code_says_and_describe_all_of_it():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = generate.pages()
    assert {path.name for path in pages} == {"cli.md", "plan.md", "parts.md", "mechanisms.md", "errors.md"}
    behind = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert not behind, "run: .venv/bin/python docs/generate.py"
    rows = [(path.name, line) for path, text in pages.items() for line in text.splitlines() if line.startswith("| `")]
    undescribed = [row for row in rows if not row[1].split("|")[-2].strip()]
    assert not undescribed, "describe it under Attributes: or in Field(description=...)"


def named_in_glossary():
    return re.findall(r"`(privet\.[\w.]+)`", (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", named_in_glossary())
def test_name_in_the_glossary_exists(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_glossary_has_the_nine_words_the_families_and_the_public_names():
    text = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"\*\*(.+?)\*\*", text)
    assert not set(NINE) - set(terms)
    assert not [family for family in parts.FAMILIES if f"`{family}`" not in text]
    assert not [name for name in privet.__all__ if not name.startswith("__") and f"`privet.{name}`" not in text]
