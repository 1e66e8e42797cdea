"""Backend as written: a place where jobs run. One model for all types, so that an editor knows every field."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from reconciler.manifest.schema_base import (
    NOT_SUPPORTED_YET,
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
SUPPORTED_TYPES = frozenset({"local"})


def _supported(value: str) -> str:
    if value not in SUPPORTED_TYPES:
        raise ValueError(f"type {value} is {NOT_SUPPORTED_YET} (supported: {', '.join(sorted(SUPPORTED_TYPES))})")
    return value


def only(*types: str) -> BeforeValidator:
    """Marks a field that belongs to backends of these types; on another type, giving it is an error."""

    def check(value: object, info: ValidationInfo) -> object:
        given = info.data.get("type")  # absent when `type` itself is wrong, which is said there
        if given is None or given in types or value is None:
            return value
        raise ValueError(f"{info.field_name} belongs to type {' and '.join(types)}, which is {NOT_SUPPORTED_YET}")

    return BeforeValidator(check)


class SshSpec(Model):
    """How the login node is reached."""

    host: Line = Field(description="Host name.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=22, description="Port.")
    user: Line = Field(default="", description="User. Left out: the daemon's.")
    key_path: PathText = Field(default="~/.ssh/id_rsa", description="File with the private key.")
    cert_path: PathText = Field(default="", description="File with the certificate.")
    known_hosts: PathText = Field(default="~/.ssh/known_hosts", description="File with the host keys to trust. An unknown host is refused.")


class AwsSpec(Model):
    """Which account and region."""

    profile: Line = Field(default="", description="Profile of the AWS configuration.")
    region: Line = Field(default="", description="Region.")
    job_queue: Line = Field(default="", description="Job queue of Batch.")


class BackendSpec(Model):
    """A place where jobs run, with its type's own fields."""

    type: Annotated[BackendType, AfterValidator(_supported)] = Field(
        description="local. Not supported yet: slurm, pbs, batch, ec2, workstation."
    )
    max_concurrent: Count | None = Field(default=None, description="Jobs at a time, of all runs. Left out: the number of processors.")
    absence_grace: Annotated[DurationS, at_least(0)] = Field(
        default=30.0,
        description="How long a job must not be seen before it is believed gone: two complete looks, so far apart. Default 30s.",
    )
    login_shell: Switch = Field(default=False, description="Run commands in a login shell, which reads the user's profile.")
    env: EnvRules = Field(default=(), description="Environment rules of all tasks on this backend; evaluated first.")
    env_groups: EnvGroups = Field(default={}, description="Named groups of rules, for `include`.")
    spool: PathText = Field(
        default="", description="Folder for scripts, records and logs of jobs. Relative to this file. Left out: in the state folder."
    )
    state: Literal["active", "draining"] = Field(default="active", description="draining: what runs goes on, nothing new is sent.")
    suspend: SuspendSpec | None = Field(default=None, description="While it stands, nothing new is sent.")
    clone_dir: Annotated[PathText, only("slurm", "pbs")] = Field(default="", description="Folder for checkouts.")
    ssh: Annotated[SshSpec | None, only("slurm", "pbs")] = Field(default=None, description="How the login node is reached.")
    account: Annotated[Line, only("slurm", "pbs")] = Field(default="", description="Account to charge.")
    partition_map: Annotated[dict[Line, Line], only("slurm")] = Field(
        default={}, description="The real partition for each name that tasks use."
    )
    default_partition: Annotated[Line, only("slurm")] = Field(default="", description="The partition for names that the map does not have.")
    queue: Annotated[Line, only("pbs")] = Field(default="", description="The queue, instead of the tasks' partition.")
    scheduler_args: Annotated[tuple[Line, ...], only("slurm", "pbs")] = Field(
        default=(), description="Options of the scheduler that tasks may use."
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


class Backend(Model):
    """A place where jobs run."""

    apiVersion: Literal["scripthut/v1"] = Field(description="The version of the format: scripthut/v1.")
    kind: Literal["Backend"] = Field(description="Backend.")
    metadata: Metadata = Field(description="Name and labels.")
    spec: BackendSpec = Field(description="What is asked for.")
