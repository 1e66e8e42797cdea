"""What is new since the last cycle, taken from every outlook and sorted by run. Part of controller.py.

It stays new until it has been saved: a cycle that is thrown away loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from reconciler.core.names import RUN_ID_LENGTH, parse_job_name
from reconciler.core.observed import Generated, JobFact, Receipt, Usage
from reconciler.ledger.rows import UsageChange
from reconciler.outlook import Outlook


class Fresh:
    """What is new for one run, while it is being collected."""

    __slots__ = ("absent", "facts", "generated", "receipts")

    def __init__(self) -> None:
        self.facts: dict[str, JobFact] = {}
        self.absent: list[str] = []
        self.receipts: list[Receipt] = []
        self.generated: dict[str, Generated] = {}


@dataclass(frozen=True, slots=True)
class Gathered:
    """What one outlook had to say at the start of a cycle. It is settled there only when it has been saved."""

    facts: dict[str, JobFact]
    absent: list[str]
    receipts: tuple[Receipt, ...]
    usage: tuple[tuple[str, Usage], ...] = ()

    @classmethod
    def of(cls, outlook: Outlook) -> Gathered:
        facts, absent = outlook.news()
        return cls(facts, absent, tuple(outlook.receipts), tuple(outlook.usage.items()))

    @property
    def used(self) -> list[UsageChange]:
        """What was told of finished jobs. It concerns no plan: their runs may have ended long ago."""
        names = ((parse_job_name(job), usage) for job, usage in self.usage)
        return [UsageChange(*name, usage) for name, usage in names if name is not None]

    def settle(self, outlook: Outlook, failed: Set[str]) -> None:
        """All of it is saved, but what concerns the runs in `failed`, which were not planned: that stays new."""
        if not failed:
            outlook.fold(self.facts, self.absent)
        else:
            outlook.fold({job: fact for job, fact in self.facts.items() if job[:RUN_ID_LENGTH] not in failed}, self.absent)
        for job, usage in self.usage:
            if outlook.usage.get(job) is usage:
                del outlook.usage[job]
        outlook.receipts[: len(self.receipts)] = [receipt for receipt in self.receipts if receipt.job[:RUN_ID_LENGTH] in failed]


def by_run(gathered: Iterable[Gathered], generated: Mapping[str, Mapping[str, Generated]]) -> dict[str, Fresh]:
    """What is new, by run id. `generated` is by run and job."""
    news: dict[str, Fresh] = {}
    for each in gathered:
        for job, fact in each.facts.items():
            news.setdefault(job[:RUN_ID_LENGTH], Fresh()).facts[job] = fact
        for job in each.absent:
            news.setdefault(job[:RUN_ID_LENGTH], Fresh()).absent.append(job)
        for receipt in each.receipts:
            news.setdefault(receipt.job[:RUN_ID_LENGTH], Fresh()).receipts.append(receipt)
    for run_id, tasks in generated.items():
        news.setdefault(run_id, Fresh()).generated.update(tasks)
    return news
