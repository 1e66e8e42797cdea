"""Tasks as written, in a Workflow's `spec.tasks`, in a ScriptHut task-list file, or in the file that a generator writes.

Names, defaults and meanings of ScriptHut, so that a task pasted from one of its JSON files is already right.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, field_validator, model_validator

from reconciler.core.desired import RETRYABLE, Cause, When
from reconciler.manifest.schema_base import (
    IN_DIGEST,
    NOT_YET,
    NOT_YET_UNLESS_FALSE,
    OUT_OF_DIGEST,
    Command,
    Count,
    DurationS,
    GroupName,
    Line,
    MemoryMB,
    Model,
    Need,
    NotEmpty,
    Number,
    ObjectName,
    PathText,
    Switch,
    TaskId,
    TimeLimitS,
    Value,
    Variable,
)
from reconciler.manifest.schema_env import EnvGroups, EnvRules

#: More tries than this are a loop, not a retry.
RETRIES_MAX = 100
#: So that one workflow can be tried at home and sent to a cluster.
_LOCAL_IS_BLIND = "A local backend has none and does not look at it."


def _option(text: str) -> str:
    if not re.fullmatch(r"--[a-z][a-z0-9-]*(?:=.*)?|-[A-Za-z]", text):
        raise ValueError("write one option as one text: --exclusive, --mail-type=END")
    return text


class EscalateSpec(Model):
    """What a retry asks more of than the try before it, when that was ended for want of it. No other failure raises anything."""

    memory: Annotated[Number, OUT_OF_DIGEST] = Field(
        default=1.0, ge=1, le=10, description="Factor on `memory` for each time that it ran out of memory (oom)."
    )
    time_limit: Annotated[Number, OUT_OF_DIGEST] = Field(
        default=1.0, ge=1, le=10, description="Factor on `time_limit` for each time that it ran into it (timeout)."
    )


class RetrySpec(Model):
    """How often, for what and how soon a task is tried again."""

    limit: Annotated[int, OUT_OF_DIGEST] = Field(default=0, ge=0, le=RETRIES_MAX, description="Tries beyond the first.")
    on: Annotated[tuple[Cause, ...], OUT_OF_DIGEST] = Field(
        default=(Cause.EXIT, Cause.TIMEOUT, Cause.OOM, Cause.PREEMPTED),
        description="Causes to try again for: exit, timeout, oom, node_fail, preempted, lost. "
        "Default: all but node_fail and lost, after which the old process may still be at work where nobody can see it.",
    )
    backoff: Annotated[DurationS, OUT_OF_DIGEST] = Field(
        default=0.0, description="Wait before the first retry; doubled for each further one, up to an hour."
    )
    escalate: Annotated[EscalateSpec, OUT_OF_DIGEST] = Field(
        default=EscalateSpec(), description="How much more is asked for after running out of it, up to what the partition allows."
    )

    @field_validator("on")
    @classmethod
    def _retryable(cls, causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
        wrong = [cause.value for cause in causes if cause not in RETRYABLE]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} cannot be tried again; known: {', '.join(sorted(RETRYABLE))}")
        return causes


class TaskSpec(Model):
    """One command of a workflow."""

    id: Annotated[TaskId, IN_DIGEST] = Field(description="Unique in the workflow. Letters, digits, '.', '_', '-'; dots group (`build.x`).")
    name: Annotated[Line, IN_DIGEST] = Field(default="", description="A title for people, and SCRIPTHUT_TASK_NAME. Left out: the id.")
    command: Annotated[Command, IN_DIGEST] = Field(min_length=1, description="Shell text. It decides by its exit code: 0 is success.")
    deps: Annotated[tuple[Need, ...], IN_DIGEST] = Field(
        default=(),
        validation_alias=AliasChoices("deps", "dependencies"),
        description="Ids of tasks that must have ended first, or patterns with * ? [..] over all ids of the workflow. Also `dependencies`.",
    )
    working_dir: Annotated[PathText, IN_DIGEST] = Field(
        default="~",
        description="Where the command runs. Absolute or `~/…`: there. Relative, or `~` (the default): from the folder that the "
        "Source's `workdir` says; in the operator's own folder from the root for files under .hut/, else from the file's own folder. "
        "Tasks of a git Source, and all on a Backend with `ssh`, have no such folder yet: they run in a folder of the job's own unless "
        "this is absolute or `~/…`.",
    )
    backend: Annotated[ObjectName | None, IN_DIGEST] = Field(
        default=None, description="The Backend for this task. Left out: the workflow's."
    )
    partition: Annotated[Line, IN_DIGEST] = Field(
        default="", description=f"Partition or queue. {_LOCAL_IS_BLIND}"
    )
    cpus: Annotated[Count, IN_DIGEST] = Field(default=1, description="Processor cores.")
    memory: Annotated[MemoryMB, IN_DIGEST] = Field(default=4096, description="Memory: 4G, 512M; a number alone is mebibytes. Default 4G.")
    time_limit: Annotated[TimeLimitS, IN_DIGEST] = Field(
        default=3600,
        description="The task is ended after this long: 1:00:00, 90m; a number alone is minutes, as Slurm means it. Default 1:00:00.",
    )
    gres: Annotated[Line, IN_DIGEST] = Field(
        default="", description=f"Generic resources, as `gpu:2`. {_LOCAL_IS_BLIND}"
    )
    image: Annotated[Line, IN_DIGEST, NOT_YET] = Field(default="", description="Container image.")
    output_file: Annotated[PathText, IN_DIGEST] = Field(
        default="", description="File for standard output, relative to `working_dir`. Left out: `out` in the job's own folder."
    )
    error_file: Annotated[PathText, IN_DIGEST] = Field(default="", description="File for standard error, likewise.")
    env: Annotated[EnvRules, IN_DIGEST] = Field(default=(), description="Environment rules of this task; evaluated last.")
    environment: Annotated[GroupName | None, IN_DIGEST] = Field(
        default=None, description="ScriptHut's old word: the name of a group of `env_groups` to include. An unknown one is a warning."
    )
    env_vars: Annotated[dict[Variable, Value], IN_DIGEST] = Field(default={}, description="ScriptHut's old word for one rule `set`.")
    generates_source: Annotated[PathText, IN_DIGEST] = Field(
        default="",
        description="A task-list file that the command writes, relative to `working_dir`: "
        "its tasks join the run when this one has succeeded.",
    )
    when: Annotated[When, IN_DIGEST] = Field(
        default=When.SUCCESS,
        description="success: all needs succeeded. failure: at least one did not. always. All needs must have ended in any case.",
    )
    allow_failure: Annotated[bool, IN_DIGEST] = Field(
        default=False, strict=True, description="The run can succeed, and dependents go on, when this task fails."
    )
    retry: Annotated[RetrySpec, OUT_OF_DIGEST] = Field(
        default=RetrySpec(), description="How often, for what and how soon it is tried again."
    )
    inputs: Annotated[tuple[Line, ...], IN_DIGEST, NOT_YET] = Field(default=(), description="Files that the result depends on.")
    outputs: Annotated[tuple[Line, ...], IN_DIGEST, NOT_YET] = Field(default=(), description="Files that the task makes.")
    cache: Annotated[bool | None, IN_DIGEST, NOT_YET_UNLESS_FALSE] = Field(
        default=None, description="Take the result from the cache if it is known."
    )
    cache_scope: Annotated[Literal["commit", "inputs"] | None, IN_DIGEST, NOT_YET] = Field(
        default=None, description="What a cached result depends on."
    )
    nodes: Annotated[Count | None, IN_DIGEST] = Field(
        default=None,
        description="Machines to spread over. Left out: as the scheduler sees fit. A local backend has one; the command starts once.",
    )
    ntasks: Annotated[Count, IN_DIGEST] = Field(
        default=1,
        description="Processes, each with `cpus`, for the MPI launcher in the command (srun, mpirun). `memory` is that of one machine. "
        "A local backend starts the command once, whatever is written here.",
    )
    account: Annotated[Line, IN_DIGEST] = Field(default="", description=f"Account to charge. Left out: the Backend's. {_LOCAL_IS_BLIND}")
    qos: Annotated[Line, IN_DIGEST] = Field(default="", description=f"Quality of service. {_LOCAL_IS_BLIND}")
    constraint: Annotated[Line, IN_DIGEST] = Field(default="", description=f"Features that the machine must have. {_LOCAL_IS_BLIND}")
    reservation: Annotated[Line, IN_DIGEST] = Field(default="", description=f"Reservation to run in. {_LOCAL_IS_BLIND}")
    licenses: Annotated[Line, IN_DIGEST] = Field(default="", description=f"Licences to hold while it runs. {_LOCAL_IS_BLIND}")
    scheduler_args: Annotated[tuple[Annotated[Line, AfterValidator(_option)], ...], IN_DIGEST] = Field(
        default=(),
        description="Further options for the submit command, `--name` or `--name=value` each, of those that the Backend's `scheduler_args` "
        f"names. {_LOCAL_IS_BLIND}",
    )
    # out: like `retry`, it says what happens after a failure of the machine, not what is computed
    requeue: Annotated[Switch, OUT_OF_DIGEST] = Field(
        default=False,
        description="Let the scheduler start it again by itself, from the beginning, after a failure of its machine or when a job of "
        "higher priority took its place. A machine that only seemed dead can then leave the old process running beside the new one. "
        "A local backend does not look at it.",
    )
    matrix: Annotated[dict[Variable, tuple[Value, ...]], IN_DIGEST, NOT_YET] = Field(
        default={}, description="One task for each combination of these values."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_spelling(cls, data: Any) -> Any:
        if isinstance(data, dict) and "deps" in data and "dependencies" in data:
            raise ValueError("deps and dependencies are the same: write one of them")
        return data


class TaskList(Model):
    """A ScriptHut task-list file: an object with these keys, or the bare list of `tasks`."""

    tasks: Annotated[NotEmpty[TaskSpec], IN_DIGEST] = Field(description="The tasks.")
    env: Annotated[EnvRules, IN_DIGEST] = Field(default=(), description="Environment rules of all tasks.")
    env_groups: Annotated[EnvGroups, IN_DIGEST] = Field(default={}, description="Named groups of rules, for `include`.")
    title: Annotated[Line, OUT_OF_DIGEST] = Field(default="", description="A title for people.")

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, data: Any) -> Any:
        if isinstance(data, (list, tuple)):
            return {"tasks": data}
        return data


class GeneratedTasks(TaskList):
    """The same form, written by a generator: it may find that there is nothing to do."""

    tasks: Annotated[tuple[TaskSpec, ...], IN_DIGEST] = Field(description="The tasks to add to the run.")
