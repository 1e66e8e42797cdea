"""The durable memory: one SQLite file in the state folder, one writer, one transaction for each plan, and its readers.

rows.py        what goes in (Batch) and what comes out          writer.py      Ledger: the only writer
folder.py      whose folder, which disk, who holds it           read.py        LedgerReader: beside a daemon or without one
schema.py      tables, migrations, SQLite's errors by table     retention.py   what may be forgotten
traces.py      is this ledger the newest that acted             recovery.py    a lost ledger, rebuilt from spools and status files
"""

from reconciler.ledger.folder import Holder
from reconciler.ledger.read import LedgerReader
from reconciler.ledger.rows import (
    Appended,
    Batch,
    Identity,
    NewRun,
    ObjectRow,
    RunChange,
    RunRow,
    StoredEvent,
    StoredRun,
    TaskChange,
    UsageChange,
)
from reconciler.ledger.traces import Owner, check_traces
from reconciler.ledger.writer import Ledger

__all__ = [
    "Appended",
    "Batch",
    "Holder",
    "Identity",
    "Ledger",
    "LedgerReader",
    "NewRun",
    "ObjectRow",
    "Owner",
    "RunChange",
    "RunRow",
    "StoredEvent",
    "StoredRun",
    "TaskChange",
    "UsageChange",
    "check_traces",
]
