"""Carrying out what was planned and saved: the actions of all runs, by backend. Called by controller.py at the end of a cycle.

Nothing here waits for a backend: what comes back arrives as receipts, and what does not, the next looks settle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reconciler.aside import aside
from reconciler.backends.base import CancelRequest, FileRequest, JobRequest
from reconciler.core.actions import Cancel, Fetch, Forget, Submit
from reconciler.fleet import Step
from reconciler.jobrequest import job_request
from reconciler.outlook import GENERATED_BYTES_MAX, Outlook

#: Above so many submissions they are put together on a thread: each takes some 10 µs, and the loop has others to serve.
MANY = 500


async def carry_out(steps: Sequence[Step], outlooks: Mapping[str, Outlook]) -> None:
    """Begin everything that `steps` ask for; returns when it is under way."""
    cancels: dict[str, list[CancelRequest]] = {}
    forgets: dict[str, list[str]] = {}
    for step in steps:
        for action in step.actions:
            match action:
                case Cancel():
                    cancels.setdefault(action.backend, []).append(CancelRequest(action.job, action.job_id, action.kill))
                case Forget():
                    forgets.setdefault(action.backend, []).append(action.job)
                case Fetch():
                    working_dir = step.record.known[action.task].working_dir
                    outlooks[action.backend].fetch(FileRequest(action.job, action.path, working_dir, bytes_max=GENERATED_BYTES_MAX + 1))
                case Submit():
                    pass  # below: there may be very many
        for backend, at in (step.look_at or {}).items():
            outlooks[backend].look_by(at)
    submits = await _submits(steps, outlooks)
    for name, outlook in list(outlooks.items()):
        outlook.drop(forgets.get(name, ()))
        if name in cancels:
            outlook.cancel(cancels[name])
        if name in submits:
            outlook.submit(submits[name])


async def _submits(steps: Sequence[Step], outlooks: Mapping[str, Outlook]) -> Mapping[str, list[JobRequest]]:
    wanted = [(step, action) for step in steps for action in step.actions if isinstance(action, Submit)]
    login = {name: bool(outlook.spec.options.get("login_shell", False)) for name, outlook in outlooks.items()}

    def requests() -> dict[str, list[JobRequest]]:
        found: dict[str, list[JobRequest]] = {}
        for step, action in wanted:
            request = job_request(step.run, step.record.known[action.task], step.record.tasks[action.task], login[action.backend])
            found.setdefault(action.backend, []).append(request)
        return found

    return await aside(requests) if len(wanted) > MANY else requests()
