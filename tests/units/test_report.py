"""The report, the summary and the comparison of runs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from privet import tensors
from privet.errors import RunError
from privet.evidence import wording
from privet.evidence.charts import Bar, Line, bar_chart, line_chart, ticks
from privet.evidence.compare import compare, compare_rows, load_metrics
from privet.evidence.pictures import side_by_side, strips
from privet.evidence.reading import Leak, leaks
from privet.evidence.report import write_report
from privet.evidence.summary import plain_summary, summary
from privet.ledger import Log

EVIL = "<script>alert(1)</script>\"'[red]\x1b[31m"
VOID = {"meta", "img", "br", "hr", "link", "input"}
PLAN = 'name = "smart-home"\n[data]\nname = "mnist-10k"\n[training]\nname = "split-federated"\nrounds = 2\n'
CANONICAL = b'{"data":{"name":"mnist-10k"},"name":"smart-home","training":{"name":"split-federated","rounds":2}}'
PLAN_DIGEST = hashlib.sha256(CANONICAL).hexdigest()


def guarantee(epsilon: float | None, unit: str = "record", delta: float = 1e-5) -> dict[str, Any]:
    return {
        "claim": f"features seen by the edge server, {epsilon or 'bare'}",
        "unit": unit,
        "relation": "replace-one",
        "epsilon": epsilon,
        "delta": delta,
        "releases": 40,
        "accountant": "RDP",
    }


def cost(party: str, at: int = 0) -> dict[str, Any]:
    return {
        "party": party,
        "profile": "phone",
        "sent": 12_100_000 + at,
        "received": 6_300_000,
        "compute_seconds_modelled": 212.0,
        "transfer_seconds_modelled": 25.2,
        "joules": 1900.0,
        "seconds_measured": 4.4,
    }


def full_metrics(fleet: int = 10) -> dict[str, Any]:
    attack = {
        "name": "feature-inversion",
        "view": "edge-server",
        "metrics": {"ssim": 0.41, "ssim_low": 0.39, "ssim_high": 0.43, "psnr": 15.2},
        "floor": {"ssim_black": 0.05, "ssim_mean": 0.21, "psnr_mean": 11.4},
        "note": "500 held-out records",
    }
    names = [*(f"device-{index:03}" for index in range(fleet)), "edge-server", "coordinator"]
    return {
        "name": "smart-home",
        "version": "0.1.0",
        "started": "2026-02-11T14:03:22+00:00",
        "seconds": 61.2,
        "reproducible": False,
        "precision": "float32",
        "parameters": 149000,
        "accuracy": 0.951,
        "accuracy_with_noise": 0.932,
        "accuracy_alone": {f"device-{index:03}": 0.8 for index in range(fleet)},
        "accuracy_alone_mean": 0.801,
        "accuracy_centralised": 0.973,
        "rounds": [
            {"round": 1, "accuracy": 0.9, "accuracy_with_noise": None, "loss": 0.3, "seconds": 5.1, "replies": 10},
            {"round": 2, "accuracy": 0.951, "accuracy_with_noise": 0.932, "loss": 0.2, "modelled_seconds": 800.0},
        ],
        "rejected": [{"device": "device-009", "round": 1, "reason": "evaluated low by multi-krum"}],
        "hostile": ["device-009"],
        "guarantees": [guarantee(2.0, "coordinate", 0), guarantee(359084.7), guarantee(None)],
        "attacks": [attack],
        "costs": [cost(name, index) for index, name in enumerate(names)],
        "bytes_per_device": 123456.0,
        "warnings": ["labels travel in the clear"],
    }


def make_run(folder: Path, metrics: dict[str, Any], plan: str = PLAN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"weight": torch.ones(2, 3)}
    tensors.save(state, folder / "model.safetensors")
    log = Log(folder / "records.jsonl")
    for at in (1, 2):
        log.append("round", {"round": at})
    (folder / "plan.toml").write_text(plan, encoding="utf-8")
    known = {"digest": tensors.digest(state), "plan_digest": PLAN_DIGEST}
    (folder / "metrics.json").write_text(json.dumps(known | metrics), encoding="utf-8")
    return folder


def page_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


class Checker(HTMLParser):
    """Collects the text, the tags and the addresses; refuses tags that don't balance."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in {"src", "href", "action", "data", "srcset"}]
        self.ids += [str(value) for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check(page: str) -> Checker:
    checker = Checker(page)
    assert "script" not in checker.seen
    assert all(address.startswith("data:image/png;base64,") for address in checker.addresses)
    assert "http:" not in page
    assert "https:" not in page
    assert "@import" not in page
    assert "url(" not in page
    assert len(checker.ids) == len(set(checker.ids))
    return checker


def test_full_page(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", full_metrics()))
    text = check(page).text
    for expected in (
        "10 devices (1 of them hostile on purpose) trained one model of 149,000 parameters on mnist-10k in 2 rounds",
        "95.1 %",
        "80.1 %",
        "97.3 %",
        "359,085",
        "no formal guarantee",
        "No meaningful protection",
        "coordinate",
        "replace-one",
        "0.00001",
        "RDP",
        "An attack that fails proves no guarantee",
        "black 0.05, mean 0.21",
        "[0.39, 0.43]",
        "123 kB",
        "12.1 MB",
        "1.9 kJ",
        "3 min 32 s",
        "device-009 (hostile)",
        "evaluated low by multi-krum",
        "labels travel in the clear",
        "2026-02-11 14:03 UTC",
        f"{PLAN_DIGEST} (matches plan.toml)",
        "(matches model.safetensors)",
        "(2 records, every link checked)",
        'name = "split-federated"',
    ):
        assert expected in text, expected
    assert "seed" not in text
    assert "Does not verify" not in text
    assert page.count("<svg") == 8


def test_page_needs_almost_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    text = check(page_of(tmp_path)).text
    for expected in (
        "The run recorded no rounds.",
        "No formal guarantee. No guarantee was derived",
        "No attack was run.",
        "No costs were recorded.",
        "No update was rejected.",
        "no plan.toml",
        "Does not verify: no records",
    ):
        assert expected in text, expected
    assert "nan" not in text.lower().split()
    assert "None" not in text


@pytest.mark.parametrize("absent", sorted(full_metrics()))
def test_any_part_may_be_absent_or_null(tmp_path: Path, absent: str) -> None:
    without = {key: value for key, value in full_metrics().items() if key != absent}
    for name, metrics in {"absent": without, "null": without | {absent: None}}.items():
        folder = make_run(tmp_path / name, metrics)
        assert "None" not in check(page_of(folder)).text
        assert "None" not in plain_summary(load_metrics(folder))


@pytest.mark.parametrize("table", ["rounds", "rejected", "guarantees", "attacks", "costs"])
def test_empty_rows_are_printed(tmp_path: Path, table: str) -> None:
    folder = make_run(tmp_path, full_metrics() | {table: [{}]})
    assert "None" not in check(page_of(folder)).text
    plain_summary(load_metrics(folder))
    compare_rows([load_metrics(folder)])


def test_red_banner_only_when_reproducible(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, full_metrics() | {"reproducible": True}))
    assert 'class="banner"' in page
    assert "noise comes from a seed. Whoever knows the seed can subtract it" in page
    assert "whoever knows the seed can subtract it" in plain_summary({"reproducible": True})


def test_everything_is_escaped(tmp_path: Path) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return EVIL if isinstance(value, str) else value

    metrics = poison(full_metrics())
    metrics["accuracy_alone"] = {EVIL: 0.8}
    metrics["attacks"][0]["metrics"] = {EVIL: 0.4}
    metrics["attacks"][0]["floor"] = {EVIL: 0.1}
    folder = make_run(tmp_path / "run", metrics, plan=f"name = {json.dumps(EVIL)}\n# </pre>{EVIL[:25]}\n")
    page = page_of(folder)
    check(page)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    loaded = load_metrics(folder)
    for table in (summary(loaded), compare([loaded, loaded | {"plan": {}}])):
        console = Console(width=300, record=True, file=io.StringIO(), force_terminal=False)
        console.print(table)
        printed = console.export_text()
        assert "[red]" in printed
        assert "\x1b" not in printed
    assert "\x1b" not in plain_summary(loaded)


def test_guarantees_in_plain_words() -> None:
    words = {epsilon: wording.meaning(guarantee(epsilon)) for epsilon in (0.5, 1.0, 2.0, 10.0, 10.1, 359084.7, None)}
    verdicts = [words[epsilon].verdict for epsilon in words]
    none = "no meaningful protection"
    assert verdicts == ["strong", "strong", "moderate", "weak", none, none, "no formal guarantee"]
    assert "at most 73.1 % of the time" in words[1.0].sentence
    assert "practically every time" in words[359084.7].sentence
    assert wording.meaning(guarantee(0.1, delta=1.0)).verdict == none
    single = wording.meaning(guarantee(0.5, "coordinate"))
    assert single.tone != "good"
    assert "no statement about a whole record" in single.sentence
    assert wording.meaning(guarantee(math.inf)).verdict == wording.meaning(guarantee(math.nan)).verdict
    assert wording.meaning(guarantee(math.nan)).verdict == "no formal guarantee"


@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.3])
@pytest.mark.parametrize("epsilon", [0.0, 0.7, 5.0])
def test_guess_bound_is_reached_by_the_worst_mechanism(epsilon: float, delta: float) -> None:
    told, lied = math.exp(epsilon) / (1 + math.exp(epsilon)), 1 / (1 + math.exp(epsilon))
    outputs = [(delta, 0.0), ((1 - delta) * told, (1 - delta) * lied)]
    outputs += [(b, a) for a, b in outputs]
    right = sum(max(pair) for pair in outputs) / 2
    assert wording.guess_bound(epsilon, delta) == pytest.approx(right)


def test_figures_are_readable() -> None:
    assert wording.number(359084.6) == "359,085"
    assert wording.number(999.7) == "1,000"
    assert wording.number(0.03149) == "0.0315"
    assert wording.number(1e-5) == "0.00001"
    assert wording.number(10**400) == "not a number"
    assert wording.number(None) == "-"
    assert wording.number(math.nan) == "not a number"
    assert [wording.size(value) for value in (0, 12, 1234, 123456, 18.9e6, 2.5e9)] == [
        "0 B",
        "12 B",
        "1.23 kB",
        "123 kB",
        "18.9 MB",
        "2.5 GB",
    ]
    assert wording.size(999_900) == "1 MB"
    assert [wording.duration(value) for value in (0.05, 61.2, 800, 7260)] == [
        "0.05 s",
        "61.2 s",
        "13 min 20 s",
        "2 h 1 min",
    ]
    assert wording.statement(guarantee(359084.7)) == (
        "epsilon 359,085 per record (replace-one), delta 0.00001, 40 releases, RDP"
    )


def numbers_in_box(chart: str) -> None:
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', chart).groups())  # type: ignore[union-attr]
    across = [float(value) for value in re.findall(r'\b(?:x|x1|x2|cx)="([^"]+)"', chart)]
    down = [float(value) for value in re.findall(r'\b(?:y|y1|y2|cy)="([^"]+)"', chart)]
    for points in re.findall(r'points="([^"]+)"', chart):
        pairs = [pair.split(",") for pair in points.split()]
        across += [float(x) for x, _ in pairs]
        down += [float(y) for _, y in pairs]
    for x, long in re.findall(r'<rect [^>]*x="([^"]+)"[^>]*width="([^"]+)"', chart):
        across.append(float(x) + float(long))
    assert across
    assert down
    assert all(0 <= x <= width for x in across)
    assert all(0 <= y <= height for y in down)


@pytest.mark.parametrize("width", [680, 350])
@pytest.mark.parametrize(
    "values",
    [[0.5], [0.1, 0.9, 0.95], [0.0, 1.0], [0.7, 0.7, 0.7], [1e-9, 2e-9], [-5.0, 1e6], [math.nan, 0.4, math.inf, 0.5]],
)
def test_lines_stay_inside_the_box(values: list[float], width: int) -> None:
    chart = line_chart(
        [
            Line("a long name for a line of this chart", list(enumerate(values, 1))),
            Line("baseline", [(1, 0.3), (max(2, len(values)), 0.3)], baseline=True),
        ],
        title="title <&>",
        description="description",
        x_label="round",
        y_label="accuracy",
        tick=lambda level: f"{level:.3g}",
        width=width,
    )
    numbers_in_box(chart)
    Checker(chart)
    assert "<title" in chart
    assert "<desc" in chart
    assert "title &lt;&amp;&gt;" in chart
    assert 'role="img"' in chart


def test_lines_are_where_the_values_are() -> None:
    chart = line_chart(
        [Line("a", [(1, 0.0), (2, 0.5), (3, 1.0)])],
        title="t",
        description="d",
        x_label="x",
        y_label="y",
        tick="{:.1f}".format,
    )
    dots = [tuple(map(float, pair)) for pair in re.findall(r'cx="([^"]+)" cy="([^"]+)"', chart)]
    (x1, y1), (x2, y2), (x3, y3) = dots
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert y1 - y3 == pytest.approx(210, abs=0.2)
    assert (
        line_chart([Line("a", [(1, None)])], title="t", description="d", x_label="x", y_label="y", tick="{:.1f}".format)
        == ""
    )


@pytest.mark.parametrize("width", [680, 350])
def test_bars_stay_inside_the_box(width: int) -> None:
    bars = [
        Bar("device-000", [1.0, 3.0], "4 MB"),
        Bar("a name that is far too long for any chart", [None, math.nan], "-"),
        Bar(EVIL, [8.0, -1.0], "8 MB"),
    ]
    chart = bar_chart(bars, title="t", description="d", parts=("sent", "received"), width=width)
    numbers_in_box(chart)
    Checker(chart)
    lengths = [float(value) for value in re.findall(r'<rect [^>]*width="([^"]+)"', chart)]
    assert lengths[1] == pytest.approx(3 * lengths[0], abs=0.3)
    assert lengths[4] == pytest.approx(8 * lengths[0], abs=0.6)
    assert lengths[2:4] == [0.0, 0.0]
    assert bar_chart([], title="t", description="d") == ""
    numbers_in_box(bar_chart([Bar("x", [0.0], "0")], title="t", description="d"))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.613, 0.951), (3.0, 3.0), (-1e6, 2.0), (0.0, 0.0)])
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    steps = np.diff(found)
    assert np.allclose(steps, steps[0])


def test_large_fleets_are_folded(tmp_path: Path) -> None:
    metrics = full_metrics(300)
    metrics["rounds"] = [{"round": at, "accuracy": 0.9} for at in range(1, 31)]
    metrics["rejected"] = [{"device": "device-009", "round": at, "reason": "low"} for at in range(1, 31)]
    page = page_of(make_run(tmp_path, metrics))
    text = check(page).text
    assert "300 devices" in text
    assert "Minimum Median Maximum" in text
    assert "All 30 rounds" in text
    assert "All 30 rejected updates" in text
    shown = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    assert "device-123" not in shown
    assert "device-123" in page
    assert 'scope="row">coordinator' in shown


def test_negative_results_are_printed(tmp_path: Path) -> None:
    metrics = full_metrics() | {"hostile": ["device-003"], "accuracy": 0.5}
    folder = make_run(tmp_path, metrics)
    text = check(page_of(folder)).text
    assert "Never rejected: device-003." in text
    assert "device-009 (honest)" in text
    assert "Training together gained nothing here." in text
    assert "hostile and never rejected: device-003" in plain_summary(load_metrics(folder))


def test_changed_evidence_is_reported_in_red(tmp_path: Path) -> None:
    folder = make_run(tmp_path, full_metrics())
    records = folder / "records.jsonl"
    records.write_text(records.read_text().replace('"round": 1', '"round": 7'))
    tensors.save({"weight": torch.zeros(2, 3)}, folder / "model.safetensors")
    (folder / "plan.toml").write_text(PLAN.replace("rounds = 2", "rounds = 3"))
    page = page_of(folder)
    text = check(page).text
    assert page.count('class="banner"') == 3
    assert "plan.toml is not the plan whose hash the run recorded" in text
    assert "matches plan.toml" not in text
    assert "record 0 does not verify" in text
    assert "is not the model whose digest the run recorded" in text
    assert "matches model.safetensors" not in text
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "model.safetensors: not a safetensors file" in check(page_of(folder)).text


def test_pictures_are_shown_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (3, 1, 6, 5), dtype=np.uint8)
    folder = make_run(tmp_path, full_metrics())
    (folder / "pictures").mkdir()
    save_file(
        {"originals": originals, "reconstructions": 255 - originals}, folder / "pictures/feature-inversion.safetensors"
    )
    checker = check(page_of(folder))
    assert len(checker.addresses) == 2
    rows = [np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))) for uri in checker.addresses]
    for index in range(3):
        part = rows[0][:, index * 6 : index * 6 + 5]
        assert (part[..., :3] == originals[index, 0][..., None]).all()
        assert (part[..., 3] == 255).all()
    assert (rows[0][:, 5, 3] == 0).all()
    assert (rows[1][:, :5, 0] == 255 - originals[0, 0]).all()


def test_pictures_of_any_channels() -> None:
    colour = np.arange(24, dtype=np.uint8).reshape(1, 3, 2, 4)
    assert (side_by_side(colour)[..., :3] == colour[0].transpose(1, 2, 0)).all()
    assert side_by_side(np.full((2, 5, 2, 4), 7, dtype=np.uint8))[0, 0].tolist() == [7, 7, 7, 255]


def test_damaged_pictures_are_refused(tmp_path: Path) -> None:
    assert strips(tmp_path / "absent") == {}
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match="damaged"):
        strips(tmp_path)
    save_file({"originals": np.zeros((2, 3), dtype=np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(RunError, match="uint8 of shape"):
        strips(tmp_path)
    save_file({"originals": np.zeros((0, 1, 4, 4), dtype=np.uint8)}, tmp_path / "a.safetensors")
    assert strips(tmp_path) == {"a": []}


def test_missing_and_damaged_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run at"):
        load_metrics(tmp_path / "absent")
    with pytest.raises(RunError, match=r"metrics\.json is missing"):
        load_metrics(tmp_path)
    for damaged in ("", "{", "[]", '{"rounds": 3}', '{"attacks": [1]}', '{"accuracy_alone": []}', "\udcff{"):
        (tmp_path / "metrics.json").write_text(damaged, errors="surrogateescape")
        with pytest.raises(RunError, match="damaged"):
            load_metrics(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "plan.toml").write_text("name = ")
    with pytest.raises(RunError, match=r"plan\.toml is damaged"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_floors_stand_beside_their_metric() -> None:
    found = leaks(
        {
            "metrics": {"tpr": 0.2, "tpr_at_1_fpr": 0.1, "auc": 0.6, "auc_low": 0.55, "auc_high": 0.65, "mse": 0.01},
            "floor": {"tpr_at_1_fpr_chance": 0.01, "auc": 0.5, "mse_mean": 0.2, "other": 1.0},
        }
    )
    assert found == [
        Leak("tpr", 0.2, None, None, {}),
        Leak("tpr_at_1_fpr", 0.1, None, None, {"chance": 0.01}),
        Leak("auc", 0.6, 0.55, 0.65, {"": 0.5}),
        Leak("mse", 0.01, None, None, {"mean": 0.2}),
        Leak("other guesses", None, None, None, {"other": 1.0}),
    ]
    verdicts = [leak.verdict for leak in found]
    assert verdicts[0] == verdicts[4] == ""
    assert verdicts[1] == verdicts[3] == "better than every guess, but no interval: may be chance"
    assert verdicts[2] == "better than every guess: it leaks"
    assert Leak("auc", 0.51, 0.48, 0.54, {"chance": 0.5}).verdict == "not clearly better than a guess"
    assert found[2].line() == "auc 0.6 [0.55, 0.65] (floor: 0.5)"


def test_summary_says_the_same_twice() -> None:
    metrics = full_metrics()
    lines = plain_summary(metrics).splitlines()
    for expected in (
        "accuracy: 95.1 %",
        "all data in one place: 97.3 %",
        "bytes per device: 123 kB",
        "energy per device (median): 1.9 kJ, modelled",
        "rejected: device-009 (hostile) x 1",
        "attack: feature-inversion: ssim 0.41 [0.39, 0.43] (floor: black 0.05, mean 0.21); "
        "psnr 15.2 (floor: mean 11.4)",
        "guarantee: features seen by the edge server, 359084.7: epsilon 359,085 per record (replace-one), "
        "delta 0.00001, 40 releases, RDP: no meaningful protection",
        "guarantee: features seen by the edge server, bare: no formal guarantee per record (replace-one), "
        "delta 0.00001, 40 releases, RDP",
    ):
        assert expected in lines
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(summary(metrics))
    printed = console.export_text()
    for line in lines:
        assert line.rpartition(": ")[2] in printed
    assert plain_summary({}).splitlines() == [
        "guarantee: no formal guarantee was derived",
        "attack: none was run; nothing was measured about what leaks",
        "rejected: none",
    ]


def test_comparison_names_what_differs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", full_metrics(), PLAN + "[[on_device]]\nname = 'laplace'\nepsilon = 2.0\n")
    again = full_metrics()
    again["attacks"].append({"name": "feature-inversion", "metrics": {"ssim": 0.5, "psnr": 1.0}})
    again["guarantees"].append(again["guarantees"][0] | {"epsilon": 7.0})
    second = make_run(tmp_path / "b", again, PLAN.replace("rounds = 2", "rounds = 3"))
    loaded = [load_metrics(first), load_metrics(second)]
    one, two = compare_rows(loaded)
    assert one["differs"] == {"on_device.0.epsilon": 2.0, "on_device.0.name": "laplace", "training.rounds": 2}
    assert two["differs"] == {"on_device.0.epsilon": None, "on_device.0.name": None, "training.rounds": 3}
    assert two["attacks"] == {"feature-inversion ssim": 0.5, "feature-inversion psnr": 15.2}
    claim = "features seen by the edge server, 2.0 (per coordinate)"
    assert (one["epsilons"][claim], two["epsilons"][claim]) == (2.0, 7.0)
    assert one["epsilons"]["features seen by the edge server, bare (per record)"] is None
    assert (one["accuracy"], one["seconds"], one["rejected"], one["joules_per_device"]) == (0.951, 61.2, 1, 1900.0)
    assert json.loads(json.dumps([one, two])) == [one, two]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(compare(loaded))
    printed = console.export_text()
    for expected in ("training.rounds", "359,085", "no formal guarantee", "123 kB", "95.1 %", "laplace"):
        assert expected in printed
    assert compare_rows([]) == []
    Console(file=io.StringIO()).print(compare([]))
