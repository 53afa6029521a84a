"""Where devices compute, what crossed, and what each party saw."""

from privet.engines.channel import Channel, Keep, Traffic
from privet.engines.contract import Engine, Message, OwnTime, Reply, Work
from privet.engines.in_process import InProcess
from privet.engines.view import View

__all__ = ["Channel", "Engine", "InProcess", "Keep", "Message", "OwnTime", "Reply", "Traffic", "View", "Work"]
