"""One document -> what it asks for: backends, working folders, environments, problems with their places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.desired import Cause, Concurrency, OnDelete, Resources, Retry, Suspend, Trigger, When
from reconciler.errors import EnvError
from reconciler.manifest.assemble import Desired
from reconciler.manifest.environment import make_tasks
from reconciler.manifest.origin import Origin, beside, is_below
from reconciler.manifest.tasks import folder_of
from tests.manifest.samples import SETTINGS, Files, World, documents, manifest, workflow

RUN_SEED = (("SCRIPTHUT_RUN_ID", "0" * 12), ("SCRIPTHUT_CREATED_AT", "2026-11-20T18:03:11Z"))
LOCAL, HPC = manifest("Backend", "local", {"type": "local"}), manifest("Backend", "hpc", {"type": "local"})


def desired(*texts: str, **world: Any) -> Desired:
    """What the operator's folder with these documents, one a file, asks for."""
    return World({f"{index}.yaml": text for index, text in enumerate(texts)}, **world).desired()


def said(found: Desired) -> list[str]:
    return [str(problem) for problem in found.problems]


def environment(found: Desired, name: str, task: str = "only", **given: Any) -> dict[str, str]:
    """The resolved environment of one task of a run made now, without the seed."""
    tasks = {each.id: each for each in make_tasks(found.workflows[name], found.around, **given)}
    return {key: value for key, value in tasks[task].env if not key.startswith("SCRIPTHUT_")}


def test_every_field_arrives() -> None:
    """A Workflow that says everything becomes a Revision that says everything."""
    asked = {"partition": "p", "cpus": 2, "memory": "1G", "time_limit": "1m", "gres": "gpu:1"}
    files = {"output_file": "o", "error_file": "e", "generates_source": "g.json"}
    retry = {"limit": 2, "on": ["lost"], "backoff": "5s"}
    spec = {
        "backend": "hpc",
        "title": "A title",
        "tasks": [
            {"id": "a", "command": "x", "name": "A", "working_dir": "/w", **asked},
            {"id": "b", "command": "y", "deps": ["a"], "backend": "local", **files},
            {"id": "c", "command": "z", "deps": ["*"], "when": "always", "allow_failure": True, "retry": retry},
        ],
        "trigger": {"on": ["change", "commit"]},
        "rerun": "again",
        "approve": "sha256:0",
        "suspend": {"reason": "r", "by": "b", "until": "1970-01-01T00:01:00Z"},
        "concurrency": "replace",
        "on_delete": "orphan",
        "max_concurrent": 3,
    }
    text = workflow("w", **spec).replace('"name": "w"', '"name": "w", "labels": {"team": "econ"}')
    found = desired(LOCAL, HPC, text)
    assert said(found) == []
    revision = found.workflows["w"]
    a, b, c = revision.tasks
    assert (a.id, a.name, a.working_dir, a.resources) == ("a", "A", "/w", Resources(2, 1024, 60, "p", "gpu:1"))
    assert (b.needs, b.backend, b.output_file, b.error_file, b.generates_source) == (("a",), "local", "o", "e", "g.json")
    assert (c.needs, c.when, c.allow_failure, c.retry) == (("a", "b"), When.ALWAYS, True, Retry(2, frozenset({Cause.LOST}), 5.0))
    assert (revision.backend, revision.title, revision.labels) == ("hpc", "A title", (("team", "econ"),))
    assert (revision.rerun, revision.approve, revision.suspend) == ("again", "sha256:0", Suspend("r", "b", 60.0))
    assert (revision.triggers, revision.concurrency) == ({Trigger.CHANGE, Trigger.COMMIT}, Concurrency.REPLACE)
    assert (revision.on_delete, revision.max_concurrent) == (OnDelete.ORPHAN, 3)
    assert (str(revision.place), revision.place.revision) == ("2.yaml:1", "sha256:0")


@pytest.mark.parametrize(
    ("root", "workdir", "file", "declared", "folder"),
    [
        ("/src", "", "w.yaml", "~", "/src"),
        ("/src", "", "sub/w.yaml", "~", "/src/sub"),
        ("/src", "", ".hut/w.yaml", "~", "/src"),
        ("/src", "", ".hut/workflows/w.json", "sub", "/src/sub"),
        ("/src", "repo", "sub/w.yaml", "~", "/src"),
        ("/src", "file", ".hut/w.yaml", "~", "/src/.hut"),
        ("/src", "file", "sub/w.yaml", "deeper/still", "/src/sub/deeper/still"),
        ("/src", "file", "sub/w.yaml", "../x", "/src/sub/../x"),
        ("/src", "file", "sub/w.yaml", ".", "/src/sub"),
        ("/src", "file", "sub/w.yaml", "./x", "/src/sub/x"),
        ("/src", "file", "sub/w.yaml", "", "/src/sub"),
        ("/src", "file", "sub/w.yaml", "/abs", "/abs"),
        ("/src", "file", "sub/w.yaml", "~/home", "~/home"),
        ("/", "file", "w.yaml", "~", "/"),
        ("", "", "sub/w.yaml", "~", ""),
        ("", "repo", "sub/w.yaml", "x", ""),
        ("", "", "w.yaml", "/abs", "/abs"),
        ("", "", "w.yaml", "~/home", "~/home"),
    ],
)
def test_working_folders(root: str, workdir: str, file: str, declared: str, folder: str) -> None:
    """Absolute and `~/x` stay; the rest begins at the source's root or the file's folder; without a checkout it is the job's own."""
    assert folder_of(declared, Origin(root=root, workdir=workdir).base(file)) == folder


def test_a_folder_that_does_not_exist_yet_is_a_warning() -> None:
    """A task of a git source that asks for a folder of the repository runs in one of its own, and that is said."""
    source = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}})
    world = World({"src.yaml": source}, {"src": Files({".hut/w.yaml": workflow("w", {"id": "a", "command": "x", "working_dir": "sub"})})})
    found = world.desired()
    assert found.workflows["src/w"].tasks[0].working_dir == ""
    assert "checkout" in found.warnings[("Workflow", "src/w")][0]


@pytest.mark.parametrize(
    ("backends", "named", "used"),
    [((), None, "local"), ((), "local", "local"), ((HPC,), None, "hpc"), ((LOCAL, HPC), None, "local"), ((LOCAL, HPC), "hpc", "hpc")],
)
def test_which_backend(backends: tuple[str, ...], named: str | None, used: str) -> None:
    """The one that is named, else the only one, else the one named `local`, which exists when none is declared."""
    found = desired(*backends, workflow("w", backend=named))
    assert said(found) == []
    assert found.workflows["w"].backend == used


@pytest.mark.parametrize(
    ("backends", "spec", "words"),
    [
        ((HPC,), {"backend": "hcp"}, "there is no Backend 'hcp' (did you mean 'hpc'?)"),
        ((HPC, HPC.replace("hpc", "other")), {}, "no backend is named, and there are several"),
        ((HPC,), {"tasks": [{"id": "a", "command": "x", "backend": "gone"}]}, "there is no Backend 'gone'"),
        ((HPC.replace('"type": "local"', '"type": "slurm"'),), {}, "Backend 'hpc' cannot be used: "),
        ((HPC.replace('"type": "local"', '"type": "slurm"'),), {"backend": "hpc"}, "Backend 'hpc' cannot be used: "),
    ],
)
def test_a_backend_that_cannot_be_used(backends: tuple[str, ...], spec: dict[str, Any], words: str) -> None:
    """A backend that is unknown, unclear or broken holds back what uses it, and says what to do; nothing runs elsewhere instead."""
    found = desired(*backends, workflow("w", **spec), workflow("free", backend="hpc"))
    assert "w" not in found.workflows
    assert words in str(found.stalled[("Workflow", "w")])
    assert ("free" in found.workflows) == ("slurm" not in backends[0])


def test_problems_of_the_graph_have_their_places() -> None:
    """Unknown ids, ids used twice and cycles are all told at once, each at its task."""
    text = """apiVersion: scripthut/v1
kind: Workflow
metadata: {name: w}
spec:
  tasks:
    - {id: a, command: x, deps: [nobody]}
    - {id: b, command: x, deps: [c]}
    - {id: c, command: x, deps: [b]}
    - {id: d, command: x}
    - {id: d, command: x}
"""
    found = desired(text)
    assert "w" not in found.workflows
    assert [(problem.file, problem.line) for problem in found.problems if "nobody" in problem.message] == [("0.yaml", 6)]
    assert [problem.line for problem in found.problems if "'d'" in problem.message or " d " in problem.message] == [10]
    assert [problem for problem in found.problems if "b" in problem.message and "c" in problem.message]


@pytest.mark.parametrize(
    ("spec", "line", "words"),
    [
        ("env: [{include: [base]}]", 5, "base"),
        ("env_groups: {a: [{include: [b]}], b: [{include: [a]}]}\n  env: [{include: [a]}]", 6, "a -> b -> a"),
    ],
)
def test_problems_of_the_environment_have_their_places(spec: str, line: int, words: str) -> None:
    """An unknown group and groups that include each other are found when the document is read, not when its run is made."""
    head = "apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n"
    found = desired(f"{head}  {spec}\n  tasks: [{{id: a, command: x}}]\n")
    problem = found.stalled[("Workflow", "w")]
    assert (problem.line, words in problem.message) == (line, True)


def test_a_group_that_only_a_task_misses() -> None:
    """It is told at the task that includes it."""
    found = desired(
        workflow("w", {"id": "a", "command": "x"}, {"id": "b", "command": "x", "env": [{"include": ["bse"]}]}, env_groups={"base": []})
    )
    assert "task b" in str(found.stalled[("Workflow", "w")])
    assert "did you mean 'base'" in str(found.stalled[("Workflow", "w")])


def test_the_chain_of_environments() -> None:
    """backend -> server -> workflow -> task: each sees what the ones before it have set, and wins over them."""

    settings = SETTINGS + "spec: {env: [{set: {S: s, LAST: s, ALL: '${ALL}s'}}], env_groups: {fast: [{set: {CC: cc}}]}}\n"
    backend = manifest("Backend", "hpc", {"type": "local", "env": [{"set": {"B": "b", "LAST": "b", "ALL": "b"}}]})
    task = {"id": "only", "command": "x", "env": [{"include": ["fast"], "set": {"T": "t", "LAST": "t", "ALL": "${ALL}t"}}]}
    text = workflow("w", task, env=[{"set": {"W": "w", "LAST": "w", "ALL": "${ALL}w"}}])
    found = World({"settings.yaml": settings, "b.yaml": backend, "w.yaml": text}).desired()
    assert said(found) == []
    assert environment(found, "w") == {"B": "b", "S": "s", "W": "w", "T": "t", "LAST": "t", "ALL": "bswt", "CC": "cc"}


def test_conditions_see_where_a_task_runs() -> None:
    """Rules can ask for the backend of each task, the workflow, and the run that is made."""
    rules = [{"if": {"SCRIPTHUT_BACKEND": "hpc"}, "set": {"AT": "hpc of ${SCRIPTHUT_WORKFLOW} ${SCRIPTHUT_RUN_ID}"}}]
    found = desired(
        LOCAL, HPC, workflow("w", {"id": "a", "command": "x", "backend": "hpc"}, {"id": "b", "command": "x"}, backend="local", env=rules)
    )
    assert environment(found, "w", "a", seed=RUN_SEED) == {"AT": f"hpc of w {'0' * 12}"}
    assert environment(found, "w", "b", seed=RUN_SEED) == {}
    assert environment(found, "w", "b", backend="hpc", seed=RUN_SEED) == {"AT": f"hpc of w {'0' * 12}"}


def test_parameters_win() -> None:
    """A parameter of a Run is what rules see, and no rule changes it, not in a group either."""
    rules = [{"set": {"N": "10"}}, {"include": ["more"]}, {"set": {"DIR": "out-${N}"}}]
    found = desired(workflow("w", env=rules, env_groups={"more": [{"append": {"N": "11"}}]}))
    assert environment(found, "w") == {"N": "10:11", "DIR": "out-10:11"}
    assert environment(found, "w", parameters=(("N", "20"),)) == {"N": "20", "DIR": "out-20"}
    backend = manifest("Backend", "hpc", {"type": "local", "env": [{"set": {"N": "1", "M": "${N}"}}]})
    assert environment(desired(backend, workflow("w")), "w", parameters=(("N", "20"),)) == {"N": "20", "M": "20"}


def test_old_words_of_tasks() -> None:
    """`environment: X` includes the group X, an unknown one is a warning; `env_vars` is one rule; `env` comes last."""
    tasks = [
        {"id": "only", "command": "x", "environment": "python", "env_vars": {"B": "vars", "C": "vars"}, "env": [{"set": {"C": "env"}}]},
        {"id": "other", "command": "x", "environment": "pyhton"},
    ]
    groups = {"python": [{"set": {"A": "group", "B": "group", "C": "group"}, "init": "module load python"}]}
    found = desired(workflow("w", *tasks, env_groups=groups))
    assert said(found) == []
    assert environment(found, "w") == {"A": "group", "B": "vars", "C": "env"}
    assert environment(found, "w", "other") == {}
    assert make_tasks(found.workflows["w"], found.around)[0].init == "module load python"
    assert "pyhton" in found.warnings[("Workflow", "w")][0]


def test_what_git_says_of_itself() -> None:
    """Tasks of a git source are told repository, branch and commit; never the daemon's credentials."""
    source = manifest("Source", "src", {"git": {"url": "https://bob:s3cret@example.org/a.git", "branch": "dev"}})
    commit = "1" * 40
    world = World({"src.yaml": source}, {"src": Files({".hut/w.yaml": workflow("w")}, commit=commit, revision=f"dev@sha1:{commit}")})
    found = world.desired()
    seed = (("SCRIPTHUT_GIT_REPO", "https://example.org/a.git"), ("SCRIPTHUT_GIT_BRANCH", "dev"), ("SCRIPTHUT_GIT_SHA", commit))
    assert found.workflows["src/w"].env_seed == seed
    assert set(seed) <= set(make_tasks(found.workflows["src/w"], found.around)[0].env)
    assert "s3cret" not in repr(found)


def test_a_task_whose_environment_cannot_be_made() -> None:
    """When the operator's rules change between reading and running, the error names the task."""
    found = desired(workflow("w", {"id": "a", "command": "x", "env": [{"include": ["base"]}]}, env_groups={"base": []}))
    revision = found.workflows["w"]
    broken = replace(revision, layer=replace(revision.layer, groups={}))
    with pytest.raises(EnvError, match="task a"):
        make_tasks(broken, found.around)


def test_ten_thousand_tasks_with_the_same_rules_share_one_environment() -> None:
    """What is equal is resolved once and kept once."""
    tasks = [{"id": f"t{index}", "command": "x", "environment": "py"} for index in range(500)]
    found = desired(workflow("w", *tasks, env_groups={"py": [{"set": {"A": "1"}}]}))
    made = make_tasks(found.workflows["w"], found.around)
    assert len({id(task.env) for task in made}) == 1


def test_a_backend_document() -> None:
    """What a Backend says arrives, its spool from its own folder; without max_concurrent it is the number of processors."""
    spec = {
        "type": "local",
        "max_concurrent": 2,
        "absence_grace": "1m",
        "login_shell": True,
        "spool": "../spool",
        "state": "draining",
        "suspend": {},
    }
    found = World({"sub/b.yaml": manifest("Backend", "hpc", spec), "c.yaml": manifest("Backend", "plain", {"type": "local"})}).desired()
    hpc, plain = found.backends["hpc"], found.backends["plain"]
    assert (hpc.max_concurrent, hpc.absence_grace_s, hpc.draining, hpc.suspend) == (2, 60.0, True, Suspend())
    assert dict(hpc.options) == {"login_shell": True, "spool": "/ops/spool"}
    assert (plain.max_concurrent, plain.draining, plain.suspend, dict(plain.options)) == (
        4,
        False,
        None,
        {"login_shell": False, "spool": ""},
    )
    assert desired().backends["local"].max_concurrent == 4


CLUSTER = {"account": "econ", "partition_map": {"normal": "batch"}, "default_partition": "short", "scheduler_args": ["--exclusive"]}


def test_a_slurm_backend_document() -> None:
    """What a Backend of type slurm says arrives in its options, plain, with files of this machine beside the document."""
    ssh = {
        "host": "login",
        "port": 2222,
        "user": "jo",
        "key_path": "keys/id",
        "cert_path": "~/.ssh/id-cert.pub",
        "known_hosts": "hosts",
        "jump": "gate:22",
        "config": "/etc/ssh/config",
    }
    more = {"array": "never", "poll": {"min": "1s", "max": "2m"}, "login_shell": True, "spool": "/scratch/jo", "max_concurrent": 7}
    found = World({"sub/b.yaml": manifest("Backend", "hpc", {"type": "slurm", "ssh": ssh, **CLUSTER, **more})}).desired()
    assert said(found) == []
    hpc = found.backends["hpc"]
    assert (hpc.type, hpc.max_concurrent) == ("slurm", 7)
    assert dict(hpc.options) == {
        "login_shell": True,
        "spool": "/scratch/jo",
        "host": "",
        "ssh": {**ssh, "key_path": "/ops/sub/keys/id", "known_hosts": "/ops/sub/hosts"},
        "account": "econ",
        "partition_map": {"normal": "batch"},
        "default_partition": "short",
        "scheduler_args": ("--exclusive",),
        "array": "never",
        "poll_min_s": 1.0,
        "poll_max_s": 120.0,
        "clone_dir": "",
    }


def test_what_a_slurm_backend_leaves_out() -> None:
    """A cluster's spool is in the home folder there, a thousand jobs go at a time, and ssh finds the rest as it always does."""
    here, there = {"type": "slurm", "host": "local"}, {"type": "slurm", "ssh": {"host": "login", "known_hosts": "accept-new"}}
    found = desired(manifest("Backend", "here", here), manifest("Backend", "there", there))
    assert said(found) == []
    nothing = dict.fromkeys(("user", "key_path", "cert_path", "jump", "config"), "")
    plain = {
        "login_shell": False,
        "spool": "~/.reconciler",
        "host": "local",
        "ssh": None,
        "account": "",
        "partition_map": {},
        "default_partition": "",
        "scheduler_args": (),
        "array": "auto",
        "poll_min_s": 2.0,
        "poll_max_s": 60.0,
        "clone_dir": "",
    }
    assert dict(found.backends["here"].options) == plain
    ssh = {"host": "login", "port": None, "known_hosts": "accept-new", **nothing}
    assert dict(found.backends["there"].options) == {**plain, "host": "", "ssh": ssh}
    assert [each.max_concurrent for each in found.backends.values()] == [1000, 1000]


def test_paths_of_a_cluster() -> None:
    """A spool that is relative is on no cluster, and a key that is relative to a file in git is nowhere: each is told at its place."""
    spec = {"type": "slurm", "ssh": {"host": "login", "key_path": "id"}, "spool": "spool"}
    found = World({"b.yaml": manifest("Backend", "hpc", spec)}, root="").desired()
    assert [problem.message for problem in found.problems if problem.subject == "Backend/hpc"] == [
        "'id' must be absolute: this file is in a git repository, beside which there is nothing",
        "spool is a folder of the cluster: write it absolute or with ~/ in front, not 'spool'",
    ]


@pytest.mark.parametrize("key", ["password", "passphrase"])
@pytest.mark.parametrize("place", ["spec", "ssh"])
def test_passwords_are_refused_with_the_cure(key: str, place: str) -> None:
    """Who writes a password is told what to use instead, at the key; the password itself is not repeated."""
    spec: dict[str, Any] = {"type": "slurm", "ssh": {"host": "login"}}
    (spec if place == "spec" else spec["ssh"])[key] = "hunter2"
    found = desired(manifest("Backend", "hpc", spec))
    problem = found.stalled[("Backend", "hpc")]
    where = f"spec.{key}" if place == "spec" else f"spec.ssh.{key}"
    assert problem.message.startswith(f"{where} is never used: ")
    assert "ssh-add" in str(problem.cure) or "ssh-keygen" in str(problem.cure)
    assert "hunter2" not in str(found.problems)


HERE, FAR = {"type": "slurm", "host": "local", **CLUSTER}, {"type": "slurm", "ssh": {"host": "login"}, **CLUSTER}


def test_everything_a_task_asks_of_a_scheduler_arrives() -> None:
    """Each field of a task for a scheduler is in the task's resources, and what is left out is not asked for."""
    asked = {
        "partition": "p",
        "cpus": 2,
        "memory": "1G",
        "time_limit": "1m",
        "gres": "gpu:1",
        "account": "a",
        "qos": "q",
        "constraint": "c",
        "reservation": "r",
        "licenses": "l",
        "nodes": 3,
        "ntasks": 4,
        "scheduler_args": ["--exclusive"],
    }
    retry = {"limit": 1, "escalate": {"memory": 1.5, "time_limit": 2}}
    tasks = ({"id": "a", "command": "x", "requeue": True, "retry": retry, **asked}, {"id": "b", "command": "x"})
    found = desired(manifest("Backend", "hpc", HERE), workflow("w", *tasks))
    assert said(found) == []
    a, b = found.workflows["w"].tasks
    assert a.resources == Resources(2, 1024, 60, "p", "gpu:1", "a", "q", "c", "r", "l", 3, 4, ("--exclusive",))
    assert (a.requeue, a.retry) == (True, Retry(1, memory_factor=1.5, time_factor=2.0))
    assert (b.resources, b.requeue, b.retry) == (Resources(), False, Retry())
    assert (b.resources.nodes, b.resources.ntasks) == (0, 1)


@pytest.mark.parametrize(
    ("backend", "option", "message"),
    [
        (FAR, "--exclusive", ""),
        (FAR, "--exclusive=user", ""),
        (FAR, "--exclusively", "task a: the Backend does not allow the option --exclusively (allowed: --exclusive)"),
        (FAR, "--excl", "task a: the Backend does not allow the option --excl (allowed: --exclusive)"),
        ({**FAR, "scheduler_args": []}, "--nice=5", "task a: the Backend does not allow the option --nice (allowed: none)"),
        ({"type": "local"}, "--exclusive", ""),
    ],
)
def test_only_options_that_the_backend_allows(backend: dict[str, Any], option: str, message: str) -> None:
    """A task may use those options of the scheduler that its Backend names, in full; a local backend looks at none."""
    found = desired(manifest("Backend", "hpc", backend), workflow("w", {"id": "a", "command": "x", "scheduler_args": [option]}))
    assert [problem.message for problem in found.problems] == ([message] if message else [])
    assert ("w" in found.workflows) == (not message)


def test_a_problem_with_an_option_has_its_place() -> None:
    """The line and column of the option, the name of the backend of that very task, and what to do."""
    text = (
        "apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: w}\nspec:\n  backend: local\n  tasks:\n    - id: a\n"
        "      command: x\n      backend: hpc\n      scheduler_args:\n        - --exclusive\n        - --nice=5\n"
    )
    found = desired(LOCAL, manifest("Backend", "hpc", FAR), text)
    [problem] = found.problems
    assert (problem.line, problem.column) == (12, 11)
    assert problem.cure == "remove it, or add it to scheduler_args of Backend hpc"


@pytest.mark.parametrize(
    ("backend", "declared", "folder", "warned"),
    [
        (FAR, "~", "", False),
        (FAR, "sub", "", True),
        (FAR, "~/x", "~/x", False),
        (FAR, "/scratch", "/scratch", False),
        (HERE, "~", "/ops", False),
        (HERE, "sub", "/ops/sub", False),
    ],
)
def test_folders_on_a_cluster(backend: dict[str, Any], declared: str, folder: str, warned: bool) -> None:
    """Another machine does not have the folder that a manifest is in: tasks there run in a folder of their job's own, and that is said."""
    found = desired(manifest("Backend", "hpc", backend), workflow("w", {"id": "a", "command": "x", "working_dir": declared}))
    assert found.workflows["w"].tasks[0].working_dir == folder
    assert ["reached over ssh" in each for each in found.warnings.get(("Workflow", "w"), ())] == [True] * warned


def test_processes_on_a_local_backend_are_a_warning() -> None:
    """Who counts on several machines or processes is told that a local backend starts a command once; a cluster says nothing."""
    tasks = [{"id": name, "command": "x", **more} for name, more in (("a", {"nodes": 2}), ("b", {"ntasks": 2}), ("c", {"nodes": 1}))]
    tasks.append({"id": "d", "command": "x", "ntasks": 2, "backend": "hpc"})
    found = desired(LOCAL, manifest("Backend", "hpc", HERE), workflow("w", *tasks, backend="local"))
    assert found.warnings[("Workflow", "w")] == ("nodes and ntasks of a, b: a local backend is one machine and starts each command once",)


def test_a_source_document() -> None:
    """What a Source says arrives, with absolute paths."""
    git = {
        "url": "git@example.org:a.git",
        "tag": "v1",
        "deploy_key": "keys/a",
        "known_hosts": "~/.ssh/kh",
        "interval": "5m",
        "timeout": "9s",
    }
    found = World(
        {
            "sub/a.yaml": manifest(
                "Source", "a", {"git": git, "workdir": "file", "trigger": {"paths": ["src/**"]}, "allow": {"backends": ["local"]}}
            ),
            "b.yaml": manifest("Source", "b", {"path": "../code", "include": ["*.json"], "trigger": {"on": ["change"]}}),
            "c.yaml": manifest("Source", "c", {"git": {"url": "file:///srv/c.git"}}),
        }
    ).desired()
    assert said(found) == []
    a, b, c = (found.sources[name] for name in "abc")
    assert (a.url, a.branch, a.tag, a.commit) == ("git@example.org:a.git", "", "v1", "")
    assert (a.deploy_key, a.known_hosts, a.interval_s, a.timeout_s) == ("/ops/sub/keys/a", "~/.ssh/kh", 300.0, 9.0)
    assert (a.triggers, a.trigger_paths, a.workdir, a.backends) == ({Trigger.PATHS}, ("src/**",), "file", {"local"})
    assert (b.is_git, b.path, b.include, b.triggers) == (False, "/code", ("*.json",), {Trigger.CHANGE})
    assert (c.is_git, c.branch, c.triggers, c.interval_s) == (True, "main", {Trigger.MANUAL}, None)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("code", "every manifest is trusted"),
        (".", "trusted"),
        ("/ops/.state/x", "the daemon writes to"),
        ("/ops/status", "the daemon writes to"),
    ],
)
def test_a_source_where_none_can_be(path: str, words: str) -> None:
    """What lies in the trusted folder would be trusted, and what the daemon writes is never read as manifests."""
    found = desired(manifest("Source", "a", {"path": path}))
    assert "a" not in found.sources
    assert words in str(found.problems)


def test_relative_paths_in_a_trusted_git_repository() -> None:
    """Beside a file that is read from git there is nothing, so relative paths are refused at their place."""
    found = desired(manifest("Source", "a", {"path": "code"}), manifest("Backend", "b", {"type": "local", "spool": "x"}), root="")
    why = "must be absolute: this file is in a git repository, beside which there is nothing"
    assert [problem.message for problem in found.problems] == [f"'code' {why}", f"'x' {why}"]


def test_paths_beside_files() -> None:
    """Relative paths begin at the folder of the file that holds them."""
    assert beside("../a", "/ops", "sub/x.yaml") == "/ops/a"
    assert beside("~/a", "", "x.yaml") == "~/a"
    assert is_below("/ops/a", "/ops") and is_below("/ops", "/ops") and is_below("/x", "/")
    assert not is_below("/opsx", "/ops")
    assert not is_below("", "/ops")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"workflow": "w", "parameters": {"N": 2, "A": "x"}, "backend": "local"}, ("w", "", "local", (("A", "x"), ("N", "2")))),
        ({"run": "0" * 12, "state": "cancelled"}, ("", "0" * 12, "", ())),
    ],
)
def test_a_run_document(spec: dict[str, Any], expected: tuple[object, ...]) -> None:
    """What a Run asks for arrives."""
    request = desired(manifest("Run", "r", spec)).requests["r"]
    assert (request.workflow, request.run, request.backend, request.parameters) == expected
    assert request.state == spec.get("state", "")


def test_documents_of_one_file_keep_their_lines() -> None:
    """The place of an object is the line where its document begins."""
    found = desired(documents(workflow("a"), workflow("b")))
    assert [found.workflows[name].place.line for name in "ab"] == [1, 3]
