"""The figures in docs are what the measured points say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "figures"


def test_figures_3a_to_3f_follow_from_the_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "paper_001")
    from paper_001_drawing import PANELS, draw_all

    points = json.loads((FIGURES / "paper_001_points.json").read_text(encoding="utf-8"))
    verdicts = draw_all(points, tmp_path, "python examples/paper_001/figures.py")
    page = (ROOT / "docs" / "explanation" / "distributed-inference.md").read_text(encoding="utf-8")
    for panel, verdict in zip(PANELS, verdicts, strict=True):
        name = f"paper_001_figure_3{panel.letter}.json"
        assert (tmp_path / name).read_text() == (FIGURES / name).read_text()
        assert f"| [3({panel.letter})](../figures/{name}) | {verdict[5:].replace(': ', ' | ', 1)} |" in page
