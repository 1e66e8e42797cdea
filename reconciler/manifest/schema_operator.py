"""What the operator declares: Settings, Source, Notification, and Stack (which a source may declare for itself)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from reconciler.manifest.schema_base import (
    KIND_NOT_YET,
    NOT_YET,
    Command,
    Commit,
    Count,
    CountOrZero,
    DurationS,
    GitUrl,
    Glob,
    Line,
    MemoryMB,
    Metadata,
    Model,
    NotEmpty,
    Number,
    ObjectName,
    PathText,
    RefName,
    SuspendSpec,
    Text,
    TimeLimitS,
    Token,
    Value,
    Variable,
    at_least,
)
from reconciler.manifest.schema_env import EnvGroups, EnvRules
from reconciler.manifest.schema_workflow import TriggerSpec

DEFAULT_INCLUDE = (".hut/**/*.yaml", ".hut/workflows/*.json")
SourceKind = Literal["Workflow", "Stack", "Run"]


class DeleteGuardSpec(Model):
    """What a commit may remove at once without a person's word."""

    share: Number | None = Field(default=None, gt=0, le=1, description="Share of a source's objects. Default 0.5.")
    min: CountOrZero | None = Field(default=None, description="Fewer than so many are always removed. Default 3.")


class LimitsSpec(Model):
    """What may happen without a person's word."""

    runs_per_commit: CountOrZero | None = Field(
        default=None, description="Runs that one cause (a commit, an edit, a new source) may start. Default 100."
    )
    core_hours_per_run: Number | None = Field(
        default=None, gt=0, description="Core-hours that one run may ask for: cpus times time_limit over all its tasks. Default: no limit."
    )
    delete_guard: DeleteGuardSpec = Field(
        default=DeleteGuardSpec(),
        description="A commit that removes more than this removes nothing; the Source stalls until `approve: <commit>`.",
    )


class RetentionSpec(Model):
    """How long what has ended is kept. A run's identity and outcome are kept for ever, so that it never runs twice."""

    runs: Annotated[DurationS, at_least(3600)] = Field(
        default=90 * 86400.0, description="Tasks, environment and job folders of runs that ended. Default 90d."
    )
    events: Annotated[DurationS, at_least(3600)] = Field(default=30 * 86400.0, description="Events. Default 30d.")


class LogSpec(Model):
    """What the daemon writes to its standard error."""

    format: Literal["auto", "console", "json"] = Field(default="auto", description="auto: console on a terminal, else json.")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="The least level that is written.")


class PricingSpec(Model):
    """What a core-hour costs."""

    region: Line = Field(default="us-east-1", description="The cloud region whose prices hold.")
    price_type: Literal["ondemand", "spot_avg", "spot_min", "spot_max"] = Field(default="ondemand", description="Which price.")
    partitions: dict[Line, Line] = Field(default={}, description="The instance type that stands for each partition.")
    source: Line = Field(default="", description="A file or url with the table of prices.")


class SettingsSpec(Model):
    """The daemon's own settings."""

    state_dir: PathText = Field(
        default=".state", description="Where it remembers: ledger, spool, git objects. Relative to this file. Never a network file system."
    )
    status_dir: PathText = Field(default="status", description="Where it writes status files. Relative to this file.")
    listen: Line = Field(default="127.0.0.1:8765", description="Address and port of the status page (which comes in a later release).")
    poll_interval: Annotated[DurationS, at_least(0.1)] = Field(
        default=10.0, description="How often a backend is looked at when nothing happens. Default 10s."
    )
    source_interval: Annotated[DurationS, at_least(1)] = Field(
        default=60.0, description="How often a remote git source is asked that names no interval. Default 1m."
    )
    status_interval: Annotated[DurationS, at_least(1)] = Field(
        default=1.0, description="A status file is written at most once in this time. Default 1s."
    )
    env: EnvRules = Field(default=(), description="Environment rules of all tasks on all backends.")
    env_groups: EnvGroups = Field(default={}, description="Named groups of rules, for `include`, also by workflows.")
    limits: LimitsSpec = Field(default=LimitsSpec(), description="What may happen without a person's word.")
    retention: RetentionSpec = Field(default=RetentionSpec(), description="How long what has ended is kept.")
    log: LogSpec = Field(default=LogSpec(), description="What the daemon writes to its standard error.")
    pricing: Annotated[PricingSpec | None, NOT_YET] = Field(default=None, description="What a core-hour costs.")


class Settings(Model):
    """The daemon's own settings: exactly one; its name is the instance."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Literal["Settings"] = Field(description="Settings.")
    metadata: Metadata = Field(description="The instance's name: part of every run's id, so choose it once.")
    spec: SettingsSpec = Field(default=SettingsSpec(), description="What is asked for.")


class GitSpec(Model):
    """A git repository, at a branch, a tag or a commit."""

    url: GitUrl = Field(
        repr=False, description="https://…, ssh://user@host/…, user@host:path, or file:///absolute/path (watched, not polled)."
    )
    branch: RefName | None = Field(default=None, description="The branch to follow. Left out, with tag and commit: main.")
    tag: RefName | None = Field(default=None, description="The tag to follow.")
    commit: Commit | None = Field(default=None, description="The one commit to use, all 40 digits.")
    deploy_key: PathText = Field(default="", description="File with the private ssh key. Relative to this file.")
    known_hosts: PathText = Field(
        default="", description="File with the host keys to trust. Left out: ~/.ssh/known_hosts. An unknown host is refused."
    )
    interval: Annotated[DurationS, at_least(1)] | None = Field(
        default=None, description="How often to ask. Left out: the Settings' source_interval."
    )
    timeout: Annotated[DurationS, at_least(1)] = Field(
        default=60.0, description="A fetch that takes longer is given up and tried again. Default 60s."
    )
    verify: Annotated[Line | bool | dict[str, object] | None, NOT_YET] = Field(
        default=None, description="Whose signatures commits must have."
    )

    @model_validator(mode="after")
    def _one_ref(self) -> GitSpec:
        given = [name for name in ("branch", "tag", "commit") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"write one of branch, tag and commit (found {' and '.join(given)})")
        return self


class AllowSpec(Model):
    """What the documents of a source may do."""

    kinds: tuple[SourceKind, ...] = Field(default=("Workflow", "Stack", "Run"), description="Kinds that it may declare.")
    backends: tuple[ObjectName, ...] = Field(default=(), description="Backends that it may use, besides its own `backend`.")


class SourceSpec(Model):
    """More manifests, from a git repository or a folder. Sources that share a backend's user trust each other."""

    git: GitSpec | None = Field(default=None, description="A git repository.")
    path: PathText = Field(default="", description="A folder of this machine, watched. Relative to this file.")
    include: NotEmpty[Glob] = Field(default=DEFAULT_INCLUDE, description="Patterns of the files to read; `**` crosses folders.")
    backend: ObjectName | None = Field(default=None, description="Used where a document names none; always allowed.")
    allow: AllowSpec = Field(default=AllowSpec(), description="What its documents may do.")
    trigger: TriggerSpec | None = Field(
        default=None, description="For its task-list files, which say nothing of it themselves. Left out: manual."
    )
    workdir: Literal["repo", "file"] | None = Field(
        default=None,
        description="Where relative working directories begin: the source's root or the file's folder. "
        "Left out: repo for files under .hut/, else file.",
    )
    checkout: Annotated[Literal["commit", "run"] | None, NOT_YET] = Field(
        default=None, description="Which checkout a job of a git source runs in."
    )
    limits: LimitsSpec = Field(default=LimitsSpec(), description="Instead of the Settings' limits.")
    suspend: SuspendSpec | None = Field(default=None, description="While it stands, the source is not looked at and starts nothing new.")
    approve: Token | None = Field(default=None, description="The commit whose removals or runs you approve, when the source waits for it.")

    @model_validator(mode="after")
    def _one_place(self) -> SourceSpec:
        if (self.git is None) == (not self.path):
            raise ValueError("write either git or path")
        return self


class Source(Model):
    """Where more manifests come from."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Literal["Source"] = Field(description="Source.")
    metadata: Metadata = Field(description="Name and labels. What it brings in is called <name>/….")
    spec: SourceSpec = Field(description="What is asked for.")


class NotificationSelect(Model):
    """Which objects are told about. Left out: all."""

    workflows: tuple[Line, ...] = Field(default=(), description="Names, with * and ?.")
    sources: tuple[Line, ...] = Field(default=(), description="Names of sources, with * and ?.")
    labels: dict[str, Value] = Field(default={}, description="Labels that must have these values.")


class NotificationTarget(Model):
    """Where it is sent."""

    webhook: Line = Field(default="", description="A url that is sent the event as JSON.")
    secret_file: PathText = Field(default="", description="File with the key that signs what is sent.")
    email: tuple[Line, ...] = Field(default=(), description="Addresses.")
    slack: Line = Field(default="", description="Name of a declared secret with a webhook of Slack.")
    commit_status: Annotated[bool, Field(strict=True)] = Field(default=False, description="Say it at the commit, on the git server.")


class NotificationSpec(Model):
    """Who is told what."""

    events: NotEmpty[Line] = Field(description="Names of events, as `reconciler events` shows them: RunFailed, Stalled, ….")
    select: NotificationSelect = Field(default=NotificationSelect(), description="Which objects are told about.")
    to: NotificationTarget = Field(description="Where it is sent.")
    suspend: SuspendSpec | None = Field(default=None, description="While it stands, nothing is sent.")


class Notification(Model):
    """Who is told what. The kind is not supported yet."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Annotated[Literal["Notification"], KIND_NOT_YET] = Field(description="Notification.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: NotificationSpec = Field(description="What is asked for.")


class StackSpec(Model):
    """A software environment that is built once for each content of its recipe, and kept."""

    backends: tuple[ObjectName, ...] = Field(default=(), description="Where it is present. Left out: where it is used.")
    cache_dir: PathText = Field(default="~/.cache/scripthut/stacks", description="Folder on the backend that holds it.")
    inputs: dict[Variable, Value] = Field(default={}, description="Values that the recipe sees and that decide its hash.")
    input_files: tuple[PathText, ...] = Field(default=(), description="Files whose content decides its hash. Relative to this file.")
    prep: Command = Field(default="", description="Shell text that builds it in STACK_DIR.")
    init: Annotated[Text, StringConstraints(max_length=100_000)] = Field(
        default="", description="Shell text that a task using it runs first."
    )
    cpus: Count = Field(default=1, description="Processor cores for building.")
    memory: MemoryMB = Field(default=4096, description="Memory for building.")
    time_limit: TimeLimitS = Field(default=3600, description="Time limit for building.")
    partition: Line = Field(default="", description="Partition for building.")
    keep: Count = Field(default=2, description="Hashes that are kept besides those in use.")
    rebuild: Token | None = Field(default=None, description="Any new text here builds it again.")
    suspend: SuspendSpec | None = Field(default=None, description="While it stands, it is not built.")


class Stack(Model):
    """A software environment, present at its hash on the named backends. The kind is not supported yet."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Annotated[Literal["Stack"], KIND_NOT_YET] = Field(description="Stack.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: StackSpec = Field(description="What is asked for.")
