"""Runs a miner that writes down every vote it hears of, and kills itself at a chosen point of writing to the disk.

    python miner_under_test.py FOLDER LISTEN VOTES [POINT before|after]

Points are the calls of ``os.fsync`` (the sign-state's file and its folder) and the commits of the chain's file, counted
from 1 once the miner runs.
"""

import os
import signal
import sys
from pathlib import Path

from privet.ledger import node, store
from privet.ledger.consensus import Tempo
from privet.ledger.messages import Opening, Proposal
from privet.ledger.miner import mine
from privet.ledger.votes import Vote

FOLDER, LISTEN, VOTES = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
FATAL, WHEN = (int(sys.argv[4]), sys.argv[5]) if len(sys.argv) > 4 else (0, "")
points = 0


def deadly(real):
    def call(*arguments):
        global points
        points += 1
        if (points, WHEN) == (FATAL, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*arguments)
        if (points, WHEN) == (FATAL, "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return call


def logged(real):
    def take(self, event):
        votes = list(event.entry) if isinstance(event, Opening) else []
        votes += [event.vote] if isinstance(event, Proposal) else [event] if isinstance(event, Vote) else []
        with VOTES.open("a") as file:
            for vote in votes:
                file.write(vote.encode().hex() + "\n")
        real(self, event)

    return take


def started(running, own):
    signal.signal(signal.SIGTERM, lambda *_: running.stop())
    os.fsync = deadly(os.fsync)
    store.Store.append = deadly(store.Store.append)


node.Node.take = logged(node.Node.take)
sys.exit(mine(FOLDER, listen=LISTEN, tempo=Tempo(begin=200), started=started) or 0)  # a reason is printed
