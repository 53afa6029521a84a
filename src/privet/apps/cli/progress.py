"""How far a run is, on standard error: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass
class Reporter:
    """Shows the events of a run; ``privet.study.run.run`` calls it.

    Attributes:
        show: shows a line, with how many rounds are done and how many there are.
        run: folder of the run; "" before it has begun.
        done: rounds that are done.
        rounds: how many there are; 0 while that is not known.
    """

    show: Callable[[str, int, int], None]
    run: str = ""
    done: int = 0
    rounds: int = 0

    def __call__(self, event: str, **fields: Any) -> None:
        """Shows one event.

        Args:
            event: ``start``, ``round``, ``baseline``, ``attack``, ``report``, ...
            fields: what is known of it, for example ``round``, ``rounds``, ``accuracy``, ``seconds``.
        """
        if event == "start":
            self.run = str(fields.get("path", ""))
        self.done = int(fields.get("round") or self.done)
        self.rounds = int(fields.get("rounds") or self.rounds)
        self.show(line(event, fields), self.done, self.rounds)


def line(event: str, fields: Mapping[str, Any]) -> str:
    """Returns an event as one line of text.

    >>> line("round", {"round": 2, "rounds": 5, "accuracy": 0.931, "replies": 10, "seconds": 2.04})
    'round 2/5: accuracy 93.1 %, replies 10, 2.0 s'
    """
    head = " ".join(str(word) for word in (event, fields.get("name"), fields.get("round")) if word is not None)
    if "round" in fields and "rounds" in fields:
        head += f"/{fields['rounds']}"
    shown = [(key, value) for key, value in fields.items() if key not in ("name", "round", "rounds")]
    told = [_told(key, value) for key, value in shown if value not in (None, "", [], {})]
    return head + (": " + ", ".join(told) if told else "")


def _told(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{key} (" + ", ".join(_told(name, each) for name, each in value.items()) + ")"
    if isinstance(value, list):
        return f"{key} " + " ".join(str(each["device"] if isinstance(each, Mapping) else each) for each in value)
    if key == "seconds":
        return f"{value:.1f} s"
    if key.startswith("accuracy"):
        return f"{key.replace('_', ' ')} {100 * value:.1f} %"
    return f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Gives a reporter for the block; the live bar is gone after it."""
    if not sys.stderr.isatty():
        yield Reporter(lambda text, done, rounds: click.echo(text, err=True))
        return
    with _bar() as bar:
        task = bar.add_task("start", total=None)
        yield Reporter(lambda text, done, rounds: _advance(bar, task, text, done, rounds))


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _advance(bar: Progress, task: TaskID, text: str, done: int, rounds: int) -> None:
    from rich.markup import escape

    bar.update(task, description=escape(text), completed=done, total=rounds or None)
