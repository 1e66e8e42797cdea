"""Files become documents or problems with file:line:column; a bad document never hurts its neighbours."""

from __future__ import annotations

import hashlib

import pytest
from pydantic import BaseModel, ValidationError

from reconciler.core.desired import Place
from reconciler.manifest.complaints import complaints, known_names, members, nearest, written_names
from reconciler.manifest.load import Loaded, Loader, load_file
from reconciler.manifest.schema import KINDS, TaskList
from reconciler.sources.base import Blob
from reconciler.yamltree import PROBLEMS_MAX

HEAD = "apiVersion: scripthut/v1\nkind: Workflow\nmetadata: {name: diamond}\n"
GOOD = HEAD + "spec:\n  tasks:\n    - {id: a, command: 'true'}\n"


def blob(text: str | bytes) -> Blob:
    data = text.encode() if isinstance(text, str) else text
    return Blob(hashlib.sha1(data).hexdigest(), data)


def load(text: str | bytes, path: str = "f.yaml", source: str = "") -> Loaded:
    return load_file(path, blob(text), source=source)


def told(loaded: Loaded) -> list[str]:
    return [str(problem) for problem in loaded.problems]


def test_a_valid_document_has_its_model_and_place() -> None:
    """A document knows its kind, name, model, file and line."""
    loaded = load("# first\n---\n" + GOOD + "---\n# nothing\n", path="a/f.yml", source="ml")
    assert (loaded.problems, loaded.failed, loaded.names_unknown) == ((), frozenset(), False)
    (document,) = loaded.documents
    assert (document.kind, document.name, document.is_task_list) == ("Workflow", "diamond", False)
    assert document.place == Place("ml", "a/f.yml", 3)
    assert document.model == KINDS["Workflow"].model_validate(document.raw)
    problem = document.problem(("spec", "tasks", 0, "deps", 3), "nothing like it", "look")
    assert str(problem) == "ml:a/f.yml:8:7: Workflow/diamond: nothing like it (look)"


MISTAKES = """\
apiVersion: scripthut/v1
kind: Workflow
metadata: {name: diamond, lables: {team: econ}}
spec:
  backend: hpc
  concurency: queue
  concurrency: quee
  tasks:
    - {id: setup, command: bash setup.sh, time_limit: "2 parsecs", cpu: 4, cpus: 0, image: foo}
    - {id: b, env: [{sett: {}}], deps: a, trigger: 3}
    - 5
  trigger: {on: [chnage]}
"""


def test_all_problems_of_a_document_are_told_at_once() -> None:
    """Every mistake is told at its key or value, in the order of the file, with the nearest known name and what to write."""
    assert told(load(MISTAKES)) == [
        "f.yaml:3:27: Workflow/diamond: metadata.lables: unknown key lables (did you mean labels?)",
        "f.yaml:6:3: Workflow/diamond: spec.concurency: unknown key concurency (did you mean concurrency?)",
        "f.yaml:7:16: Workflow/diamond: spec.concurrency is one of queue, allow, replace, not quee (did you mean queue?)",
        "f.yaml:9:55: Workflow/diamond: spec.tasks[0].time_limit: '2 parsecs' is not a duration: "
        "write a number with a unit, as in 30s, 5m, 1h30m, 7d, or 2:00:00",
        "f.yaml:9:68: Workflow/diamond: spec.tasks[0].cpu: unknown key cpu (did you mean cpus?)",
        "f.yaml:9:82: Workflow/diamond: spec.tasks[0].cpus is at least 1",
        "f.yaml:9:92: Workflow/diamond: spec.tasks[0].image is not supported yet",
        "f.yaml:10:7: Workflow/diamond: spec.tasks[1].command is missing (add command: …)",
        "f.yaml:10:22: Workflow/diamond: spec.tasks[1].env[0].sett: unknown key sett (did you mean set?)",
        "f.yaml:10:40: Workflow/diamond: spec.tasks[1].deps needs a list "
        "(write [one, two], or indented lines that start with '- ' below it)",
        "f.yaml:10:43: Workflow/diamond: spec.tasks[1].trigger: unknown key trigger",
        "f.yaml:11:7: Workflow/diamond: spec.tasks[2] needs keys with values (write {key: value}, or indented lines `key: value` below it)",
        "f.yaml:12:18: Workflow/diamond: spec.trigger.on[0] is one of change, paths, commit, stack, schedule, manual, not chnage "
        "(did you mean change?)",
    ]


ENVELOPES = {
    "foo: 1\n": "f.yaml:1:1: f.yaml is not a manifest: it has no apiVersion "
    "(add apiVersion: scripthut/v1, or leave the file out of what is included)",
    "- 1\n": "f.yaml:1:1: a manifest is a mapping (write apiVersion, kind, metadata and spec, each on a line of its own)",
    "text\n": "f.yaml:1:1: a manifest is a mapping (write apiVersion, kind, metadata and spec, each on a line of its own)",
    "apiVersion: apps/v1\nkind: Deployment\n": "f.yaml:1:13: apiVersion must be scripthut/v1, not apps/v1 (write scripthut/v1)",
    "apiVersion: 1\nkind: Workflow\n": "f.yaml:1:13: apiVersion must be scripthut/v1, not 1 (write scripthut/v1)",
    "apiVersion: scripthut/v1\n": "f.yaml:1:1: kind is missing "
    "(add kind: one of Settings, Backend, Source, Notification, Stack, Workflow, Run)",
    "apiVersion: scripthut/v1\nkind: workflows\n": "f.yaml:2:7: unknown kind workflows (did you mean Workflow?)",
    "apiVersion: scripthut/v1\nkind: Pod\n": "f.yaml:2:7: unknown kind Pod "
    "(known: Settings, Backend, Source, Notification, Stack, Workflow, Run)",
    "apiVersion: scripthut/v1\nkind: {a: b}\n": "f.yaml:2:7: unknown kind {'a': 'b'} "
    "(known: Settings, Backend, Source, Notification, Stack, Workflow, Run)",
}


@pytest.mark.parametrize("text", ENVELOPES)
def test_a_wrong_envelope_is_told(text: str) -> None:
    """What is not a manifest of ours is an error that names the file; its objects are unknown, so nothing of the file is taken away."""
    loaded = load(text)
    assert told(loaded) == [ENVELOPES[text]]
    assert loaded.names_unknown


def test_a_bad_document_names_itself_and_hurts_no_other() -> None:
    """Of a file with good and bad documents the good ones are there, and the bad ones are named so that their last version can stay."""
    bad = GOOD.replace("diamond", "bad").replace("command", "comand")
    aliased = GOOD.replace("diamond", "aliased").replace("'true'", "&x 'true'")
    loaded = load("---\n".join([GOOD, bad, aliased, GOOD.replace("diamond", "last")]))
    assert [document.name for document in loaded.documents] == ["diamond", "last"]
    assert loaded.failed == {("Workflow", "bad"), ("Workflow", "aliased")}
    assert not loaded.names_unknown
    assert [problem.subject for problem in loaded.problems] == ["Workflow/bad"] * 2 + ["Workflow/aliased"]


@pytest.mark.parametrize(
    "tail",
    ["---\na: [\n", "---\n" + GOOD.replace("kind: Workflow", "kind: Wrkflow"), "---\n" + GOOD.replace("diamond", "BAD NAME"), "a: b: c\n"],
)
def test_names_are_unknown_when_a_document_cannot_be_identified(tail: str) -> None:
    """A broken end of a file, an unknown kind or an unusable name: nobody can tell which objects are meant."""
    assert load(GOOD + tail).names_unknown


def test_a_task_list_is_a_workflow_named_by_its_path() -> None:
    """Both forms of ScriptHut's JSON are a Workflow whose name is the path, and problems are where they are in the file."""
    bare = load('[{"id": "a", "command": "x"}]', path="sub/.hut/workflows/f.JSON", source="ml")
    whole = load('{"title": "T", "tasks": [{"id": "a", "command": "x"}], "env": []}', path="x/sflow.json")
    assert [(d.kind, d.name, d.is_task_list) for d in bare.documents] == [("Workflow", "sub/.hut/workflows/f.JSON", True)]
    assert isinstance(whole.documents[0].model, TaskList)
    assert whole.documents[0].model.title == "T"
    assert str(bare.documents[0].problem(("tasks", 0, "command"), "m")) == (
        "ml:sub/.hut/workflows/f.JSON:1:25: Workflow/sub/.hut/workflows/f.JSON: m"
    )
    assert whole.documents[0].problem(("tasks", 0, "command"), "m").column == 49


@pytest.mark.parametrize("text", ["", "[", "{", '[{"id": "a"}]', '{"tasks": 1}', "[" * 60])
def test_a_broken_task_list_keeps_its_name(text: str) -> None:
    """Whatever is wrong in a task-list file, it is known which workflow it is."""
    loaded = load(text, path="a/f.json")
    assert loaded.failed == {("Workflow", "a/f.json")}
    assert not loaded.names_unknown
    assert loaded.documents == ()
    assert loaded.problems != ()


@pytest.mark.parametrize(("path", "kinds"), [("f.YAML", 1), ("f.Yml", 1), ("f.yaml", 1), ("f.yaml.txt", 0), ("yaml", 0), ("f", 0)])
def test_the_ending_of_the_name_decides(path: str, kinds: int) -> None:
    """Endings are read in any case; a file that was included and is neither YAML nor JSON is told by name."""
    loaded = load(GOOD, path=path)
    assert len(loaded.documents) == kinds
    assert told(loaded) == ([] if kinds else [f"{path}:0:0: this file is neither YAML nor JSON (leave it out of the Source's include)"])


def test_a_file_is_read_once_for_each_content() -> None:
    """The same path, content and source give the very same result; another of the three is read anew; the oldest is forgotten."""
    loader = Loader(files=2)
    first = loader.load("f.yaml", blob(GOOD), source="")
    assert loader.load("f.yaml", blob(GOOD), source="") is first
    assert loader.load("g.yaml", blob(GOOD), source="").documents[0].place.file == "g.yaml"
    assert loader.load("f.yaml", blob(GOOD), source="") is first
    assert loader.load("f.yaml", blob(GOOD), source="ml").documents[0].place.source == "ml"
    assert loader.load("f.yaml", blob(GOOD), source="") is first
    assert loader.load("f.yaml", blob(GOOD + " "), source="") is not first
    loader.load("h.yaml", blob(GOOD), source="")
    assert loader.load("f.yaml", blob(GOOD), source="") is not first


def test_problems_are_bounded_and_counted() -> None:
    """Thousands of mistakes in one file are told by the first hundred and a number."""
    tasks = "".join(f"    - {{id: t{number}, comand: x}}\n" for number in range(1500))
    loaded = load(HEAD + "spec:\n  tasks:\n" + tasks)
    assert len(loaded.problems) == PROBLEMS_MAX + 1
    assert loaded.problems[-1].message.startswith("at least 2,900 more problems")


SECRET = "hunter2"


@pytest.mark.parametrize(
    "spec",
    [
        f"tasks: [{{id: a, command: x, env: [{{set: {{TOKEN: [{SECRET}]}}}}]}}]",
        f"tasks: [{{id: a, command: x, env: [{{set: {SECRET}}}]}}]",
        f"tasks: [{{id: a, command: x, env: {SECRET}}}]",
        f"tasks: [{{id: a, command: x, env: [{{if: {{A: {{b: {SECRET}}}}}}}]}}]",
        f"tasks: [{{id: a, command: x, env: [{{init: [{SECRET}]}}]}}]",
        f"tasks: [{{id: a, command: x, env_vars: {{TOKEN: {{x: {SECRET}}}}}}}]",
        f"tasks: [{{id: a, command: [{SECRET}]}}]",
        f'tasks: [{{id: a, command: x}}]\n  env: [{{set: {{TOKEN: "{SECRET}\\0"}}}}]',
        f'tasks: [{{id: a, command: x}}]\n  env_groups: {{g: [{{append: {{T: "{SECRET * 19999}"}}}}]}}',
    ],
)
def test_secret_values_are_not_in_validation_errors(spec: str) -> None:
    """A value of an environment rule or a command never shows in a problem, whatever is wrong with it."""
    loaded = load(HEAD + "spec:\n  " + spec + "\n")
    assert loaded.documents == ()
    assert SECRET not in "\n".join(told(loaded))


@pytest.mark.parametrize("url", ["ext::https://u:hunter2@h/x", "http://u:hunter2@h/x.git", "https://u:hunter2@", "https://u:hunter2@h:x/y"])
def test_credentials_in_urls_are_not_in_validation_errors(url: str) -> None:
    """A refused git url is not repeated, because it may hold a token."""
    loaded = load(f'apiVersion: scripthut/v1\nkind: Source\nmetadata: {{name: ml}}\nspec: {{git: {{url: "{url}"}}}}\n')
    assert loaded.failed == {("Source", "ml")}
    assert SECRET not in "\n".join(told(loaded))


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_speaks_of_pydantic(kind: str) -> None:
    """Whatever is given for any field of any kind, the answer is in our own words: no url, no input_value, no unknown type of error."""
    for model, wrong in _wrong_documents(KINDS[kind]):
        try:
            model.model_validate(wrong)
        except ValidationError as error:
            for _, _, message, cure in complaints(model, error):
                text = f"{message} {cure}"
                assert "pydantic" not in text.lower()
                assert "input_value" not in text
                assert "does not fit here" not in text, error.errors()
                assert len(text) < 400


WRONG: tuple[object, ...] = (None, 1, -1, 1.5, True, "x", "", "a" * 100, [], [1], {}, {"a": 1}, [{}], [[1]], {"a b": {"c": []}}, 10**12)


def _wrong_documents(model: type[BaseModel], seen: frozenset[type[BaseModel]] = frozenset()) -> list[tuple[type[BaseModel], object]]:
    """Documents of `model` and of the models in it, each with one field that may be wrong."""
    found: list[tuple[type[BaseModel], object]] = [(model, wrong) for wrong in WRONG]
    found.extend((model, {name: wrong}) for name in written_names(model) for wrong in WRONG)
    for field in model.model_fields.values():
        for member in members(field.annotation):
            if isinstance(member, type) and issubclass(member, BaseModel) and member not in seen:
                found.extend(_wrong_documents(member, seen | {model}))
    return found


def test_known_names_follow_the_models() -> None:
    """The names that are suggested are those of the model at the place, through lists, maps and optional parts."""
    workflow = KINDS["Workflow"]
    assert {"apiVersion", "kind", "metadata", "spec"} == set(known_names(workflow, ()))
    assert {"set", "append", "if", "init"} < set(known_names(workflow, ("spec", "env_groups", "g", 0)))
    assert {"deps", "dependencies", "cpus"} < set(known_names(workflow, ("spec", "tasks", 3)))
    assert "until" in known_names(workflow, ("spec", "suspend"))
    assert known_names(workflow, ("metadata", "labels")) == ()
    assert known_names(workflow, ("spec", "nowhere", 1)) == ()


def test_suggestions_are_cheap_and_short() -> None:
    """A name of a megabyte is compared with nothing, and a long list of known names is not told."""
    assert nearest("x" * 1_000_000, ["xx"]) == "known: xx"
    assert nearest("zzz", [f"name{number}" for number in range(100)]) == ""
    assert nearest("LABLES", ["labels", "name"]) == "did you mean labels?"
