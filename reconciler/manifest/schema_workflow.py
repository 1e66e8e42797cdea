"""Workflow and Run as written: what should have been run, and what is asked for by hand."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from reconciler.core.desired import Concurrency, OnDelete, Trigger
from reconciler.core.env import PROTECTED
from reconciler.manifest.schema_base import (
    IN_DIGEST,
    NOT_SUPPORTED_YET,
    NOT_YET,
    OUT_OF_DIGEST,
    Command,
    Count,
    Glob,
    Line,
    Metadata,
    Model,
    NotEmpty,
    ObjectName,
    QualifiedName,
    RunId,
    SuspendSpec,
    Token,
    Value,
    Variable,
)
from reconciler.manifest.schema_env import EnvGroups, EnvRules
from reconciler.manifest.schema_task import TaskSpec

_LATER = frozenset({Trigger.STACK, Trigger.SCHEDULE})


def _supported(trigger: Trigger) -> Trigger:
    if trigger in _LATER:
        raise ValueError(f"trigger {trigger.value!r} is {NOT_SUPPORTED_YET}")
    return trigger


class TriggerSpec(Model):
    """What makes a workflow owe a run."""

    on: Annotated[tuple[Annotated[Trigger, AfterValidator(_supported)], ...], OUT_OF_DIGEST] = Field(
        default=(),
        description="change: a digest that has no run yet. paths: also when a file of `paths` changes. commit: every commit of the source. "
        "manual: only a rerun token or a Run. stack, schedule: not supported yet. Default: change; with `paths`, paths.",
    )
    paths: Annotated[tuple[Glob, ...], OUT_OF_DIGEST] = Field(
        default=(), description="Patterns of files of the source (`src/**`): what they match enters the digest."
    )
    schedule: Annotated[Line, OUT_OF_DIGEST, NOT_YET] = Field(default="", description="A cron line.")
    timezone: Annotated[Line, OUT_OF_DIGEST, NOT_YET] = Field(default="", description="The time zone of `schedule`, as Europe/Vienna.")
    catch_up: Annotated[Literal["none", "latest", "all"] | None, OUT_OF_DIGEST, NOT_YET] = Field(
        default=None, description="Which times of `schedule` to run that passed while the daemon was down."
    )

    @model_validator(mode="after")
    def _agree(self) -> TriggerSpec:
        if Trigger.MANUAL in self.on and len(set(self.on)) > 1:
            raise ValueError("on: manual means nothing else starts it; write it alone")
        if Trigger.PATHS in self.on and not self.paths:
            raise ValueError("on: paths needs the patterns: paths: ['src/**']")
        if self.paths and self.on and Trigger.PATHS not in self.on:
            raise ValueError("paths is only looked at with on: [paths]")
        return self

    def triggers(self) -> frozenset[Trigger]:
        """What is meant, with the default filled in."""
        return frozenset(self.on) or frozenset({Trigger.PATHS if self.paths else Trigger.CHANGE})


class WorkflowSpec(Model):
    """Tasks and how they are run."""

    backend: Annotated[ObjectName | None, IN_DIGEST] = Field(
        default=None, description="The Backend. Left out: the Source's, else the only one there is, else the one named `local`."
    )
    title: Annotated[Line, OUT_OF_DIGEST] = Field(default="", description="A title for people.")
    tasks: Annotated[NotEmpty[TaskSpec], IN_DIGEST] = Field(description="The tasks, in any order.")
    command: Annotated[Command, IN_DIGEST, NOT_YET] = Field(default="", description="A command that prints the tasks.")
    env: Annotated[EnvRules, IN_DIGEST] = Field(default=(), description="Environment rules of all tasks.")
    env_groups: Annotated[EnvGroups, IN_DIGEST] = Field(default={}, description="Named groups of rules, for `include`.")
    trigger: Annotated[TriggerSpec, OUT_OF_DIGEST] = Field(default=TriggerSpec(), description="What makes it run.")
    rerun: Annotated[Token | None, IN_DIGEST] = Field(default=None, description="Any new text here asks for one more run.")
    approve: Annotated[Token | None, OUT_OF_DIGEST] = Field(
        default=None, description="The digest or commit that you approve, when a run waits for it. A changed digest voids it."
    )
    suspend: Annotated[SuspendSpec | None, OUT_OF_DIGEST] = Field(
        default=None, description="While it stands, no run and no task of it is started."
    )
    concurrency: Annotated[Concurrency, OUT_OF_DIGEST] = Field(
        default=Concurrency.QUEUE,
        description="A new digest while a run is alive: queue (waits; the newest waiting wins), "
        "allow (runs beside it), replace (cancels it).",
    )
    on_delete: Annotated[OnDelete, OUT_OF_DIGEST] = Field(
        default=OnDelete.FINISH, description="When the document is removed: finish (what waits is dropped), cancel, orphan (goes on)."
    )
    max_concurrent: Annotated[Count | None, OUT_OF_DIGEST] = Field(
        default=None, description="Jobs of one run at a time. Left out: as many as the backend takes."
    )
    priority: Annotated[int | None, OUT_OF_DIGEST, NOT_YET] = Field(default=None, description="Which run goes first.")


class Workflow(Model):
    """A graph of tasks that should have been run at its current digest."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Literal["Workflow"] = Field(description="Workflow.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: WorkflowSpec = Field(description="What is asked for.")


def _free(name: str) -> str:
    if name.startswith(PROTECTED):
        raise ValueError(f"{PROTECTED}* is ours")
    return name


Parameter = Annotated[Variable, AfterValidator(_free)]


class RunSpec(Model):
    """A new run of a workflow (`workflow`, `backend`, `parameters`), or a change of one that exists (`run`, `state`, `suspend`)."""

    workflow: QualifiedName | None = Field(default=None, description="The Workflow to run: its name, or `<source>/<name>`.")
    revision: Line = Field(default="", description="The commit or digest to run it at: until the workflow is at that, the run waits.")
    backend: ObjectName | None = Field(default=None, description="The Backend. Left out: the workflow's.")
    parameters: dict[Parameter, Value] = Field(
        default={}, description="Variables for every task; they win over all environment rules."
    )
    run: RunId | None = Field(default=None, description="The id of a run that exists, to change it.")
    state: Literal["cancelled"] | None = Field(default=None, description="cancelled: end it. It cannot be taken back.")
    suspend: SuspendSpec | None = Field(default=None, description="While it stands, no further task of the run is started.")
    approve: Token | None = Field(default=None, description="The digest or commit that you approve, when the run waits for it.")

    @model_validator(mode="after")
    def _one_of_two(self) -> RunSpec:
        if (self.workflow is None) == (self.run is None):
            raise ValueError("write either workflow (for a new run) or run (for a change of one that exists)")
        if self.run is not None and (self.backend is not None or self.parameters):
            raise ValueError("a run that exists keeps its backend and parameters; ask for a new one with workflow")
        if self.run is None and self.state is not None:
            raise ValueError("state belongs to run: the id of a run that exists")
        if self.run is not None and self.state is None and self.suspend is None and self.approve is None:
            raise ValueError("run needs what to change: state, suspend or approve")
        return self


class Run(Model):
    """One execution asked for by hand, or a change of one that exists."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Literal["Run"] = Field(description="Run.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: RunSpec = Field(description="What is asked for.")
