"""From environment rules as written to the environment of each task. Called by resolve.py, generated.py and, through them, controller.py.

The chain is backend, server (the Settings), workflow, task; core/env.py evaluates it. What is known when a run is made is
put in front (the *seed*: SCRIPTHUT_* and the parameters of a Run document). Parameters win: rules that would change one are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.desired import Revision, Task
from reconciler.core.env import PROTECTED, Layer, Resolved, Rule, extend, resolve
from reconciler.errors import EnvError
from reconciler.manifest.schema import EnvGroups, EnvRules, TaskSpec

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The operator's part of every environment: rules of the Settings, and of each backend by name."""

    server: Layer = field(default_factory=lambda: Layer("server"))
    backends: Mapping[str, Layer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeclaredRevision(Revision):
    """A Revision with the environment rules of its document, not yet evaluated: backend and server may change until a run is made.

    `layer` is the workflow's, `task_rules` holds those of tasks that have any, by task id.
    """

    layer: Layer = field(default_factory=lambda: Layer("workflow-doc"))
    task_rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)


def make_tasks(
    revision: DeclaredRevision, around: Surroundings, backend: str = "", parameters: Pairs = (), seed: Pairs = ()
) -> tuple[Task, ...]:
    """The tasks of a run of `revision` that is made now, their environment resolved (pinned from here on).

    `backend` is the run's ("": the revision's), `parameters` the Run document's, `seed` what else is known (SCRIPTHUT_RUN_ID,
    SCRIPTHUT_CREATED_AT), so that rules may use it. Values may hold `${NAME}`, which means the backend's own value (core/env.py).
    Raises EnvError, naming the task.
    """
    known = (("SCRIPTHUT_WORKFLOW", revision.name), *revision.env_seed, *seed)
    resolver = Resolver((revision.layer,), around, known, parameters)
    return tuple(resolver.task(task, backend or revision.backend, revision.task_rules.get(task.id, ())) for task in revision.tasks)


def environment_faults(revision: DeclaredRevision, around: Surroundings) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """What will go wrong when a run of `revision` is made: ((task id or "" for what all share, message), …), and warnings."""
    resolver = Resolver((revision.layer,), around, (("SCRIPTHUT_WORKFLOW", revision.name), *revision.env_seed))
    faults: list[tuple[str, str]] = []
    warnings: dict[str, None] = {}
    broken: set[str] = set()
    for task in revision.tasks:
        backend, rules = task.backend or revision.backend, revision.task_rules.get(task.id, ())
        if backend in broken:
            continue
        try:
            warnings.update(dict.fromkeys(resolver.shared(backend).warnings))
        except EnvError as error:
            broken.add(backend)
            faults.append(("", str(error)))
            continue
        try:
            warnings.update(dict.fromkeys(resolver.of(backend, rules).warnings))
        except EnvError as error:
            faults.append((task.id, str(error)))
    return tuple(dict.fromkeys(faults)), tuple(warnings)


class Resolver:
    """Resolves environments of many tasks, each combination of backend and rules once: 10,000 tasks with the same rules are one.

    `layers` are the workflow's, after those of the backend and the server and before the task's own.
    """

    def __init__(self, layers: Sequence[Layer], around: Surroundings, seed: Iterable[tuple[str, str]], parameters: Pairs = ()) -> None:
        self._taken = frozenset(name for name, _ in parameters)
        self._layers = tuple(_without(layer, self._taken) for layer in layers)
        self._around = around
        self._seed = (*seed, *parameters)
        self._shared: dict[str, Resolved] = {}
        self._resolved: dict[tuple[str, tuple[Rule, ...]], Resolved] = {}

    def shared(self, backend: str) -> Resolved:
        """What all tasks on `backend` share. Raises EnvError."""
        found = self._shared.get(backend)
        if found is None:
            own = self._around.backends.get(backend, Layer(f"backend:{backend}"))
            layers = (_without(own, self._taken), _without(self._around.server, self._taken), *self._layers)
            found = self._shared[backend] = resolve(layers, (("SCRIPTHUT_BACKEND", backend), *self._seed))
        return found

    def of(self, backend: str, rules: tuple[Rule, ...]) -> Resolved:
        """The environment of a task on `backend` with these rules of its own. Raises EnvError."""
        if not rules:
            return self.shared(backend)
        found = self._resolved.get((backend, rules))
        if found is None:
            layer = _without(Layer("task", rules), self._taken)
            found = self._resolved[(backend, rules)] = extend(self.shared(backend), (layer,))
        return found

    def task(self, task: Task, backend: str, rules: tuple[Rule, ...]) -> Task:
        """`task` with its environment, on its own backend if it names one. Raises EnvError, naming the task."""
        try:
            resolved = self.of(task.backend or backend, rules)
        except EnvError as error:
            raise EnvError(f"task {task.id}: {error}") from error
        return replace(task, env=resolved.values, init=resolved.init)


def layer_of(name: str, rules: EnvRules, groups: EnvGroups) -> Layer:
    """The layer that a document brings in. `name` is what provenance calls it: `server`, `backend:hpc`, `workflow-doc`."""
    return Layer(name, rules_of(rules), {group: rules_of(each) for group, each in groups.items()})


def rules_of(rules: EnvRules) -> tuple[Rule, ...]:
    """Rules as written, as core/env.py evaluates them."""
    return tuple(
        Rule(tuple(rule.if_.items()), rule.include, tuple(rule.set.items()), tuple(rule.append.items()), rule.init) for rule in rules
    )


def task_rules(spec: TaskSpec) -> tuple[Rule, ...]:
    """The rules of one task: ScriptHut's old `environment` and `env_vars` first, then `env`."""
    return tuple(_legacy(spec)) + rules_of(spec.env)


def seed_of(env: Sequence[tuple[str, str]]) -> Pairs:
    """What of a task's environment was seed: the protected names. For tasks that the task generates."""
    return tuple((name, value) for name, value in env if name.startswith(PROTECTED))


def _legacy(spec: TaskSpec) -> Iterator[Rule]:
    if spec.environment is not None:
        yield Rule(include=(spec.environment,), optional=True)
    if spec.env_vars:
        yield Rule(set=tuple(spec.env_vars.items()))


def _without(layer: Layer, names: frozenset[str]) -> Layer:
    """`layer` without what it does to `names`."""
    if not names:
        return layer
    groups = {group: _rules_without(rules, names) for group, rules in layer.groups.items()}
    return Layer(layer.name, _rules_without(layer.rules, names), groups)


def _rules_without(rules: tuple[Rule, ...], names: frozenset[str]) -> tuple[Rule, ...]:
    return tuple(
        replace(
            rule,
            set=tuple(pair for pair in rule.set if pair[0] not in names),
            append=tuple(pair for pair in rule.append if pair[0] not in names),
        )
        for rule in rules
    )
