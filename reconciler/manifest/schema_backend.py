"""Backend as written: a place where jobs run. One model for all types, so that an editor knows every field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from reconciler.manifest.schema_base import (
    NOT_SUPPORTED_YET,
    NOT_YET,
    Count,
    DurationS,
    Line,
    Metadata,
    Model,
    PathText,
    SuspendSpec,
    Switch,
    at_least,
)
from reconciler.manifest.schema_env import EnvGroups, EnvRules

BackendType = Literal["local", "slurm", "pbs", "batch", "ec2", "workstation"]
SUPPORTED_TYPES = frozenset({"local", "slurm"})
#: Types whose jobs a batch system runs: reached over ssh, or from its login node itself.
CLUSTER_TYPES = frozenset({"slurm"})
#: Below this a scheduler is asked for nothing: its own cycle takes longer.
POLL_MIN_S = 0.5
#: The word for `known_hosts` that trusts a host the first time it is seen.
ACCEPT_NEW = "accept-new"


def _supported(value: str) -> str:
    if value not in SUPPORTED_TYPES:
        raise ValueError(f"type {value} is {NOT_SUPPORTED_YET} (supported: {', '.join(sorted(SUPPORTED_TYPES))})")
    return value


@dataclass(frozen=True, slots=True)
class Only:
    """Refuses a field on a backend of another type than `types`. A validator; describe.py reads `types`."""

    types: tuple[str, ...]

    def __call__(self, value: object, info: ValidationInfo) -> object:
        given = info.data.get("type")  # absent when `type` itself is wrong, which is said there
        if given is None or given in self.types or value is None:
            return value
        known = [each for each in self.types if each in SUPPORTED_TYPES]
        if known:
            raise ValueError(f"{info.field_name} belongs to type {' and '.join(known)}, and this backend is of type {given}")
        raise ValueError(f"{info.field_name} belongs to type {' and '.join(self.types)}, which is {NOT_SUPPORTED_YET}")


def only(*types: str) -> BeforeValidator:
    """Marks a field that belongs to backends of these types; on another type, giving it is an error."""
    return BeforeValidator(Only(types))


def _here(value: object) -> object:
    """`host` has one word: every other machine is a login node, and is reached over ssh."""
    if value is None or value == "local":
        return value
    raise ValueError("host is only ever `local` (the daemon is on the login node itself); write another machine as ssh: {host: …}")


def _ssh_host(text: str) -> str:
    if "@" in text:
        raise ValueError("write the user apart: ssh: {user: …, host: …}")
    if not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?", text):
        raise ValueError("not a host name, an address, or an alias of ~/.ssh/config")
    return text


def _ssh_user(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@\\$+-]*", text):
        raise ValueError("not a user name")
    return text


def _ssh_jump(text: str) -> str:
    hop = r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?(?:[A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    if text and not re.fullmatch(rf"{hop}(?:,{hop})*", text):
        raise ValueError("write it as `ssh -J` takes it: [user@]host[:port], and several with commas between them")
    return text


def _option_name(text: str) -> str:
    if not re.fullmatch(r"--[a-z][a-z0-9-]*|-[A-Za-z]", text):
        raise ValueError("write the name of an option, without a value: --exclusive, --mail-type")
    return text


_NO_PASSWORD = (
    "is never used: a password in a file is no secret",
    "make a key (ssh-keygen), put it on the login node (ssh-copy-id), and name its file in key_path, or leave that to your ssh agent",
)
_NO_PASSPHRASE = ("is never used: a passphrase in a file protects nothing", "load the key into an ssh agent (ssh-add)")


class SshSpec(Model):
    """How the login node is reached. What is left out is looked up in `~/.ssh/config`, as ssh does."""

    refused: ClassVar[Mapping[str, tuple[str, str]]] = {"password": _NO_PASSWORD, "passphrase": _NO_PASSPHRASE}

    host: Annotated[Line, AfterValidator(_ssh_host)] = Field(description="Host name, address, or an alias of ~/.ssh/config.")
    port: Annotated[int, Field(strict=True, ge=1, le=65535)] | None = Field(
        default=None, description="Port. Left out: what ~/.ssh/config says, else 22."
    )
    user: Annotated[Line, AfterValidator(_ssh_user)] = Field(
        default="", description="User. Left out: what ~/.ssh/config says, else the daemon's."
    )
    key_path: PathText = Field(
        default="", description="File with the private key, relative to this file. Left out: the usual keys of ~/.ssh, and the agent."
    )
    cert_path: PathText = Field(default="", description="File with the certificate of the key, likewise.")
    known_hosts: PathText = Field(
        default="",
        description="File with the host keys to trust, relative to this file; an unknown host is refused. Left out: ~/.ssh/known_hosts. "
        "The word `accept-new`: a host is trusted the first time it is seen, and refused when its key has changed since.",
    )
    jump: Annotated[Line, AfterValidator(_ssh_jump)] = Field(
        default="", description="Hosts to go through, as `ssh -J` takes them: `[user@]host[:port]`, several with commas."
    )
    config: PathText = Field(
        default="", description="File of ssh's own settings, relative to this file. Left out: ~/.ssh/config, if there is one."
    )


class PollSpec(Model):
    """How often the scheduler is asked: soon while things move, seldom when nothing does, within these bounds."""

    min: Annotated[DurationS, at_least(POLL_MIN_S)] = Field(
        default=2.0, description="Never sooner than this after the last time. Default 2s."
    )
    max: Annotated[DurationS, at_least(POLL_MIN_S)] = Field(
        default=60.0, description="At the latest after this long, unless the scheduler answers slowly. Default 1m."
    )

    @model_validator(mode="after")
    def _in_order(self) -> PollSpec:
        if self.min > self.max:
            raise ValueError(f"min ({self.min:g}s) is above max ({self.max:g}s)")
        return self


class AwsSpec(Model):
    """Which account and region."""

    profile: Line = Field(default="", description="Profile of the AWS configuration.")
    region: Line = Field(default="", description="Region.")
    job_queue: Line = Field(default="", description="Job queue of Batch.")


class BackendSpec(Model):
    """A place where jobs run, with its type's own fields."""

    refused: ClassVar[Mapping[str, tuple[str, str]]] = {"password": _NO_PASSWORD, "passphrase": _NO_PASSPHRASE}

    type: Annotated[BackendType, AfterValidator(_supported)] = Field(
        description="local, slurm. Not supported yet: pbs, batch, ec2, workstation."
    )
    max_concurrent: Count | None = Field(
        default=None,
        description="Jobs at a time, of all runs, those that wait in the scheduler included. Left out: the number of processors; for slurm "
        "1000: one job array of Slurm's default size, and a tenth of the jobs that it holds by default, so that others have room.",
    )
    absence_grace: Annotated[DurationS, at_least(0)] = Field(
        default=30.0,
        description="How long a job must not be seen before it is believed gone: two complete looks, so far apart. Default 30s.",
    )
    login_shell: Switch = Field(default=False, description="Run commands in a login shell, which reads the user's profile.")
    env: EnvRules = Field(default=(), description="Environment rules of all tasks on this backend; evaluated first.")
    env_groups: EnvGroups = Field(default={}, description="Named groups of rules, for `include`.")
    spool: PathText = Field(
        default="",
        description="Folder for scripts, records and logs of jobs. local: relative to this file; left out: in the state folder. "
        "slurm: a folder of the cluster that login and compute nodes share, absolute or `~/…`; left out: `~/.reconciler`.",
    )
    state: Literal["active", "draining"] = Field(default="active", description="draining: what runs goes on, nothing new is sent.")
    suspend: SuspendSpec | None = Field(default=None, description="While it stands, nothing new is sent.")
    host: Annotated[Literal["local"] | None, BeforeValidator(_here), only("slurm", "pbs")] = Field(
        default=None, description="`local`: the daemon is on the login node itself, and needs no ssh. Either this or `ssh` is given."
    )
    ssh: Annotated[SshSpec | None, only("slurm", "pbs")] = Field(default=None, description="How the login node is reached.")
    account: Annotated[Line, only("slurm", "pbs")] = Field(default="", description="Account to charge, for tasks that name none.")
    partition_map: Annotated[dict[Line, Line], only("slurm")] = Field(
        default={}, description="The real partition for each name that tasks use."
    )
    default_partition: Annotated[Line, only("slurm")] = Field(
        default="", description="The partition of tasks that name none, or one that the map does not have. Left out: the name as it is."
    )
    array: Annotated[Literal["auto", "never"], only("slurm")] = Field(
        default="auto", description="auto: tasks that are ready together and ask for the same go out as one job array. never: one by one."
    )
    poll: Annotated[PollSpec, only("slurm", "pbs")] = Field(default=PollSpec(), description="How often the scheduler is asked.")
    clone_dir: Annotated[PathText, NOT_YET, only("slurm", "pbs")] = Field(default="", description="Folder for checkouts.")
    queue: Annotated[Line, only("pbs")] = Field(default="", description="The queue, instead of the tasks' partition.")
    scheduler_args: Annotated[tuple[Annotated[Line, AfterValidator(_option_name)], ...], only("slurm", "pbs")] = Field(
        default=(), description="Names of options of the submit command that tasks may use in theirs: `--exclusive`, `--mail-type`."
    )
    aws: Annotated[AwsSpec | None, only("batch", "ec2")] = Field(default=None, description="Account and region.")
    default_image: Annotated[Line, only("batch", "ec2")] = Field(default="", description="Container image of tasks that name none.")
    job_definition: Annotated[Line, only("batch")] = Field(default="", description="Job definition.")
    job_definition_mode: Annotated[Literal["locked", "revisions"], only("batch")] = Field(
        default="locked", description="Use it as it is, or register revisions."
    )
    job_role_arn: Annotated[Line, only("batch")] = Field(default="", description="Role of the job.")
    execution_role_arn: Annotated[Line, only("batch")] = Field(default="", description="Role of whoever starts the job.")
    retry_attempts: Annotated[Annotated[int, Field(ge=1, le=10)], only("batch")] = Field(
        default=1, description="Tries that Batch makes by itself."
    )
    log_group: Annotated[Line, only("batch")] = Field(default="/aws/batch/job", description="Log group.")
    ami: Annotated[Line, only("ec2")] = Field(default="", description="Machine image.")
    subnet_id: Annotated[Line, only("ec2")] = Field(default="", description="Subnet.")
    security_group_ids: Annotated[tuple[Line, ...], only("ec2")] = Field(default=(), description="Security groups.")
    instance_types: Annotated[dict[Line, Line], only("ec2")] = Field(
        default={}, description="Instance type for each partition, and `default`."
    )
    instance_profile_arn: Annotated[Line, only("ec2")] = Field(default="", description="Instance profile.")
    ssh_user: Annotated[Line, only("ec2")] = Field(default="ec2-user", description="User on the instance.")
    max_instances: Annotated[Count, only("ec2")] = Field(default=20, description="Instances at a time.")
    idle_terminate: Annotated[DurationS, only("ec2")] = Field(
        default=1800.0, description="An instance without work is ended after this long."
    )
    startup_timeout: Annotated[DurationS, only("ec2")] = Field(default=600.0, description="An instance that is not ready by then is ended.")
    tag_prefix: Annotated[Line, only("ec2")] = Field(default="scripthut", description="Prefix of the tags on instances.")
    extra_tags: Annotated[dict[Line, Line], only("ec2")] = Field(default={}, description="Further tags.")
    token_file: Annotated[PathText, only("workstation")] = Field(
        default="", description="File with the token that the workstation's agent shows."
    )

    @model_validator(mode="after")
    def _one_way(self) -> BackendSpec:
        """A cluster is reached in exactly one way."""
        if self.type in CLUSTER_TYPES and (self.host is None) == (self.ssh is None):
            both = "host and ssh are both given: keep one of them" if self.ssh else f"a backend of type {self.type} needs one of these"
            raise ValueError(f"{both}: `ssh: {{host: …}}`, or `host: local` when the daemon is on the login node itself")
        return self


class Backend(Model):
    """A place where jobs run."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Literal["Backend"] = Field(description="Backend.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: BackendSpec = Field(description="What is asked for.")
