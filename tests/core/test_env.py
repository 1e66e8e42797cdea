"""Environment rules: what they come to, where each value came from, and that none of them can execute."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import env
from reconciler.core.env import Layer, Op, Operation, Ref, Resolved, Rule
from reconciler.errors import EnvError


def resolve(*rules: Rule, groups: Mapping[str, tuple[Rule, ...]] | None = None, seed: tuple[tuple[str, str], ...] = ()) -> Resolved:
    """One layer named `workflow`."""
    return env.resolve([Layer("workflow", rules, groups or {})], seed)


def values(resolved: Resolved) -> dict[str, str]:
    return dict(resolved.values)


def sets(**pairs: str) -> Rule:
    return Rule(set=tuple(pairs.items()))


def shell(resolved: Resolved, command: str, **outside: str) -> str:
    """What `command` prints in a real sh after init and exports, in an environment of nothing but `outside`."""
    lines = [resolved.init, *(env.assignment(name, value) for name, value in resolved.values), command]
    done = subprocess.run(["/bin/sh", "-eu", "-c", "\n".join(lines)], env=outside, capture_output=True, check=True, timeout=20)
    return done.stdout.decode()


def test_later_rules_win() -> None:
    """`set` replaces; layers are applied in the order given."""
    layers = [Layer("backend:hpc", (sets(A="1", B="1"),)), Layer("server", (sets(B="2"),)), Layer("task", (sets(C="3"),))]
    assert values(env.resolve(layers)) == {"A": "1", "B": "2", "C": "3"}


def test_known_names_are_substituted_and_others_left_for_the_backend() -> None:
    """`${NAME}` that the rules know is replaced, any other stays; no other form of `$` is touched."""
    resolved = resolve(sets(DATA="/data"), sets(OUT="${DATA}/${USER}/${SLURM_JOB_ID}", RAW="$DATA ${DATA:-x} $(DATA) `DATA` ${1}"))
    assert values(resolved) == {
        "DATA": "/data",
        "OUT": "/data/${USER}/${SLURM_JOB_ID}",
        "RAW": "$DATA ${DATA:-x} $(DATA) `DATA` ${1}",
    }


def test_a_name_set_later_is_not_known_earlier() -> None:
    """A value means what was known when its rule was applied; a later rule does not change it."""
    assert values(resolve(sets(A="${B}"), sets(B="late"))) == {"A": "${B}", "B": "late"}


def test_append_extends_what_is_known_and_else_the_backends_own() -> None:
    """`append` joins with a colon: to the value so far, or to the one that the name has on the backend."""
    resolved = resolve(sets(X="a"), Rule(append=(("X", "b"), ("PATH", "/opt/bin"))), Rule(append=(("PATH", "/more"),)))
    assert values(resolved) == {"X": "a:b", "PATH": "${PATH}:/opt/bin:/more"}


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        ({"KIND": ("gpu",)}, True),
        ({"KIND": ("cpu", "gpu")}, True),
        ({"KIND": ("cpu",)}, False),
        ({"KIND": ("gpu",), "SITE": ("home",)}, True),
        ({"KIND": ("gpu",), "SITE": ("away",)}, False),
        ({"NONE": ("",)}, False),
        ({"KIND": ()}, False),
        ({"SCRIPTHUT_BACKEND": ("hpc",)}, True),
    ],
)
def test_conditions_are_and_over_names_and_or_over_lists(conditions: dict[str, tuple[str, ...]], holds: bool) -> None:
    """A rule applies when every name has one of its texts; a name that is not set equals nothing."""
    rule = Rule(if_=tuple(conditions.items()), set=(("HIT", "1"),))
    resolved = resolve(sets(KIND="gpu", SITE="home"), rule, seed=(("SCRIPTHUT_BACKEND", "hpc"),))
    assert ("HIT" in values(resolved)) == holds


def test_a_group_stands_where_it_is_included_and_inherits_the_condition() -> None:
    """Rules of a group are applied before the rule's own, and only when the condition above holds."""
    groups = {"tools": (sets(TOOL="group"), Rule(init="module load tools"))}
    hit = resolve(Rule(include=("tools",), set=(("TOOL", "${TOOL}+own"),)), groups=groups)
    assert (values(hit), hit.init) == ({"TOOL": "group+own"}, "module load tools")
    miss = resolve(Rule(if_=(("A", ("1",)),), include=("tools",)), groups=groups)
    assert (values(miss), miss.init) == ({}, "")


def test_groups_of_a_later_layer_shadow_for_it_and_those_after_it_only() -> None:
    """A workflow that declares a group of the same name changes what it includes, not what the backend's rule includes."""
    use = Rule(include=("python",))
    layers = [
        Layer("backend:hpc", (use,), {"python": (sets(FROM_BACKEND="operator"),)}),
        Layer("workflow", (use,), {"python": (sets(FROM_WORKFLOW="author"),)}),
        Layer("task", (use,)),
    ]
    assert values(env.resolve(layers)) == {"FROM_BACKEND": "operator", "FROM_WORKFLOW": "author"}


def test_a_layer_does_not_see_groups_of_a_later_one() -> None:
    """What a workflow declares cannot reach into an operator's rule."""
    layers = [Layer("server", (Rule(include=("python",)),)), Layer("workflow", (), {"python": ()})]
    with pytest.raises(EnvError, match="server includes the group 'python', which neither it nor a layer before it declares"):
        env.resolve(layers)


def test_a_cycle_of_groups_is_named() -> None:
    """Groups that include each other are an error that names them."""
    groups = {"a": (Rule(include=("b",)),), "b": (Rule(include=("c",)),), "c": (Rule(include=("b",)),)}
    with pytest.raises(EnvError, match="workflow: groups include each other: b -> c -> b"):
        resolve(Rule(include=("a",)), groups=groups)
    with pytest.raises(EnvError, match=r"workflow: groups include each other: a -> a$"):
        resolve(Rule(include=("a",)), groups={"a": (Rule(include=("a",)),)})


def test_a_group_may_be_included_twice() -> None:
    """Twice is not a cycle."""
    groups = {"a": (Rule(append=(("X", "a"),)),)}
    assert values(resolve(sets(X="0"), Rule(include=("a", "a")), groups=groups)) == {"X": "0:a:a"}


def test_an_unknown_group_is_an_error_with_the_nearest_name() -> None:
    """A typing error is told, not skipped."""
    with pytest.raises(
        EnvError, match=re.escape("includes the group 'pyhton', which neither it nor a layer before it declares (did you mean 'python'?)")
    ):
        resolve(Rule(include=("pyhton",)), groups={"python": ()})


def test_an_unknown_legacy_environment_is_a_warning() -> None:
    """`environment: NAME` of the oldest files runs without the group, and says so once."""
    rule = Rule(include=("python-booth",), optional=True, set=(("A", "1"),))
    resolved = resolve(rule, rule)
    assert values(resolved) == {"A": "1"}
    assert resolved.warnings == ("workflow names the environment 'python-booth', which nobody declares; ignored",)


def test_protected_names_are_ignored_with_a_warning() -> None:
    """No rule sets or extends SCRIPTHUT_*, wherever it stands."""
    rule = Rule(set=(("SCRIPTHUT_RUN_ID", "mine"),), append=(("SCRIPTHUT_RUN_ID", "x"), ("SCRIPTHUT_NEW", "x")))
    resolved = resolve(rule, seed=(("SCRIPTHUT_RUN_ID", "5f0c21d9a7be"),))
    assert values(resolved) == {"SCRIPTHUT_RUN_ID": "5f0c21d9a7be"}
    assert resolved.warnings == (
        "SCRIPTHUT_RUN_ID belongs to SCRIPTHUT_*, which no rule may change; ignored (workflow)",
        "SCRIPTHUT_NEW belongs to SCRIPTHUT_*, which no rule may change; ignored (workflow)",
    )


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "É", "A;id", "$(id)"])
def test_a_name_that_no_shell_has_is_refused(name: str) -> None:
    """A name goes into a script unquoted, so it may hold nothing but letters, digits and `_`."""
    for rule in (Rule(set=((name, "x"),)), Rule(append=((name, "x"),))):
        with pytest.raises(EnvError, match="cannot be the name of an environment variable"):
            resolve(rule)
    with pytest.raises(EnvError, match="cannot be the name of an environment variable"):
        resolve(seed=((name, "x"),))


def test_every_value_knows_where_it_came_from() -> None:
    """Provenance names layer, group, operation and what each contributed; a `set` forgets what it replaced."""
    layers = [
        Layer("server", (Rule(include=("g",)), sets(B="old")), {"g": (sets(A="a"),)}),
        Layer("task", (Rule(append=(("A", "${B}x"),)), sets(B="new"))),
    ]
    assert env.resolve(layers, (("SCRIPTHUT_BACKEND", "hpc"),)).provenance == {
        "SCRIPTHUT_BACKEND": (Op("seed", "", Operation.SEED, "hpc"),),
        "A": (Op("server", "g", Operation.SET, "a"), Op("task", "", Operation.APPEND, "oldx")),
        "B": (Op("task", "", Operation.SET, "new"),),
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("${A}", (Ref("A"),)),
        ("/x/${A}${B_1}/y", ("/x/", Ref("A"), Ref("B_1"), "/y")),
        ("$A ${A:-x} ${} ${1} ${A", ("$A ${A:-x} ${} ${1} ${A",)),
        ("$${A}", ("$", Ref("A"))),
    ],
)
def test_a_value_is_literal_text_and_references(value: str, expected: tuple[str | Ref, ...]) -> None:
    """Only `${NAME}` is a reference; everything else is text."""
    assert env.shell_parts(value) == expected


def test_sizes_are_bounded() -> None:
    """Doubling a value forty times, and including groups twice each, end in an error instead of filling the memory."""
    doubling = [sets(V0="xx"), *(sets(**{f"V{place + 1}": f"${{V{place}}}${{V{place}}}"}) for place in range(40))]
    with pytest.raises(EnvError, match="longer than 100,000 characters"):
        resolve(*doubling)
    with pytest.raises(EnvError, match="makes the environment too long"):
        resolve(*(sets(**{f"V{place}": "x" * 90_000}) for place in range(20)))
    twice = {f"g{place}": (Rule(include=(f"g{place + 1}",) * 2),) for place in range(40)} | {"g40": (sets(A="1"),)}
    with pytest.raises(EnvError, match="more than 10,000 environment rules"):
        resolve(Rule(include=("g0",)), groups=twice)


def test_groups_nested_five_thousand_deep_do_not_recurse() -> None:
    """A long chain of groups is read like a short one."""
    groups = {f"g{place}": (Rule(include=(f"g{place + 1}",)),) for place in range(3000)} | {"g3000": (sets(A="1"),)}
    assert values(resolve(Rule(include=("g0",)), groups=groups)) == {"A": "1"}


def test_a_nul_is_refused() -> None:
    """No environment can hold one; cutting the value there would be silent."""
    with pytest.raises(EnvError, match="NUL"):
        resolve(sets(A="a\0b"))


def test_exports_are_ordered_so_that_references_mean_the_backends_own() -> None:
    """A value that means the backend's HOME is exported before HOME itself is changed."""
    resolved = resolve(sets(HOME="/tmp/home", CACHE="x"), sets(OTHER="y"))
    assert [name for name, _ in resolved.values] == ["HOME", "CACHE", "OTHER"]
    resolved = resolve(Rule(append=(("PATH", "/opt"),)), sets(OLD="${PATH}"))
    assert [name for name, _ in resolved.values] == ["OLD", "PATH"]
    assert shell(resolved, 'printf "%s|%s" "$OLD" "$PATH"', PATH="/bin") == "/bin:/opt|/bin:/opt"


def test_variables_that_swap_are_refused() -> None:
    """Two names that each mean the backend's own value of the other cannot be exported one by one."""
    rules = (sets(C="${A}"), sets(A="${B}"), sets(B="${C}"))
    with pytest.raises(EnvError, match="each mean the backend's own value of the other"):
        resolve(*rules)


# --- in a real shell


def test_path_is_extended_and_not_replaced() -> None:
    """`append: {PATH: /opt/x}` keeps the backend's own PATH, and leaves no empty entry where it has none."""
    resolved = resolve(Rule(append=(("PATH", "/opt/x"), ("MISSING", "/lib"))))
    assert shell(resolved, 'printf "%s|%s" "$PATH" "$MISSING"', PATH="/usr/bin") == "/usr/bin:/opt/x|/lib"


def test_references_are_expanded_by_the_backends_shell() -> None:
    """`/scratch/${USER}` means the user there; one that is not set there is empty, also under `set -u`."""
    resolved = resolve(sets(SCRATCH="/scratch/${USER}/${NOT_THERE}"))
    assert shell(resolved, 'printf %s "$SCRATCH"', USER="ada lovelace") == "/scratch/ada lovelace/"


def test_init_sees_what_it_mentions_and_exports_come_after() -> None:
    """`init` may use known values in any form of the shell; what it exports is overruled by the rules."""
    resolved = resolve(
        sets(STACK_DIR="/stacks/it's", MODE="rules"),
        Rule(init='export PATH="${STACK_DIR}/bin:$PATH"; export MODE=init; SEEN=${STACK_DIR:-none}'),
    )
    expected = "/stacks/it's/bin:/bin|rules|/stacks/it's"
    assert shell(resolved, 'printf "%s|%s|%s" "$PATH" "$MODE" "$SEEN"', PATH="/bin") == expected


def test_init_and_append_extend_path_once() -> None:
    """A name that rules extend keeps the backend's own value in `init`, so nothing is added twice."""
    resolved = resolve(Rule(append=(("PATH", "/opt/x"),)), Rule(init='PATH="/module:$PATH"'))
    assert shell(resolved, 'printf %s "$PATH"', PATH="/bin") == "/module:/bin:/opt/x"


def test_a_value_in_init_cannot_execute() -> None:
    """A value that looks like a command is data, also where init mentions it."""
    resolved = resolve(sets(P="$(echo ran)`echo ran`'; echo ran; '"), Rule(init='echo "${P}"'))
    assert shell(resolved, "") == "$(echo ran)`echo ran`'; echo ran; '\n"


SHELL_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.text(
    "$`\"'\\ \n;&|<>(){}*?~!#=\t-", max_size=30
)


@settings(max_examples=60)
@given(st.lists(SHELL_TEXT.filter(lambda text: "${" not in text), min_size=1, max_size=20))
def test_no_value_executes_or_changes_in_a_real_shell(texts: list[str]) -> None:
    """Whatever characters a value holds, the job's environment has exactly them."""
    resolved = resolve(*(sets(**{f"V{place}": text}) for place, text in enumerate(texts)))
    printed = shell(resolved, "".join(f'printf "%s." "$V{place}"; ' for place in range(len(texts))))
    assert printed == "".join(f"{text}." for text in texts)


@given(SHELL_TEXT, SHELL_TEXT, st.sampled_from(["KNOWN", "OTHER"]))
def test_nothing_but_references_is_changed(before: str, after: str, name: str) -> None:
    """Text around a `${NAME}` stays as it is, whether NAME is known or not."""
    resolved = resolve(sets(KNOWN="value"), sets(V=f"{before}${{{name}}}{after}"))
    inside = "value" if name == "KNOWN" else "${OTHER}"
    assert values(resolved)["V"] == f"{before}{inside}{after}"


NAMES = st.sampled_from(["A", "B", "C", "SCRIPTHUT_X"])
TEXTS = st.lists(st.sampled_from(["a", "b", "${A}", "${B}", "${C}", "/"]), max_size=4).map("".join)
RULES = st.builds(
    Rule,
    if_=st.lists(st.tuples(NAMES, st.lists(TEXTS, max_size=2).map(tuple)), max_size=1).map(tuple),
    set=st.lists(st.tuples(NAMES, TEXTS), max_size=2).map(tuple),
    append=st.lists(st.tuples(NAMES, TEXTS), max_size=2).map(tuple),
    init=st.sampled_from(["", "echo $A"]),
)


@given(st.lists(st.builds(Layer, st.just("layer"), st.lists(RULES, max_size=4).map(tuple)), max_size=4), st.integers(0, 4))
def test_layers_may_be_applied_in_two_steps(layers: list[Layer], cut: int) -> None:
    """What a workflow's tasks share may be resolved once: extending it is the same as resolving all layers together."""
    try:
        whole = env.resolve(layers)
    except EnvError:
        return
    try:
        part = env.resolve(layers[:cut])
    except EnvError:
        return  # the first part alone cannot be exported, the whole can: a later layer replaced one of the two
    extended = env.extend(part, layers[cut:])
    assert values(extended) == values(whole)
    assert (extended.init, extended.provenance, extended.warnings) == (whole.init, whole.provenance, whole.warnings)


@given(st.lists(RULES, max_size=6))
def test_what_is_left_refers_only_to_the_backend(rules: list[Rule]) -> None:
    """Exported in order, no value can see one that was exported before it: references always mean the backend's own."""
    try:
        resolved = resolve(*rules)
    except EnvError:
        return
    done: set[str] = set()
    for name, value in resolved.values:
        assert not {part.name for part in env.shell_parts(value) if isinstance(part, Ref)} & (done - {name})
        done.add(name)
