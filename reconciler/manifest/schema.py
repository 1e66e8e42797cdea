"""Manifests as written: one pydantic model a kind. Used by load.py to check documents, and by whoever documents the format.

The models live in schema_*.py, split by noun; this file is the door to them. Validate a document with
`KINDS[kind].model_validate(plain)`, and a ScriptHut task-list file (a bare list, or an object) with `TaskList`, which for a bare
list puts `tasks` in front of the place of each error.

Conventions: keys are snake_case inside `spec`; a value whose form is free (durations, memory, times) is kept in one unit; the
alias of a field is the name as written (`if`). Errors carry the place as pydantic's `loc`, with names as written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from reconciler.manifest.schema_backend import Backend as Backend
from reconciler.manifest.schema_backend import BackendSpec as BackendSpec
from reconciler.manifest.schema_backend import PollSpec as PollSpec
from reconciler.manifest.schema_backend import SshSpec as SshSpec
from reconciler.manifest.schema_base import API_VERSION as API_VERSION
from reconciler.manifest.schema_base import NOT_SUPPORTED_YET as NOT_SUPPORTED_YET
from reconciler.manifest.schema_base import Digest as Digest
from reconciler.manifest.schema_base import Metadata as Metadata
from reconciler.manifest.schema_base import Model as Model
from reconciler.manifest.schema_base import SuspendSpec as SuspendSpec
from reconciler.manifest.schema_base import digest_mark as digest_mark
from reconciler.manifest.schema_base import plain_schema
from reconciler.manifest.schema_env import EnvGroups as EnvGroups
from reconciler.manifest.schema_env import EnvRule as EnvRule
from reconciler.manifest.schema_env import EnvRules as EnvRules
from reconciler.manifest.schema_operator import DEFAULT_INCLUDE as DEFAULT_INCLUDE
from reconciler.manifest.schema_operator import GitSpec as GitSpec
from reconciler.manifest.schema_operator import LimitsSpec as LimitsSpec
from reconciler.manifest.schema_operator import Notification as Notification
from reconciler.manifest.schema_operator import Settings as Settings
from reconciler.manifest.schema_operator import SettingsSpec as SettingsSpec
from reconciler.manifest.schema_operator import Source as Source
from reconciler.manifest.schema_operator import SourceSpec as SourceSpec
from reconciler.manifest.schema_operator import Stack as Stack
from reconciler.manifest.schema_task import GeneratedTasks as GeneratedTasks
from reconciler.manifest.schema_task import RetrySpec as RetrySpec
from reconciler.manifest.schema_task import TaskList as TaskList
from reconciler.manifest.schema_task import TaskSpec as TaskSpec
from reconciler.manifest.schema_workflow import Run as Run
from reconciler.manifest.schema_workflow import RunSpec as RunSpec
from reconciler.manifest.schema_workflow import TriggerSpec as TriggerSpec
from reconciler.manifest.schema_workflow import Workflow as Workflow
from reconciler.manifest.schema_workflow import WorkflowSpec as WorkflowSpec

Manifest = Settings | Backend | Source | Notification | Stack | Workflow | Run

#: The model of each kind, in the order in which the documentation lists them.
KINDS: Mapping[str, type[Manifest]] = {
    "Settings": Settings,
    "Backend": Backend,
    "Source": Source,
    "Notification": Notification,
    "Stack": Stack,
    "Workflow": Workflow,
    "Run": Run,
}


def json_schema() -> dict[str, Any]:
    """One JSON Schema (draft 2020-12) for editors: a document is of one of the kinds."""
    definitions: dict[str, Any] = {}
    for kind, model in KINDS.items():
        schema = plain_schema(model)
        definitions.update(schema.pop("$defs", {}))
        definitions[kind] = schema
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Manifests of the ScriptHut reconciler",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in KINDS],
        "$defs": definitions,
    }


def field_names(model: type[BaseModel]) -> tuple[str, ...]:
    """The names that `model` knows, as written in manifests: for "did you mean" and for the documentation."""
    return tuple(field.alias or name for name, field in model.model_fields.items())
