"""One local job as it is now: what the spool says, then what the kernel says of the process named there. Called by local.py."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.backends.marks import Garbled, Process
from reconciler.backends.process import Life, Machine, life_of, processes_of, uptime
from reconciler.backends.spool import Evidence, Spool
from reconciler.core.observed import Expected


@dataclass(frozen=True, slots=True)
class Sight:
    """How jobs are looked at that nobody watches."""

    spool: Spool
    machine: Machine

    def observe(self, expected: Expected, now: float) -> tuple[Evidence, Life]:
        """What there is about one job. The spool is read again once its processes are gone: what they wrote last is in it.

        Raises OSError when it cannot be read, ValueError when it is no name of a job.
        """
        evidence = self.spool.read(expected.job)
        life = self._life(evidence, expected, now)
        if life is Life.GONE and evidence.start is not None and evidence.exit is None:
            evidence = self.spool.read(expected.job)
        return evidence, life

    def _life(self, evidence: Evidence, expected: Expected, now: float) -> Life:
        start, folder = evidence.start, self.spool.folder(expected.job)
        if isinstance(start, Process):
            return life_of(start, folder, self.machine)
        if isinstance(start, Garbled) and start.unfinished and processes_of(folder):
            return Life.LED
        if start is None and evidence.claim is not None:
            return Life.GONE if evidence.claim.boot == self.machine.boot else Life.RESTARTED
        before_boot = 0.0 < expected.claimed_at < now - uptime()
        return Life.RESTARTED if start is None and before_boot else Life.GONE
