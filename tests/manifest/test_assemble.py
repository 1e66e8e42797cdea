"""All trees as one desired state: names, permissions, what stays in force, what is gone, and what a person must approve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.desired import Suspend
from reconciler.core.trigger import Gate, Limits
from reconciler.manifest.assemble import Desired, LastGood, assemble
from reconciler.sources.base import Refusal
from reconciler.yamltree import DOCUMENTS_MAX
from tests.manifest.samples import SETTINGS, SITE, Files, World, documents, manifest, workflow

SRC = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}})
LOCAL, HPC = manifest("Backend", "local", {"type": "local"}), manifest("Backend", "hpc", {"type": "local"})
BROKEN = "apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: w}\nspec: {tusks: []}\n"


def tree(texts: dict[str, str], commit: str = "1" * 40, **other: Any) -> Files:
    return Files(texts, commit=commit, revision=f"main@sha1:{commit}", **other)


def with_source(texts: dict[str, str], **operator: str) -> World:
    return World({"src.yaml": SRC, **operator}, {"src": tree(texts)})


def commands(found: Desired) -> dict[str, str]:
    """The first command of each workflow in force."""
    return {name: revision.tasks[0].command for name, revision in found.workflows.items()}


def running(name: str, command: str) -> str:
    return workflow(name, {"id": "a", "command": command})


def test_names_are_qualified_by_source() -> None:
    """Objects of the operator have their name, those of a source its name in front, task-list files their path."""
    world = with_source({".hut/w.yaml": running("w", "b"), ".hut/workflows/x.json": '[{"id": "a", "command": "c"}]'}, w=running("w", "a"))
    world.operator = {"src.yaml": SRC, "w.yaml": running("w", "a"), "lists/l.json": '[{"id": "a", "command": "d"}]'}
    found = world.desired()
    assert found.problems == ()
    assert commands(found) == {"w": "a", "src/w": "b", "src/.hut/workflows/x.json": "c", "lists/l.json": "d"}
    assert found.workflows["src/w"].place.commit == "1" * 40
    assert str(found.workflows["src/w"].place) == "src:.hut/w.yaml:1"


def test_a_bad_document_hurts_nobody_else() -> None:
    """Of many documents, in one file and in others, only the bad one is missing, and it says why."""
    world = World(
        {"a.yaml": documents(workflow("a"), BROKEN, workflow("b")), "c.yaml": workflow("c"), "junk.yaml": "{", "x.yaml": "a: b\n"}
    )
    found = world.desired()
    assert set(found.workflows) == {"a", "b", "c"}
    assert set(found.stalled) == {("Workflow", "w")}
    assert {problem.file for problem in found.problems} == {"a.yaml", "junk.yaml", "x.yaml"}


@pytest.mark.parametrize("bad", [BROKEN, workflow("w", {"id": "a", "command": "x", "deps": ["gone"]}), workflow("w", backend="gone"), "{"])
def test_the_last_good_version_stays_in_force(bad: str) -> None:
    """A document that becomes bad, in any way, goes on meaning what it meant; it stalls until it is good again."""
    world = World({"w.yaml": running("w", "first")})
    first = world.desired()
    world.operator = {"w.yaml": bad}
    second = world.desired()
    assert second.workflows["w"] == first.workflows["w"]
    assert ("Workflow", "w") in second.stalled
    assert second.gone == {}
    world.operator = {"w.yaml": running("w", "second")}
    third = world.desired()
    assert (commands(third), dict(third.stalled), third.problems) == ({"w": "second"}, {}, ())


def test_a_document_that_moves_is_the_same_object() -> None:
    """Another file, or another place in a file, changes neither digest nor name, and nothing is gone."""
    world = World({"w.yaml": workflow("w")})
    before = world.desired().workflows["w"]
    world.operator = {"sub/all.yaml": documents(workflow("v"), workflow("w"))}
    found = world.desired()
    assert found.workflows["w"].digest == before.digest
    assert (found.gone, str(found.workflows["w"].place)) == ({}, "sub/all.yaml:3")


def test_a_document_that_is_removed_is_gone_once() -> None:
    """It is told in the cycle that removes it; whether it is gone can be asked at any time."""
    world = World({"w.yaml": workflow("w"), "v.yaml": workflow("v")})
    world.desired()
    world.operator = {"v.yaml": workflow("v")}
    found = world.desired()
    assert (set(found.workflows), set(found.gone), found.is_gone("Workflow", "w", "")) == ({"v"}, {("Workflow", "w")}, True)
    later = world.desired()
    assert (later.gone, later.is_gone("Workflow", "w", ""), later.is_gone("Workflow", "v", "")) == ({}, True, False)


@pytest.mark.parametrize("same_file", [True, False])
def test_two_documents_with_one_name(same_file: bool) -> None:
    """Neither is in force, each is told where the other is, and when one is left it runs."""
    one, two = running("w", "one"), running("w", "two")
    world = World({"one.yaml": one})
    world.desired()
    world.operator = {"one.yaml": documents(one, two)} if same_file else {"one.yaml": one, "two.yaml": two}
    found = world.desired()
    assert (commands(found), found.gone) == ({}, {})
    assert not found.is_gone("Workflow", "w", "")
    told = [str(problem) for problem in found.problems]
    assert len(told) == 2
    assert all("declared twice" in each for each in told)
    world.operator = {"two.yaml": two}
    assert commands(world.desired()) == {"w": "two"}


def test_a_bad_twin_also_takes_the_name() -> None:
    """A valid document does not run while another, broken one claims its name: nobody can tell which is meant."""
    found = World({"a.yaml": workflow("w"), "b.yaml": BROKEN}).desired()
    assert commands(found) == {}
    assert ("Workflow", "w") in found.stalled


def test_names_that_only_collide_when_qualified() -> None:
    """`src/x.json` of the operator's folder and `x.json` of the source `src` would be one name: neither runs."""
    listed = '[{"id": "a", "command": "c"}]'
    source = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}, "include": ["*.json"]})
    found = World({"src.yaml": source, "src/x.json": listed}, {"src": tree({"x.json": listed})}).desired()
    assert commands(found) == {}
    assert ("Workflow", "src/x.json") in found.stalled


@pytest.mark.parametrize("kind", ["Backend", "Source", "Settings"])
def test_a_source_declares_nothing_of_the_operator(kind: str) -> None:
    """A Backend, Source or Settings in a repository is a problem of that repository and means nothing."""
    texts = {"Backend": LOCAL, "Source": SRC, "Settings": SETTINGS}
    found = with_source({"x.yaml": texts[kind], "w.yaml": workflow("w")}).desired()
    assert ["a source may not declare a " + kind in problem.message for problem in found.problems] == [True]
    assert (set(found.sources), set(found.backends), set(found.workflows)) == ({"src"}, {"local"}, {"src/w"})


def test_kinds_that_the_source_does_not_allow() -> None:
    """`allow.kinds` decides which kinds a source may declare."""
    source = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}, "allow": {"kinds": ["Workflow"]}})
    texts = {"r.yaml": manifest("Run", "r", {"workflow": "w"}), "w.yaml": workflow("w")}
    found = World({"src.yaml": source}, {"src": tree(texts)}).desired()
    assert (set(found.requests), set(found.workflows)) == (set(), {"src/w"})
    assert [problem.message for problem in found.problems] == ["Source src may not declare a Run"]


@pytest.mark.parametrize(
    ("backend", "allow", "named", "used"),
    [
        (None, [], None, "local"),
        (None, [], "local", "local"),
        (None, [], "hpc", None),
        ("hpc", [], None, "hpc"),
        ("hpc", [], "hpc", "hpc"),
        ("hpc", [], "local", None),
        ("hpc", ["local"], "local", "local"),
        (None, ["hpc"], "hpc", "hpc"),
    ],
)
def test_which_backends_a_source_may_use(backend: str | None, allow: list[str], named: str | None, used: str | None) -> None:
    """The Source's own backend, always; others only if they are allowed. What is not allowed holds the workflow back."""
    source = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}, "backend": backend, "allow": {"backends": allow}})
    for spec in ({"backend": named}, {"tasks": [{"id": "a", "command": "x", "backend": named}]}):
        texts = {"w.yaml": workflow("w", **spec), "r.yaml": manifest("Run", "r", {"workflow": "w", "backend": named})}
        found = World({"src.yaml": source, "l.yaml": LOCAL, "h.yaml": HPC}, {"src": tree(texts)}).desired()
        ran = found.workflows.get("src/w")
        assert (used is not None) == (ran is not None) == ("src/r" in found.requests)
        if ran is not None and "backend" in spec:
            assert ran.backend == used
        if used is None:
            assert "may not use Backend" in str(found.stalled[("Workflow", "src/w")])


def test_a_source_that_is_not_declared_means_nothing() -> None:
    """A tree without a Source document is ignored."""
    world = World({}, {"src": tree({"w.yaml": workflow("w")})})
    assert set(world.desired().workflows) == set()


def test_a_source_that_was_not_looked_at_is_not_empty() -> None:
    """Until its tree is here nothing of it is gone; then everything that is not in it is."""
    world = with_source({"w.yaml": workflow("w"), "v.yaml": workflow("v")})
    world.desired()
    trees, world.sources = world.sources, {}
    found = world.desired()
    assert (set(found.workflows), found.gone, found.settled) == ({"src/w", "src/v"}, {}, {""})
    assert not found.is_gone("Workflow", "src/other", "src")
    world.sources = {"src": tree({"w.yaml": workflow("w")})}
    found = world.desired()
    assert (set(found.workflows), set(found.gone), found.settled) == ({"src/w"}, {("Workflow", "src/v")}, {"", "src"})
    assert found.is_gone("Workflow", "src/other", "src")
    assert trees


def test_a_source_whose_document_is_removed() -> None:
    """All that it brought is gone, and it is not guarded: that was the operator's word. A broken document removes nothing."""
    world = with_source({f"{name}.yaml": workflow(name) for name in "abcd"})
    world.desired()
    world.operator = {"src.yaml": SRC.replace("https", "ftp")}
    broken = world.desired()
    assert (len(broken.workflows), broken.gone, set(broken.sources)) == (4, {}, {"src"})
    assert ("Source", "src") in broken.stalled
    world.operator = {}
    found = world.desired()
    assert (found.workflows, len(found.gone), found.sources) == ({}, 5, {})
    assert found.is_gone("Workflow", "src/a", "src")


@pytest.mark.parametrize(
    ("before", "after", "limits", "kept"),
    [
        ("abcd", "ab", {}, False),  # half is not more than half
        ("abcd", "a", {}, True),
        ("abc", "a", {}, False),  # two are fewer than three
        ("abc", "", {}, True),
        ("a", "", {}, True),  # an empty tree, however small it was
        ("abcd", "a", {"delete_guard": {"share": 0.9}}, False),
        ("abcd", "abc", {"delete_guard": {"share": 0.1, "min": 1}}, True),
        ("abcd", "efgh", {}, True),  # also when others come
        ("abcd", "aefghijkl", {}, True),
    ],
)
def test_a_commit_that_removes_too_much_removes_nothing(before: str, after: str, limits: dict[str, Any], kept: bool) -> None:
    """The source stalls and says what to write; what was declared stays in force; approved, it is gone."""
    git = {"url": "https://example.org/a.git"}
    world = World(
        {"src.yaml": manifest("Source", "src", {"git": git, "limits": limits})}, {"src": tree({f"{n}.yaml": workflow(n) for n in before})}
    )
    world.desired()
    commit = "2" * 40
    world.sources = {"src": tree({f"{name}.yaml": workflow(name) for name in after}, commit)}
    for _ in range(2):  # it does not pass by waiting
        found = world.desired()
        assert set(found.workflows) == {f"src/{name}" for name in (before if kept else after)}
        assert (("Source", "src") in found.stalled) == kept
        assert ("src" in found.settled) != kept
        assert not kept or {("Workflow", f"src/{name}") for name in set(after) - set(before)} <= set(found.stalled)
    if kept:
        assert f"approve: {commit}" in found.stalled[("Source", "src")].cure
        world.operator = {"src.yaml": manifest("Source", "src", {"git": git, "limits": limits, "approve": commit})}
        found = world.desired()
        assert set(found.workflows) == {f"src/{name}" for name in after}
        assert {name for _, name in found.gone} == {f"src/{name}" for name in set(before) - set(after)}


def test_an_approval_is_for_one_commit() -> None:
    """An approval of an older commit lets nothing through."""
    source = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}, "approve": "1" * 40})
    world = World({"src.yaml": source}, {"src": tree({f"{name}.yaml": workflow(name) for name in "abcd"})})
    world.desired()
    world.sources = {"src": tree({"a.yaml": workflow("a")}, "2" * 40)}
    assert len(world.desired().workflows) == 4


def test_the_guard_knows_what_only_the_ledger_knows() -> None:
    """After a restart, objects that are known by name alone count as declared before."""
    world = with_source({"a.yaml": workflow("a")})
    world.good = {("Workflow", f"src/{n}"): LastGood("Workflow", f"src/{n}", "src", f"{n}.yaml", None) for n in "abcd"}
    found = world.desired()
    assert (set(found.workflows), found.gone) == ({"src/a"}, {})
    assert "removes 3 of 4" in found.stalled[("Source", "src")].message
    assert not found.is_gone("Workflow", "src/b", "src")


def test_an_unreadable_file_removes_nothing() -> None:
    """A file with broken syntax, one that became a symlink, and a document without a readable name keep what they held before."""
    world = with_source(
        {"a.yaml": workflow("a"), "b.yaml": workflow("b"), "c.yaml": workflow("c"), "d.yaml": workflow("d"), "e.yaml": workflow("e")}
    )
    world.desired()
    nameless = workflow("c").replace('"c"', '"N O"')
    texts = {"a.yaml": "{", "c.yaml": nameless, "d.yaml": workflow("d")}
    world.sources = {"src": tree(texts, refused=(Refusal("b.yaml", "is a symlink"),))}
    found = world.desired()
    assert set(found.workflows) == {"src/a", "src/b", "src/c", "src/d"}
    assert set(found.gone) == {("Workflow", "src/e")}
    assert {name for _, name in found.stalled} == {"src/a", "src/b", "src/c"}
    assert "src:b.yaml:0:0: is a symlink" in [str(problem) for problem in found.problems]
    assert not found.is_gone("Workflow", "src/unheard", "src")


def test_too_many_documents() -> None:
    """A tree beyond the limit is read up to it, says so, and removes nothing."""
    world = with_source({"w.yaml": workflow("w")})
    world.desired()
    many = {f"{index:05}.json": '[{"id": "a", "command": "x"}]' for index in range(DOCUMENTS_MAX + 1)}
    source = manifest("Source", "src", {"git": {"url": "https://example.org/a.git"}, "limits": {"delete_guard": {"share": 1, "min": 9}}})
    world.operator, world.sources = {"src.yaml": source}, {"src": tree(many)}
    found = world.desired()
    assert (len(found.workflows), "src/w" in found.workflows, found.gone) == (DOCUMENTS_MAX + 1, True, {})
    assert [problem.message for problem in found.problems] == ["more than 10,000 documents in one source"]
    assert "src" not in found.settled


def test_backends_stay_while_their_document_is_bad() -> None:
    """What runs on a backend goes on, and its workflows stay in force, while its document is being repaired; once it is removed nothing
    runs on this machine instead."""
    world = World({"b.yaml": HPC, "w.yaml": workflow("w", backend="hpc")})
    before = world.desired()
    world.operator = {"b.yaml": HPC.replace('"type": "local"', '"type": "lokal"'), "w.yaml": workflow("w", backend="hpc")}
    found = world.desired()
    assert (found.backends, found.workflows) == (before.backends, before.workflows)
    assert set(found.stalled) == {("Backend", "hpc")}
    world.operator = {"w.yaml": workflow("w", backend="hpc")}
    found = world.desired()
    assert (set(found.gone), set(found.backends), set(found.workflows)) == ({("Backend", "hpc")}, set(), {"w"})
    assert "Backend 'hpc' cannot be used: was removed" in str(found.stalled[("Workflow", "w")])


def test_a_local_backend_is_there_when_none_is_declared() -> None:
    """But not beside a Backend that is declared badly: that would run things in the wrong place."""
    assert set(World({}).desired().backends) == {"local"}
    assert set(World({"b.yaml": HPC.replace('"type": "local"', '"type": "slurm"')}).desired().backends) == set()
    assert set(World({"junk.yaml": "{"}).desired().backends) == {"local"}


def test_settings_that_go_bad_keep_their_last_good_version() -> None:
    """A running daemon goes on with the settings it had, and says what is wrong."""
    world = World({"w.yaml": workflow("w")})
    world.operator = {"settings.yaml": SETTINGS + "spec: {env: [{set: {A: a}}], limits: {runs_per_commit: 7}}\n", "w.yaml": workflow("w")}
    first = world.desired()
    assert first.limits == Limits(7, None)
    for bad in (SETTINGS + "spec: {evn: []}\n", documents(SETTINGS, SETTINGS.replace("{name: me}", "{name: you}")), ""):
        world.operator = {"settings.yaml": bad, "w.yaml": workflow("w")}
        found = world.desired()
        assert (found.limits, found.around, set(found.workflows)) == (first.limits, first.around, {"w"})
        assert [kind for kind, _ in found.stalled] == ["Settings"] * (2 if "you" in bad else 1)


def test_an_empty_folder_of_the_operator_is_told() -> None:
    """Without any Settings the rest still means what it says, and the cure is named."""
    world = World({"settings.yaml": "", "w.yaml": workflow("w")})
    found = world.desired()
    assert set(found.workflows) == {"w"}
    assert "reconciler init" in str(found.stalled[("Settings", "")])


@pytest.mark.parametrize("kind", ["Stack", "Notification"])
def test_a_kind_that_comes_later_stalls(kind: str) -> None:
    """It is an object that cannot be honoured, not only a line among the problems."""
    spec = {"events": ["x"], "to": {}} if kind == "Notification" else {}
    found = World({"x.yaml": manifest(kind, "x", spec)}).desired()
    assert "not supported yet" in found.stalled[(kind, "x")].message


def test_limits_and_gates() -> None:
    """A Source's limits replace the Settings' one by one; its suspension and approval are handed on."""
    settings = SETTINGS + "spec: {limits: {runs_per_commit: 7, core_hours_per_run: 9}}\n"
    spec = {"git": {"url": "https://example.org/a.git"}, "limits": {"runs_per_commit": 0}, "suspend": {"reason": "r"}, "approve": "x"}
    found = World({"settings.yaml": settings, "src.yaml": manifest("Source", "src", spec)}).desired()
    assert found.limits == Limits(7, 9.0)
    assert found.gates == {"src": Gate(Suspend("r"), "x", Limits(0, 9.0))}


def test_paths_enter_the_digest() -> None:
    """The blobs that `paths` matches are in the digest: another content is another digest, other files are not looked at."""
    text = workflow("w", trigger={"paths": ["src/**"]})
    world = with_source({})
    digests = []
    for others in ({"src/a": "1", "doc": "1"}, {"src/a": "1", "doc": "2"}, {"src/a": "2"}, {"src/a": "2", "src/b": ""}, {"src/a": "1"}):
        world.sources = {"src": tree({"w.yaml": text}, others=others)}
        digests.append(world.desired().workflows["src/w"].digest)
    assert [digests.index(digest) for digest in digests] == [0, 0, 2, 3, 0]


def test_task_lists_run_when_the_source_says_so() -> None:
    """They are manual by themselves; the Source's trigger, with its paths, is theirs."""
    listed = '[{"id": "a", "command": "c"}]'
    world = with_source({".hut/workflows/x.json": listed})
    assert world.desired().workflows["src/.hut/workflows/x.json"].triggers == {"manual"}
    spec = {"git": {"url": "https://example.org/a.git"}, "trigger": {"paths": ["src/**"]}}
    world.operator = {"src.yaml": manifest("Source", "src", spec)}
    world.sources = {"src": tree({".hut/workflows/x.json": listed}, others={"src/a": "1"})}
    found = world.desired().workflows["src/.hut/workflows/x.json"]
    assert (found.triggers, "src/a" in found.canonical) == ({"paths"}, True)


@pytest.mark.parametrize(
    ("asked", "meant"), [("w", "src/w"), ("src/w", "src/w"), ("other/w", "src/other/w"), ("src/x.json", "src/src/x.json"), ("x", "src/x")]
)
def test_a_run_of_a_source_names_its_own_workflows(asked: str, meant: str) -> None:
    """With or without its own name in front; never another source's."""
    texts = {"w.yaml": workflow("w"), "src/x.json": '[{"id": "a", "command": "c"}]', "r.yaml": manifest("Run", "r", {"workflow": asked})}
    assert with_source(texts).desired().requests["src/r"].workflow == meant


def test_a_run_of_the_operator_names_any_workflow() -> None:
    """By its qualified name, as it is."""
    found = World({"r.yaml": manifest("Run", "r", {"workflow": "src/w"})}).desired()
    assert found.requests["r"].workflow == "src/w"


def test_what_did_not_change_is_not_made_again() -> None:
    """The same document in the same surroundings gives the very same object, also from a new commit (but for its place)."""
    world = with_source({"w.yaml": workflow("w", env=[{"set": {"A": "1"}}])})
    first = world.desired().workflows["src/w"]
    assert world.desired().workflows["src/w"] is first
    world.sources = {"src": tree({"w.yaml": workflow("w", env=[{"set": {"A": "1"}}])}, "2" * 40)}
    second = world.desired().workflows["src/w"]
    assert second.tasks is first.tasks
    assert (second.place.commit, dict(second.env_seed)["SCRIPTHUT_GIT_SHA"]) == ("2" * 40, "2" * 40)


@pytest.mark.parametrize("changed", ["server", "backend", "file"])
def test_what_it_depends_on_is_looked_at_again(changed: str) -> None:
    """Rules of the server, backends and the folder matter for an unchanged document."""
    text = workflow("w", env=[{"include": ["g"]}])
    good = SETTINGS + "spec: {env_groups: {g: []}}\n"
    world = World({"settings.yaml": good, "b.yaml": HPC, "w.yaml": text})
    before = world.desired()
    assert before.problems == ()
    if changed == "server":
        world.operator = {"settings.yaml": SETTINGS, "b.yaml": HPC, "w.yaml": text}
        assert ("Workflow", "w") in world.desired().stalled
    elif changed == "backend":
        world.operator = {"settings.yaml": good, "b.yaml": HPC.replace("hpc", "new"), "w.yaml": text}
        assert world.desired().workflows["w"].backend == "new"
    else:
        world.operator = {"settings.yaml": good, "b.yaml": HPC, "sub/w.yaml": text}
        assert world.desired().workflows["w"].tasks[0].working_dir == "/ops/sub"


def test_the_same_trees_give_the_same_answer() -> None:
    """A second daemon, or this one after a restart, comes to the same desired state."""
    world = with_source(
        {"w.yaml": workflow("w"), "bad.yaml": BROKEN.replace("{name: w}", "{name: b}"), "r.yaml": manifest("Run", "r", {"workflow": "w"})}
    )
    once, again = assemble(*world.views(), {}, SITE), assemble(*world.views(), {}, SITE)
    assert replace(once, good={}) == replace(again, good={})
