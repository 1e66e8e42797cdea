"""One document -> what it asks for, frozen (core/desired.py). Pure: what it must know of the tree and the operator is handed in.

Called by assemble.py for each document. A document that cannot be resolved gives Problems with file:line:column, all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Generic, TypeVar

from reconciler.core import graph
from reconciler.core.desired import Concurrency, OnDelete, Place, RunRequest, Suspend, Task, Trigger
from reconciler.core.env import Rule
from reconciler.core.names import digest_of
from reconciler.errors import GraphError, Problem
from reconciler.manifest import schema
from reconciler.manifest.canonical import canonical
from reconciler.manifest.environment import DeclaredRevision, Surroundings, environment_faults, layer_of, task_rules
from reconciler.manifest.load import Document
from reconciler.manifest.options import options_of
from reconciler.manifest.origin import LOCAL, Choice, DeclaredBackend, Origin, Scheduling, SourceSpec, beside, is_below, suspension
from reconciler.manifest.schema_backend import CLUSTER_TYPES
from reconciler.manifest.tasks import asks_for_processes, is_homeless, refused_options, tasks_of

#: Ids of files that match patterns, by path: sources.base.Tree.blob_ids.
BlobIds = Callable[[Sequence[str]], Mapping[str, str]]
_Value = TypeVar("_Value")
DEFAULT_BRANCH = "main"
#: Jobs at a time on a cluster whose document does not say: one array of Slurm's default MaxArraySize (1001), a tenth of its MaxJobCount.
CLUSTER_JOBS = 1000


@dataclass(frozen=True, slots=True)
class Resolution(Generic[_Value]):
    """What became of one document: `value`, or None and the problems. Warnings hold nothing back.

    `basis`: what besides the document the value was made from; assemble.py compares it, to make nothing twice.
    """

    value: _Value | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    basis: object = None


def resolve_workflow(
    document: Document, origin: Origin, choice: Choice, around: Surroundings, files: Mapping[str, str]
) -> Resolution[DeclaredRevision]:
    """A Workflow, or a task-list file. `files` are the blobs that `paths_of` matches. The environment is only tried out here."""
    spec = document.model.spec if isinstance(document.model, schema.Workflow) else document.model
    assert isinstance(spec, (schema.WorkflowSpec, schema.TaskList))
    backend = (spec.backend if isinstance(spec, schema.WorkflowSpec) else None) or origin.backend
    problems = [*_backend_problems(document, spec, backend, origin, choice)]
    asked = [(task.id, task.deps) for task in spec.tasks]
    try:
        needs = graph.expand(asked)
    except GraphError:
        problems += _graph_problems(document, spec, graph.faults(asked))
        return Resolution(None, tuple(problems))
    problems += _option_problems(document, spec, backend, choice)
    if problems:
        return Resolution(None, tuple(problems))
    base = origin.base(document.place.file)
    tasks = tasks_of(spec.tasks, needs, backend, lambda name: "" if choice.is_far(name) else base)
    revision = _revision(document, origin, backend, files, tasks)
    faults, warnings = environment_faults(revision, around)
    if faults:
        index = {task.id: at for at, task in enumerate(spec.tasks)}
        return Resolution(None, tuple(_env_problem(document, index, task, message) for task, message in faults))
    return Resolution(revision, (), (*warnings, *_homeless(spec, base, backend, choice), *_launched_once(spec, backend, choice)))


def paths_of(document: Document, origin: Origin) -> tuple[str, ...]:
    """The patterns of files that enter the digest of a workflow."""
    if isinstance(document.model, schema.Workflow):
        return document.model.spec.trigger.paths
    return origin.trigger_paths


def resolve_request(document: Document, origin: Origin, choice: Choice, workflow: str) -> Resolution[RunRequest]:
    """A Run document. `workflow` is the qualified name of the workflow that it asks for, "" for a change of a run."""
    assert isinstance(document.model, schema.Run)
    spec = document.model.spec
    backend = spec.backend or ""
    if backend and (problem := _backend_problem(document, ("spec", "backend"), backend, origin, choice)):
        return Resolution(None, (problem,))
    request = RunRequest(
        name=origin.qualified(document.name),
        place=origin.place(document.place),
        run=spec.run or "",
        state=spec.state or "",
        workflow=workflow,
        revision=spec.revision,
        backend=backend,
        parameters=tuple(sorted(spec.parameters.items())),
        suspend=suspension(spec.suspend),
        approve=spec.approve or "",
    )
    return Resolution(request)


def resolve_backend(document: Document, origin: Origin, cpus: int) -> Resolution[DeclaredBackend]:
    """A Backend document. `cpus` is how many processors this machine has: the default of `max_concurrent`."""
    assert isinstance(document.model, schema.Backend)
    spec, name = document.model.spec, document.name
    options, problems = options_of(document, origin)
    if problems:
        return Resolution(None, problems)
    return Resolution(
        DeclaredBackend(
            name=name,
            type=spec.type,
            place=origin.place(document.place),
            max_concurrent=spec.max_concurrent or (cpus if spec.type == LOCAL else CLUSTER_JOBS),
            absence_grace_s=spec.absence_grace,
            draining=spec.state == "draining",
            suspend=suspension(spec.suspend),
            options=options,
            layer=layer_of(f"backend:{name}", spec.env, spec.env_groups),
            scheduling=Scheduling(frozenset(spec.scheduler_args), spec.ssh is not None) if spec.type in CLUSTER_TYPES else None,
        )
    )


def default_backend(origin: Origin, file: str, cpus: int) -> DeclaredBackend:
    """The backend that exists when no document declares one. `file` is that of the Settings, for people who look for it."""
    model = schema.BackendSpec(type="local")
    return DeclaredBackend(
        LOCAL,
        model.type,
        origin.place(_nowhere(file)),
        cpus,
        model.absence_grace,
        options={"login_shell": False, "spool": ""},
        layer=layer_of(f"backend:{LOCAL}", (), {}),
    )


def resolve_source(document: Document, origin: Origin, excluded: Sequence[str]) -> Resolution[SourceSpec]:
    """A Source document. Paths become absolute, or stay `~/…` (whoever opens them knows whose home that is).

    `excluded` are the folders that the daemon writes to: a source may not lie in one, nor in the operator's own folder.
    """
    assert isinstance(document.model, schema.Source)
    spec = document.model.spec
    problems: list[Problem] = []

    def placed(path: str, *where: str) -> str:
        try:
            return beside(path, origin.root, document.place.file)
        except ValueError as error:
            problems.append(document.problem(("spec", *where), str(error)))
            return ""

    git = spec.git
    path = placed(spec.path, "path")
    problems += _misplaced(document, path, origin, excluded)
    named = bool(git and (git.branch or git.tag or git.commit))
    trigger = spec.trigger or schema.TriggerSpec(on=(Trigger.MANUAL,))
    source = SourceSpec(
        name=document.name,
        place=origin.place(document.place),
        url=git.url if git else "",
        branch=((git.branch or "") if named else DEFAULT_BRANCH) if git else "",
        tag=(git.tag or "") if git else "",
        commit=(git.commit or "") if git else "",
        deploy_key=placed(git.deploy_key, "git", "deploy_key") if git else "",
        known_hosts=placed(git.known_hosts, "git", "known_hosts") if git else "",
        interval_s=git.interval if git else None,
        timeout_s=git.timeout if git else 60.0,
        path=path,
        include=spec.include,
        backend=spec.backend or "",
        kinds=frozenset(spec.allow.kinds),
        backends=frozenset(spec.allow.backends),
        triggers=trigger.triggers(),
        trigger_paths=trigger.paths,
        workdir=spec.workdir or "",
        suspend=suspension(spec.suspend),
        approve=spec.approve or "",
        limits=spec.limits,
    )
    return Resolution(None, tuple(problems)) if problems else Resolution(source)


def _misplaced(document: Document, path: str, origin: Origin, excluded: Sequence[str]) -> Iterator[Problem]:
    for folder in excluded:
        if is_below(path, folder):
            yield document.problem(("spec", "path"), f"the daemon writes to {folder}, so no source can be there", "move it")
    if origin.root and is_below(path, origin.root):
        message = "this folder lies in the operator's own folder, where every manifest is trusted"
        yield document.problem(("spec", "path"), message, "move it beside that folder")


def near(name: str, known: Sequence[str]) -> str:
    """What to do about a name that nobody knows: the nearest, or all there are."""
    found = get_close_matches(name, known, n=1)
    if found:
        return f"did you mean {found[0]!r}?"
    return f"known: {', '.join(sorted(known)[:20])}" if known else ""


def _nowhere(file: str) -> Place:
    return Place("", file, 0)


def _revision(
    document: Document, origin: Origin, backend: str, files: Mapping[str, str], tasks: tuple[Task, ...]
) -> DeclaredRevision:
    model = document.model
    spec = model.spec if isinstance(model, schema.Workflow) else model
    assert isinstance(spec, (schema.WorkflowSpec, schema.TaskList))
    text = canonical(spec, files)
    rules: dict[str, tuple[Rule, ...]] = {task.id: found for task in spec.tasks if (found := task_rules(task))}
    said = _said(spec) if isinstance(spec, schema.WorkflowSpec) else _Said(triggers=origin.triggers)
    return DeclaredRevision(
        name=origin.qualified(document.name),
        place=origin.place(document.place),
        digest=digest_of(text),
        canonical=text,
        tasks=tasks,
        backend=backend,
        triggers=said.triggers,
        rerun=said.rerun,
        approve=said.approve,
        concurrency=said.concurrency,
        on_delete=said.on_delete,
        max_concurrent=said.max_concurrent,
        suspend=said.suspend,
        title=spec.title,
        labels=tuple(sorted(model.metadata.labels.items())) if isinstance(model, schema.Workflow) else (),
        env_seed=origin.env_seed,
        layer=layer_of("workflow-doc", spec.env, spec.env_groups),
        task_rules=rules,
    )


@dataclass(frozen=True, slots=True)
class _Said:
    """What a Workflow document can say and a task-list file cannot."""

    triggers: frozenset[Trigger]
    rerun: str = ""
    approve: str = ""
    concurrency: Concurrency = Concurrency.QUEUE
    on_delete: OnDelete = OnDelete.FINISH
    max_concurrent: int | None = None
    suspend: Suspend | None = None


def _said(spec: schema.WorkflowSpec) -> _Said:
    return _Said(
        spec.trigger.triggers(),
        spec.rerun or "",
        spec.approve or "",
        spec.concurrency,
        spec.on_delete,
        spec.max_concurrent,
        suspension(spec.suspend),
    )


def _backend_problems(
    document: Document, spec: schema.WorkflowSpec | schema.TaskList, backend: str, origin: Origin, choice: Choice
) -> Iterator[Problem]:
    problem = _backend_problem(document, ("spec", "backend"), backend, origin, choice)
    if problem:
        yield problem
    for index, task in enumerate(spec.tasks):
        if task.backend and task.backend != backend:
            problem = _backend_problem(document, (*_tasks_at(spec), index, "backend"), task.backend, origin, choice)
            if problem:
                yield problem


def _backend_problem(document: Document, path: Sequence[str | int], name: str, origin: Origin, choice: Choice) -> Problem | None:
    if not name:
        source = f" or of Source {origin.source}" if origin.source else ""
        return document.problem(
            path, "no backend is named, and there are several", f"write backend: here{source}; {near('', [*choice.known])}"
        )
    if name in choice.broken:
        return document.problem(path, f"Backend {name!r} cannot be used: {choice.broken[name].message}", str(choice.broken[name].cure))
    if origin.allowed is not None and name not in origin.allowed:
        cure = f"name another, or add it to allow.backends of Source {origin.source}"
        return document.problem(path, f"Source {origin.source} may not use Backend {name!r}", cure)
    if name not in choice.known:
        return document.problem(path, f"there is no Backend {name!r}", near(name, [*choice.known]))
    return None


def _tasks_at(spec: schema.WorkflowSpec | schema.TaskList) -> tuple[str, ...]:
    return ("spec", "tasks") if isinstance(spec, schema.WorkflowSpec) else ("tasks",)


def _graph_problems(document: Document, spec: schema.WorkflowSpec | schema.TaskList, faults: Sequence[GraphError]) -> Iterator[Problem]:
    last = {task.id: index for index, task in enumerate(spec.tasks)}  # of an id used twice, the second is the one too many
    for fault in faults:
        index = last.get(fault.task)
        where: tuple[str | int, ...] = () if index is None else (*_tasks_at(spec), index)
        yield document.problem(where, str(fault))


def _env_problem(document: Document, index: Mapping[str, int], task: str, message: str) -> Problem:
    at: tuple[str | int, ...] = ("spec",) if isinstance(document.model, schema.Workflow) else ()
    if task:
        return document.problem((*at, "tasks", index[task], "env"), f"task {task}: {message}")
    return document.problem((*at, "env"), message)


def _option_problems(
    document: Document, spec: schema.WorkflowSpec | schema.TaskList, backend: str, choice: Choice
) -> Iterator[Problem]:
    for index, task in enumerate(spec.tasks):
        name = task.backend or backend
        for at, message in refused_options(task, choice.schedulings.get(name)):
            cure = f"remove it, or add it to scheduler_args of Backend {name}"
            yield document.problem((*_tasks_at(spec), index, "scheduler_args", at), f"task {task.id}: {message}", cure)


def _homeless(spec: schema.WorkflowSpec | schema.TaskList, base: str, backend: str, choice: Choice) -> Iterator[str]:
    far = [task.id for task in spec.tasks if choice.is_far(task.backend or backend) and is_homeless(task, "")]
    here = [task.id for task in spec.tasks if not choice.is_far(task.backend or backend) and is_homeless(task, base)]
    if here:
        yield f"working_dir of {_several(here)}: a git source has no checkout yet, so they run in a folder of the job's own"
    if far:
        own = "a cluster that is reached over ssh has no checkout yet, so they run in a folder of the job's own"
        yield f"working_dir of {_several(far)}: {own}; absolute and ~/ folders are the cluster's"


def _launched_once(spec: schema.WorkflowSpec | schema.TaskList, backend: str, choice: Choice) -> Iterator[str]:
    found = [task.id for task in spec.tasks if asks_for_processes(task) and (task.backend or backend) not in choice.schedulings]
    if found:
        yield f"nodes and ntasks of {_several(found)}: a local backend is one machine and starts each command once"


def _several(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
