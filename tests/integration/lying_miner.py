"""Runs a miner that finds a wrong model in each round: python lying_miner.py FOLDER"""

import signal
import sys
from pathlib import Path

from privet.apps.cli import miner as command
from privet.ledger.consensus import Tempo
from privet.ledger.content import DEFAULT
from privet.ledger.epoch_keys import EpochKeys
from privet.ledger.folder_store import FolderStore
from privet.ledger.miner import mine
from privet.study.committee import LyingDuty


def duty(folder, chain, contents):
    made = LyingDuty(chain, folder.secret, FolderStore(contents), EpochKeys(folder.path / "epochs"), DEFAULT)
    made.lie = "wrong-mean"
    return made


def started(node, own):
    signal.signal(signal.SIGTERM, lambda *_: node.stop())
    command._register_epoch(node, own)


sys.exit(mine(Path(sys.argv[1]), duty=duty, tempo=Tempo(begin=200), started=started) or 0)
