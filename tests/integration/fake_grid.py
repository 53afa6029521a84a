"""A network of devices that is a dictionary of mails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flwr.app import Message as Mail
from flwr.supercore.task_identity import TaskIdentity


class Mails:
    """The half of a grid that takes mails; it loses the first so many pushes.

    Attributes:
        mails: what was pushed, by the number that the pusher got.
        asked: node and group of each mail, in their order.
    """

    def __init__(self, loses: int) -> None:
        self.loses = loses
        self.mails: dict[str, Mail] = {}
        self.asked: list[tuple[int, str]] = []
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

    def push_messages(self, mails: Sequence[Mail]) -> Iterator[str | None]:
        for mail in mails:
            if self.loses:
                self.loses -= 1
                yield None
                continue
            self.asked.append((mail.metadata.dst_node_id, mail.metadata.group_id))
            number = f"{mail.metadata.dst_node_id}-{len(self.asked)}"
            mail.metadata.__dict__["_message_id"] = number
            self.mails[number] = mail
            yield number
