"""The models: what is taken, what is refused and in which words, and that every field says what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from reconciler.core.names import TASK_ID_LENGTH_MAX
from reconciler.manifest import schema

HEAD = {"apiVersion": "scripthut/v1", "metadata": {"name": "x"}}
TASK = {"id": "a", "command": "true"}
#: The smallest valid document of each kind, and of those that come later the smallest that would be.
SMALLEST: Mapping[str, dict[str, Any]] = {
    "Settings": {},
    "Backend": {"spec": {"type": "local"}},
    "Source": {"spec": {"path": "manifests"}},
    "Notification": {"spec": {"events": ["RunFailed"], "to": {"webhook": "https://example.org"}}},
    "Stack": {"spec": {}},
    "Workflow": {"spec": {"tasks": [TASK]}},
    "Run": {"spec": {"workflow": "diamond"}},
}
LATER = {"Notification", "Stack"}


def models(root: object, seen: set[type[BaseModel]] | None = None) -> Iterator[type[BaseModel]]:
    """`root` and every model that a field of it can hold."""
    seen = set() if seen is None else seen
    for argument in get_args(root):
        yield from models(argument, seen)
    if isinstance(root, type) and issubclass(root, BaseModel) and root not in seen:
        seen.add(root)
        yield root
        for field in root.model_fields.values():
            yield from models(field.annotation, seen)


EVERY_MODEL = sorted(
    {model for kind in schema.KINDS.values() for model in models(kind)} | {*models(schema.TaskList)}, key=lambda m: m.__name__
)
DIGESTED = sorted({*models(schema.WorkflowSpec), *models(schema.TaskList)}, key=lambda m: m.__name__)


def complaints(model: type[BaseModel], data: object) -> dict[tuple[str | int, ...], str]:
    """Message by place; empty when `data` is valid."""
    try:
        model.model_validate(data)
    except ValidationError as error:
        return {each["loc"]: each["msg"] for each in error.errors()}
    return {}


def task(**fields: object) -> dict[tuple[str | int, ...], str]:
    return complaints(schema.TaskSpec, {**TASK, **fields})


def nested(path: str, value: object) -> dict[str, Any]:
    """`{a: {b: value}}` of `a.b`."""
    data: Any = value
    for part in reversed(path.split(".")):
        data = {part: data}
    return dict(data)


@pytest.mark.parametrize("kind", schema.KINDS)
def test_the_smallest_document_of_each_kind(kind: str) -> None:
    """Each kind has a smallest document; one whose kind comes later says so at `kind`, and nothing else."""
    said = complaints(schema.KINDS[kind], {**HEAD, "kind": kind, **SMALLEST[kind]})
    expected = {("kind",): f"Value error, kind {kind} is not supported yet"} if kind in LATER else {}
    assert said == expected


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BaseModel]) -> None:
    """Every field has a description, and every model a docstring: the documentation is made of them."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []
    assert model.__doc__


@pytest.mark.parametrize("model", DIGESTED, ids=lambda model: model.__name__)
def test_every_field_is_in_or_out_of_the_digest(model: type[BaseModel]) -> None:
    """Every field of a workflow, its tasks and its rules says whether a change of it is a reason to run again."""
    assert [name for name in model.model_fields if schema.digest_mark(model, name) is None] == []


@pytest.mark.parametrize("model", EVERY_MODEL, ids=lambda model: model.__name__)
def test_unknown_keys_are_errors(model: type[BaseModel]) -> None:
    """No model takes a key that it does not know, not even with nothing behind it."""
    assert complaints(model, {"nope": None})[("nope",)] == "Extra inputs are not permitted"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", "debian"),
        ("inputs", ["a"]),
        ("outputs", ["a"]),
        ("cache", True),
        ("cache_scope", "commit"),
        ("matrix", {"A": ["1"]}),
    ],
)
def test_task_fields_that_come_later(field: str, value: object) -> None:
    """A field of a task that does nothing yet is refused by its name."""
    assert task(**nested(field, value)) == {tuple(field.split(".")): f"Value error, {field.rpartition('.')[2]} is not supported yet"}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("Workflow", "command", "make tasks"),
        ("Workflow", "priority", 5),
        ("Workflow", "trigger.schedule", "0 2 * * *"),
        ("Workflow", "trigger.timezone", "Europe/Vienna"),
        ("Workflow", "trigger.catch_up", "all"),
        ("Source", "checkout", "run"),
        ("Settings", "pricing", {}),
    ],
)
def test_other_fields_that_come_later(kind: str, field: str, value: object) -> None:
    """The same for fields of workflows, sources and settings."""
    given = nested(field, value or {"region": "x"})
    smallest = SMALLEST[kind].get("spec", {})
    said = complaints(schema.KINDS[kind], {**HEAD, "kind": kind, "spec": {**smallest, **given}})
    assert said == {("spec", *field.split(".")): f"Value error, {field.rpartition('.')[2]} is not supported yet"}


def test_signatures_come_later() -> None:
    """`verify` of a git source would be a promise; until it is kept it is refused."""
    said = complaints(schema.SourceSpec, {"git": {"url": "https://example.org/a", "verify": True}})
    assert said == {("git", "verify"): "Value error, verify is not supported yet"}


@pytest.mark.parametrize("trigger", ["stack", "schedule"])
def test_triggers_that_come_later(trigger: str) -> None:
    """A trigger that would never fire is refused."""
    said = complaints(schema.TriggerSpec, {"on": ["change", trigger]})
    assert said == {("on", 1): f"Value error, trigger '{trigger}' is not supported yet"}


@pytest.mark.parametrize("rule", [{"stacks": ["py"]}, {"set": {"A": {"secret": {"file": "x"}}}}])
def test_rules_that_come_later(rule: dict[str, object]) -> None:
    """Stacks and secrets in environment rules are refused."""
    assert [message for message in task(env=[rule]).values() if "not supported yet" in message]


@pytest.mark.parametrize("kind", ["pbs", "batch", "ec2", "workstation"])
def test_backends_that_come_later(kind: str) -> None:
    """A backend of another type is refused at `type`, also when it has its type's own fields."""
    said = complaints(schema.BackendSpec, {"type": kind, "ssh": {"host": "hpc"}, "queue": "long", "aws": {"region": "x"}})
    assert list(said) == [("type",)]
    assert said[("type",)].startswith(f"Value error, type {kind} is not supported yet")


LOCAL: dict[str, Any] = {"type": "local"}
SLURM: dict[str, Any] = {"type": "slurm", "host": "local"}


@pytest.mark.parametrize(
    ("backend", "field", "value"),
    [
        *((backend, field, value) for backend in (LOCAL, SLURM) for field, value in (("queue", "q"), ("aws", {}), ("ami", "x"))),
        *((backend, "token_file", "~/x") for backend in (LOCAL, SLURM)),
        (SLURM, "clone_dir", "~/x"),
    ],
)
def test_a_backend_has_no_fields_of_types_that_come_later(backend: dict[str, Any], field: str, value: object) -> None:
    """A field of a type that comes later does nothing on any backend there is, and is refused."""
    said = complaints(schema.BackendSpec, {**backend, field: value})
    assert list(said) == [(field,)]
    assert said[(field,)].endswith("not supported yet")


SLURM_ONLY: Mapping[str, object] = {
    "host": "local",
    "ssh": {"host": "h"},
    "account": "x",
    "partition_map": {"normal": "batch"},
    "default_partition": "x",
    "scheduler_args": ["--exclusive"],
    "array": "never",
    "poll": {"min": "5s"},
    "clone_dir": "~/x",
}


@pytest.mark.parametrize("field", SLURM_ONLY)
def test_a_local_backend_has_no_fields_of_a_cluster(field: str) -> None:
    """A field of a cluster is refused on a local backend, and the message names the type that has it."""
    said = complaints(schema.BackendSpec, {"type": "local", field: SLURM_ONLY[field]})
    assert said == {(field,): f"Value error, {field} belongs to type slurm, and this backend is of type local"}


@pytest.mark.parametrize("field", [field for field in SLURM_ONLY if field not in {"host", "ssh", "clone_dir"}])
@pytest.mark.parametrize("way", [{"host": "local"}, {"ssh": {"host": "h"}}])
def test_a_slurm_backend_has_its_fields(way: dict[str, object], field: str) -> None:
    """Every field of a cluster is taken on a slurm backend, whichever way that is reached."""
    assert complaints(schema.BackendSpec, {"type": "slurm", **way, field: SLURM_ONLY[field]}) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "a backend of type slurm needs one of these: `ssh: {host: …}`, or `host: local` when the daemon is on the login node itself"),
        ({"host": "local", "ssh": {"host": "h"}}, "host and ssh are both given: keep one of them: `ssh: "),
        ({"host": None, "ssh": None}, "a backend of type slurm needs one of these"),
    ],
)
def test_a_cluster_is_reached_in_one_way(given: dict[str, object], said: str) -> None:
    """Slurm is reached over ssh or from its login node itself; neither and both are errors that say what to write."""
    assert complaints(schema.BackendSpec, {"type": "slurm", **given})[()].startswith(f"Value error, {said}")


def test_another_host_is_reached_over_ssh() -> None:
    """`host` takes one word; who writes a machine's name there is told where it belongs."""
    said = complaints(schema.BackendSpec, {"type": "slurm", "host": "login.example.org"})
    assert said[("host",)].endswith("write another machine as ssh: {host: …}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("host", host) for host in ("login", "login.example.org", "10.0.0.1", "::1", "fe80::1%eth0", "my_alias")),
        *(("user", user) for user in ("", "jo", "jo.doe", "jo@example.org", "DOM\\jo", "svc$")),
        *(("port", port) for port in (None, 1, 65535)),
        *(("jump", jump) for jump in ("", "gate", "jo@gate:2222", "a,b@c", "jo@[::1]:22")),
        *(("known_hosts", path) for path in ("", "accept-new", "known_hosts", "~/.ssh/known_hosts", "/etc/ssh/known")),
        *((field, "keys/id") for field in ("key_path", "cert_path", "config")),
    ],
)
def test_ssh_as_people_write_it(field: str, value: object) -> None:
    """Hosts, users, ports, jumps and files in the forms of ssh itself are taken."""
    assert complaints(schema.SshSpec, {"host": "h", field: value}) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("host", host) for host in ("", "-oProxyCommand=x", "jo@login", "a b", "a;b", "h:22", "a\nb")),
        *(("user", user) for user in ("-l", "a b", "$(id)", "a;b")),
        *(("port", port) for port in (0, 65536, "22", True)),
        *(("jump", jump) for jump in ("-x", "a b", "a,,b", "a;b", "a,")),
        ("key_path", "a\nb"),
    ],
)
def test_ssh_that_cannot_be(field: str, value: object) -> None:
    """What ssh would take for an option, a command or nothing at all is refused at its place."""
    assert {place[0] for place in complaints(schema.SshSpec, {"host": "h", field: value})} == {field}


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"min": "0.4s"}, ("min",)),
        ({"min": "30s", "max": "20s"}, ()),
        ({"max": "1s"}, ()),
        ({"max": 5}, ("max",)),
        ({"min": "500ms", "max": "0.5s"}, None),
        ({"max": "1h"}, None),
    ],
)
def test_the_bounds_of_polling(given: dict[str, object], place: tuple[str, ...] | None) -> None:
    """The interval has a floor of at least half a second, and a ceiling not below it."""
    assert list(complaints(schema.PollSpec, given)) == ([] if place is None else [place])


@pytest.mark.parametrize("name", ["--mail-type=END", "exclusive", "--a b", "-", "--", "", "-xy"])
def test_allowed_options_are_names(name: str) -> None:
    """A Backend allows options by name alone."""
    assert list(complaints(schema.BackendSpec, {**SLURM, "scheduler_args": ["--exclusive", name]})) == [("scheduler_args", 1)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodes", 1),
        ("ntasks", 2),
        ("account", "x"),
        ("qos", "x"),
        ("constraint", "intel&gpu"),
        ("reservation", "x"),
        ("licenses", "x:2,y"),
        ("scheduler_args", ["--exclusive", "--mail-type=END", "-x"]),
        ("requeue", True),
    ],
)
def test_what_a_task_may_ask_of_a_scheduler(field: str, value: object) -> None:
    """Fields for schedulers are taken in a task, whatever its backend."""
    assert task(**{field: value}) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nodes", 0),
        ("nodes", 1.5),
        ("ntasks", True),
        ("ntasks", -1),
        ("account", 5),
        ("qos", "a\nb"),
        ("requeue", "yes"),
        ("requeue", 1),
    ],
)
def test_what_no_scheduler_takes(field: str, value: object) -> None:
    """Counts are whole and at least 1, texts one line, switches true or false."""
    assert list(task(**{field: value})) == [(field,)]


@pytest.mark.parametrize(
    ("escalate", "place"),
    [
        ({}, None),
        ({"memory": 1.5, "time_limit": 2}, None),
        ({"memory": 1, "time_limit": 10}, None),
        ({"memory": 0.5}, "memory"),
        ({"memory": "1G"}, "memory"),
        ({"memory": True}, "memory"),
        ({"time_limit": 10.5}, "time_limit"),
        ({"time_limit": float("nan")}, "time_limit"),
        ({"cpus": 2}, "cpus"),
    ],
)
def test_what_a_retry_may_ask_more_of(escalate: dict[str, object], place: str | None) -> None:
    """Memory and time are multiplied by 1 to 10 at each failure of theirs; nothing else is."""
    said = task(retry={"limit": 1, "escalate": escalate})
    assert list(said) == ([] if place is None else [("retry", "escalate", place)])


@pytest.mark.parametrize("option", ["exclusive", "--exclusive now", "--a;b", "", "-xy", "--A", "--export=a\nb"])
def test_options_are_one_text_each(option: str) -> None:
    """An option for the scheduler is one text with its value behind `=`: nothing that could be two, or none."""
    assert list(task(scheduler_args=[option])) == [("scheduler_args", 0)]


def test_what_says_nothing_is_left_out() -> None:
    """Null, and empty lists of fields that come later, are what generators write for "not given"; `cache: false` is how it is anyway."""
    fields = (
        "image",
        "inputs",
        "gres",
        "deps",
        "env",
        "partition",
        "error_file",
        "retry",
        "cache_scope",
        "environment",
        "env_vars",
        "memory",
    )
    assert task(**dict.fromkeys(fields)) == {}
    assert task(inputs=[], outputs=[], matrix={}, image="", cache=False) == {}


def test_a_scripthut_task_runs_unchanged() -> None:
    """Every field that ScriptHut's own files use for a plain task is taken, with ScriptHut's defaults."""
    written = [
        {
            "id": "sim.1",
            "name": "Simulation 1",
            "command": "python3 sim.py 1",
            "working_dir": "~",
            "partition": "normal",
            "cpus": 1,
            "memory": "4G",
            "time_limit": "1:00:00",
            "dependencies": ["gen"],
            "gres": None,
            "image": None,
            "output_file": None,
            "error_file": None,
            "env": [],
            "generates_source": None,
            "environment": "python-booth",
            "env_vars": {"SEED": 1},
        },
    ]
    found = schema.TaskList.model_validate(written).tasks[0]
    assert (found.deps, found.memory, found.time_limit, found.env_vars) == (("gen",), 4096, 3600, {"SEED": "1"})
    assert found == found.model_copy(update={"cpus": 1, "working_dir": "~"})
    assert schema.TaskList.model_validate({"tasks": written, "title": "t", "env": [], "env_groups": {}}).tasks == (found,)


def test_other_keys_of_a_task_list_are_refused() -> None:
    """A key that ScriptHut would ignore in silence is an error here."""
    assert list(complaints(schema.TaskList, {"tasks": [TASK], "backend": "hpc"})) == [("backend",)]


def test_errors_of_a_bare_list_are_placed_below_tasks() -> None:
    """load.py relies on it to find the line."""
    assert list(complaints(schema.TaskList, [TASK, {"id": "b"}])) == [("tasks", 1, "command")]


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", ".a", "a b", "a/b", "..", "a" * 64, "ä", "a\n", "a\0", "a;b", "$(x)", None, True, 1.5, ["a"]],
)
def test_hostile_object_names(name: object) -> None:
    """A name that could be a path, an option or a command is refused."""
    assert ("name",) in complaints(schema.Metadata, {"name": name})


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a b", "a/b", "..", "a" * (TASK_ID_LENGTH_MAX + 1), "ä", "a\n", "a\0", 'x"; touch y; "', "a*", None, True]
)
def test_hostile_task_ids(name: object) -> None:
    """The same for ids of tasks, which become names of jobs and files."""
    assert ("id",) in complaints(schema.TaskSpec, {"id": name, "command": "true"})


@pytest.mark.parametrize("need", ["", "a b", "a/b", "$(x)", "a\n", "a" * (TASK_ID_LENGTH_MAX + 1), True, {}])
def test_hostile_needs(need: object) -> None:
    """A need is an id or a pattern."""
    assert ("deps", 0) in task(deps=[need])


@pytest.mark.parametrize("field", ["name", "working_dir", "partition", "gres", "output_file", "error_file", "generates_source"])
@pytest.mark.parametrize("bad", ["\0", "\n", "\r", "\x1b[31m", "\x7f", "\x85", "\u2028"])
def test_no_control_characters_in_names_and_paths(field: str, bad: str) -> None:
    """A line break in a path or a name would be a line of somebody's script or terminal."""
    assert (field,) in task(**{field: f"a{bad}b"})


def test_a_command_is_any_text_without_nul() -> None:
    """Quotes, newlines, unicode and control characters are the command's own business; NUL and lone surrogates end it early."""
    assert task(command="echo \"$(x)\" 'y'\n\t\x1b é 漢 `z`; #SBATCH --x\n") == {}
    assert ("command",) in task(command="a\0b")
    assert ("command",) in task(command="a\ud800b")
    assert ("command",) in task(command="")
    assert task(command="x" * 1_000_000) == {}
    assert ("command",) in task(command="x" * 1_000_001)


@pytest.mark.parametrize("value", ["x" * 120_001, "é" * 60_001, "a\0", True, 1.5, None, ["a"], {"a": 1}])
def test_hostile_environment_values(value: object) -> None:
    """A value that no program could be started with, or whose spelling YAML has lost, is refused."""
    assert list(task(env=[{"set": {"A": value}}])) == [("env", 0, "set", "A")]


def test_environment_values() -> None:
    """Whole numbers are their digits; one alternative stands for a list of one."""
    found = schema.TaskSpec.model_validate({**TASK, "env": [{"if": {"A": 1, "B": ["x", "y"]}, "set": {"N": 8, "T": "$(x)\n'"}}]})
    assert (found.env[0].if_, found.env[0].set) == ({"A": ("1",), "B": ("x", "y")}, {"N": "8", "T": "$(x)\n'"})


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "Ä", "A" * 256])
def test_hostile_variable_names(name: str) -> None:
    """A name that no shell has is refused."""
    assert task(env=[{"set": {name: "x"}}])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cpus", 0),
        ("cpus", -1),
        ("cpus", True),
        ("cpus", 1.5),
        ("cpus", 10**7),
        ("cpus", "many"),
        ("memory", "0"),
        ("time_limit", 0),
        ("allow_failure", "yes"),
        ("when", "sometimes"),
        ("retry", {"limit": 101}),
        ("retry", {"limit": -1}),
        ("retry", {"on": ["refused"]}),
        ("retry", {"backoff": "-1s"}),
        ("deps", "a"),
        ("env", {"set": {}}),
        ("env_vars", ["A=1"]),
    ],
)
def test_values_out_of_range(field: str, value: object) -> None:
    """A number, a word or a shape that means nothing is refused at its field."""
    assert [place[0] for place in task(**{field: value})] == [field]


def test_two_spellings_of_one_field() -> None:
    """`deps` and `dependencies` at once would leave one of them ignored."""
    assert task(deps=["b"], dependencies=["c"]) == {(): "Value error, deps and dependencies are the same: write one of them"}


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"path": "a", "git": {"url": "https://h/a"}},
        {"git": {"url": "https://h/a", "branch": "a", "tag": "b"}},
        {"git": {"url": "https://h/a", "commit": "1234567"}},
        {"git": {"url": "https://h/a", "branch": "-x"}},
        {"git": {"url": "https://h/a", "branch": "a..b"}},
        {"git": {"url": "https://h/a", "branch": "a b"}},
        {"git": {"url": "https://h/a", "branch": "refs/../x"}},
        {"git": {"url": "https://h/a", "interval": "10ms"}},
        {"path": "a", "include": []},
        {"path": "a", "include": ["/etc/*"]},
        {"path": "a", "include": ["../*"]},
        {"path": "a", "include": [".git/config"]},
        {"path": "a", "allow": {"kinds": ["Backend"]}},
        {"path": "a\n"},
    ],
)
def test_sources_that_cannot_be(source: dict[str, Any]) -> None:
    """A Source has one place, one ref, patterns inside itself, and cannot allow itself what is the operator's."""
    assert complaints(schema.SourceSpec, source)


@pytest.mark.parametrize(
    ("trigger", "means"),
    [
        ({}, {"change"}),
        ({"paths": ["src/**"]}, {"paths"}),
        ({"on": ["change", "paths"], "paths": ["src/**"]}, {"change", "paths"}),
        ({"on": ["commit"]}, {"commit"}),
        ({"on": ["manual"]}, {"manual"}),
    ],
)
def test_what_a_trigger_means(trigger: dict[str, Any], means: set[str]) -> None:
    """`change` is the default; patterns alone mean `paths`."""
    assert schema.TriggerSpec.model_validate(trigger).triggers() == means


@pytest.mark.parametrize(
    "trigger", [{"on": ["manual", "change"]}, {"on": ["paths"]}, {"on": ["change"], "paths": ["a"]}, {"on": ["never"]}]
)
def test_triggers_that_contradict_themselves(trigger: dict[str, Any]) -> None:
    """A trigger that would be ignored is refused."""
    assert complaints(schema.TriggerSpec, trigger)


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"workflow": "a", "run": "0" * 12},
        {"run": "0" * 12},
        {"run": "x", "state": "cancelled"},
        {"run": "0" * 12, "state": "running"},
        {"run": "0" * 12, "state": "cancelled", "backend": "b"},
        {"run": "0" * 12, "state": "cancelled", "parameters": {"A": "1"}},
        {"workflow": "a", "state": "cancelled"},
        {"workflow": "a", "parameters": {"SCRIPTHUT_RUN_ID": "x"}},
        {"workflow": "a", "parameters": {"A B": "x"}},
    ],
)
def test_runs_that_cannot_be(run: dict[str, Any]) -> None:
    """A Run asks for a new run, or changes one; it cannot do both, neither, or change what is fixed."""
    assert complaints(schema.RunSpec, run)


def test_json_schema_knows_every_kind_and_resolves() -> None:
    """The JSON Schema for editors has each kind, and every reference in it leads somewhere."""
    found = schema.json_schema()
    assert [each["$ref"].rpartition("/")[2] for each in found["oneOf"]] == list(schema.KINDS)
    text = json.dumps(found)
    references = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert references - set(found["$defs"]) == set()


def test_a_bad_value_is_not_repeated() -> None:
    """pydantic's own text never holds the input: it may be a secret."""
    with pytest.raises(ValidationError) as error:
        schema.TaskSpec.model_validate({**TASK, "env": [{"set": {"TOKEN": ["s3cret"]}}], "cpus": "s3cret"})
    assert "s3cret" not in str(error.value)
