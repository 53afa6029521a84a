"""Starts a SuperLink as a process of its own, bound to the coordinator's own machine."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from privet.engines.flower.environment import POLITE
from privet.engines.flower.link import Link
from privet.errors import UnreachableError

HERE = "127.0.0.1"
"""Control, runtime and device API share one port in Flower 1.41, so none of them may be reached from outside;
devices come through :mod:`privet.engines.flower.gate`."""

_RUN = "from flwr.superlink.cli.flower_superlink import flower_superlink; flower_superlink()"


@dataclass(frozen=True)
class SuperLink:
    """How to start a SuperLink.

    Attributes:
        folder: private; for its database, its secret, its log and Flower's home.
        port: on the loopback address.
        authority, certificate, key: PEM files; the certificate is the coordinator's.
        name: the DNS name in the certificate.
    """

    folder: Path
    port: int
    authority: Path
    certificate: Path
    key: Path
    name: str

    @property
    def link(self) -> Link:
        """How this machine's own processes reach it."""
        return Link(f"{HERE}:{self.port}", self.authority, self.name, self.folder / "superlink.secret")

    def start(self, patience: float = 60.0) -> subprocess.Popen[bytes]:
        """Starts it and returns its process once it answers.

        Args:
            patience: seconds to wait.

        Raises:
            UnreachableError: it ended, or does not answer in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.link.secret.exists():
            with os.fdopen(os.open(self.link.secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
        log = self.folder / "superlink.log"
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-c", _RUN, *self._arguments()],
                env={**os.environ, **POLITE, "FLWR_HOME": str(self.folder / "home"), "FLWR_LOG_LEVEL": "WARNING"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C reaches its parent, which ends it last
            )
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if process.poll() is not None:
                raise UnreachableError(f"the SuperLink ended with status {process.returncode}", do=f"read {log}")
            if self.link.healthy():
                return process
            time.sleep(0.2)
        process.kill()
        process.wait()
        raise UnreachableError(f"the SuperLink did not answer within {patience:g} s", do=f"read {log}")

    def _arguments(self) -> list[str]:
        values = {
            "--host": HERE,
            "--port": self.port,
            "--ssl-ca-certfile": self.authority,
            "--ssl-certfile": self.certificate,
            "--ssl-keyfile": self.key,
            "--database": self.folder / "superlink.db",
            "--isolation": "process",
            "--superexec-auth-secret-file": self.link.secret,
        }
        flags = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        return flags + [str(part) for pair in values.items() for part in pair]
