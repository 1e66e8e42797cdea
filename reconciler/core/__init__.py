"""Pure decisions: data and `now` in, data out. No I/O, no clock, no randomness, no logging.

    owed(revisions, heads, now)              -> runs that should exist and do not        trigger.py
    share(demands, caps)                     -> room for each run on each backend        room.py
    plan(run, record, news, room, now)       -> Plan(record, changed, actions, wake_at)  plan.py

Imports only itself, `reconciler.errors` and the pure part of the standard library; tests/test_architecture.py checks it.
"""
