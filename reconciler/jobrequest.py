"""A task of a run, as the request that a backend is sent. Pure; called by controller.py when it carries out a Submit.

What is known only now (attempt, job name, backend) joins the environment here; everything else was resolved when the run was made.
"""

from __future__ import annotations

from reconciler.backends.base import JobRequest
from reconciler.core.cost import asked
from reconciler.core.desired import Run, Task
from reconciler.core.names import job_name
from reconciler.core.record import TaskRecord


def job_request(run: Run, task: Task, record: TaskRecord, login_shell: bool) -> JobRequest:
    """What the attempt of `task` that `record` is at asks of its backend: more than declared after an OOM or a TIMEOUT, if
    `retry.escalate` says so."""
    job = job_name(run.id, task.id, record.attempt)
    resources = asked(task, record.ooms, record.timeouts)
    return JobRequest(
        job=job,
        run=run.id,
        task=task.id,
        command=task.command,
        working_dir=task.working_dir,
        env=(*_seed(task, record.attempt, job), *task.env),
        init=task.init,
        resources=resources,
        declared=None if resources == task.resources else task.resources,
        output_file=task.output_file,
        error_file=task.error_file,
        image=task.image,
        login_shell=login_shell,
        requeue=task.requeue,
    )


def _seed(task: Task, attempt: int, job: str) -> tuple[tuple[str, str], ...]:
    """The protected variables that are known only now, first, so that rules may use them; no rule can set them. Those of the run
    (SCRIPTHUT_RUN_ID, …) were resolved when it was made. Names as in ScriptHut, and ours beyond them."""
    return (
        ("SCRIPTHUT_TASK_ID", task.id),
        ("SCRIPTHUT_TASK_NAME", task.name or task.id),
        ("SCRIPTHUT_ATTEMPT", str(attempt)),
        ("SCRIPTHUT_JOB_NAME", job),
    )
