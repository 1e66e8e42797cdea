"""When a commit runs something: one test or more for each rule, numbered as in the manifest format's description."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import trigger
from reconciler.core.desired import Concurrency, OnDelete, Place, Resources, Revision, RunRequest, Suspend, Task, Trigger
from reconciler.core.names import digest_of
from reconciler.core.record import Phase, RunHead
from reconciler.core.trigger import Context, Decisions, Gate, Held, Limits, Owed, Waiting, Word, by_hand, occasion_of, owed

NOW = 1_000_000.0
CONTEXT = Context("main")
COMMIT_A, COMMIT_B = "a" * 40, "b" * 40


def place(commit: str = "", source: str = "src", revision: str = "") -> Place:
    return Place(source, "w.yaml", 1, commit, revision or (f"main@sha1:{commit}" if commit else "sha256:folder"))


def revision(text: str = "one", name: str = "w", **changes: object) -> Revision:
    """A workflow whose digest follows from `text`."""
    made = Revision(name, place(COMMIT_A), digest_of(text), text, (Task("t", "true"),), "local")
    return replace(made, **changes)  # type: ignore[arg-type]  # field names are checked by dataclasses


def head(debt: Owed, at: float = NOW) -> RunHead:
    """The head of a run that has just been made."""
    return RunHead(debt.run_id, debt.revision.name, debt.revision.digest, debt.occasion, Phase.WAITING, False, False, at)


def begun(was: RunHead) -> RunHead:
    return replace(was, begun=True, phase=Phase.RUNNING)


def ended(was: RunHead, phase: Phase = Phase.SUCCEEDED) -> RunHead:
    return replace(was, ended=True, phase=phase)


def told(was: RunHead, decisions: Decisions) -> RunHead:
    """The head after the decisions of a cycle were saved. What has not begun ends with them."""
    why_dropped = dict(decisions.drop).get(was.id, "")
    why_cancelled = dict(decisions.cancel).get(was.id, "")
    changed = replace(was, dropped=was.dropped or why_dropped, cancelled=was.cancelled or why_cancelled)
    return ended(changed, Phase.CANCELLED) if (changed.dropped or changed.cancelled) and not was.begun else changed


def decide(one: Revision, *heads: RunHead, context: Context = CONTEXT, now: float = NOW) -> Decisions:
    return owed({one.name: one}, {one.name: heads}, context, now)


def made(decisions: Decisions) -> RunHead:
    """The head of the only run that is created."""
    (debt,) = decisions.create
    return head(debt)


def only(decisions: Decisions, **expected: object) -> None:
    """Nothing is decided but what is expected."""
    found = {
        "create": [debt.run_id for debt in decisions.create],
        "drop": [run for run, _ in decisions.drop],
        "cancel": [run for run, _ in decisions.cancel],
        "held": [each.reason for each in decisions.held],
        "waiting": [each.reason for each in decisions.waiting],
    }
    assert found == {"create": [], "drop": [], "cancel": [], "held": [], "waiting": []} | expected


# --- rule 1: the digest


def test_rule_1_a_digest_without_a_record_is_owed() -> None:
    """A new digest gets a run whose id follows from what it is, and a changed digest another one."""
    first, second = decide(revision("one")), decide(revision("two"))
    assert [(debt.revision.canonical, debt.occasion, debt.request) for debt in first.create] == [("one", "", "")]
    assert first.create[0].run_id == decide(revision("one")).create[0].run_id
    assert first.create[0].run_id != second.create[0].run_id


def test_rule_1_what_is_not_in_the_digest_runs_nothing() -> None:
    """A new commit, file, title, priority or concurrency with the same digest is satisfied by the record."""
    run = ended(begun(made(decide(revision()))))
    moved = revision(place=place(COMMIT_B), title="other", concurrency=Concurrency.ALLOW, labels=(("a", "b"),))
    only(decide(moved, run))


# --- rule 2: triggers


@pytest.mark.parametrize(
    ("triggers", "rerun", "occasion"),
    [
        ({Trigger.CHANGE}, "", ""),
        ({Trigger.CHANGE}, "again", ""),
        ({Trigger.PATHS}, "", ""),
        ({Trigger.COMMIT}, "", COMMIT_A),
        ({Trigger.CHANGE, Trigger.COMMIT}, "", COMMIT_A),
        ({Trigger.MANUAL}, "", None),
        ({Trigger.MANUAL}, "again", ""),
        ({Trigger.MANUAL, Trigger.CHANGE}, "", ""),
        (set(), "", None),
    ],
)
def test_rule_2_what_makes_a_workflow_owe_a_run(triggers: set[Trigger], rerun: str, occasion: str | None) -> None:
    """change and paths owe a run for the digest, commit one for the commit, manual one only for a rerun token."""
    decisions = decide(revision(triggers=frozenset(triggers), rerun=rerun))
    assert [debt.occasion for debt in decisions.create] == ([] if occasion is None else [occasion])
    if occasion is None:
        assert decisions.satisfied == {"w": Word("", "Idle", "runs only when asked: by a `rerun` token or a Run document")}


def test_rule_2_commit_runs_for_every_commit() -> None:
    """With `on: [commit]` the same digest runs again for another commit, once."""
    old = revision(triggers=frozenset({Trigger.COMMIT}))
    new = replace(old, place=place(COMMIT_B))
    first = ended(begun(made(decide(old))))
    second = decide(new, first)
    assert [debt.occasion for debt in second.create] == [COMMIT_B]
    only(decide(new, first, made(second)))


def test_rule_2_a_run_document_asks_for_a_run() -> None:
    """A Run document makes one run of a manual workflow, with its parameters and backend; asked again, it makes no other."""
    request = RunRequest("ask", place(), workflow="w", backend="hpc", parameters=(("SEED", "7"),))
    context = replace(CONTEXT, requests={"ask": request})
    manual = revision(triggers=frozenset({Trigger.MANUAL}))
    decisions = decide(manual, context=context)
    assert [(debt.request, debt.parameters, debt.backend, by_hand(debt.occasion)) for debt in decisions.create] == [
        ("ask", (("SEED", "7"),), "hpc", "ask")
    ]
    run = ended(begun(made(decisions)))
    again = decide(revision("changed", triggers=frozenset({Trigger.MANUAL})), run, context=context)
    only(again)
    assert again.answered == {"ask": run.id}


def test_rule_2_changing_what_a_run_document_asks_asks_again() -> None:
    """Other parameters are another run; another suspension or approval is not."""
    request = RunRequest("ask", place(), workflow="w", parameters=(("SEED", "7"),))
    assert occasion_of(replace(request, parameters=(("SEED", "8"),))) != occasion_of(request)
    assert occasion_of(replace(request, suspend=Suspend(), approve="x")) == occasion_of(request)


@pytest.mark.parametrize(
    ("asked", "reasons"),
    [
        ("", []),
        (COMMIT_A, []),
        (COMMIT_A[:7], []),
        (f"main@sha1:{COMMIT_A}", []),
        (digest_of("one"), []),
        ("aaaaaa", ["OtherRevision"]),
        (COMMIT_B, ["OtherRevision"]),
    ],
)
def test_rule_2_a_request_for_another_revision_waits(asked: str, reasons: list[str]) -> None:
    """A Run document that names a revision runs at that one, or says that another is in force."""
    context = replace(CONTEXT, requests={"ask": RunRequest("ask", place(), workflow="w", revision=asked)})
    decisions = decide(revision(triggers=frozenset({Trigger.MANUAL})), context=context)
    assert ([each.reason for each in decisions.waiting], len(decisions.create)) == (reasons, 0 if reasons else 1)


def test_rule_2_a_request_for_an_unknown_workflow_says_so() -> None:
    """It waits for the workflow to appear."""
    context = replace(CONTEXT, requests={"ask": RunRequest("ask", place(), workflow="nope")})
    message = "there is no workflow 'nope'; the run is made when there is"
    assert owed({}, {}, context, NOW).waiting == (Waiting("nope", "ask", "UnknownWorkflow", message),)


@pytest.mark.parametrize(
    ("source", "workflow", "cancelled"), [("", "lab/w", True), ("lab", "lab/w", True), ("lab", "w", False), ("la", "lab/w", False)]
)
def test_a_source_cancels_only_its_own_runs(source: str, workflow: str, cancelled: bool) -> None:
    """A Run document of a source cannot end a run of the operator or of another source; the operator's can end any."""
    run = begun(made(decide(revision(name=workflow))))
    asking = replace(place(), source=source)
    context = replace(CONTEXT, requests={"stop": RunRequest("stop", asking, run=run.id, state="cancelled")})
    assert bool(owed({}, {workflow: (run,)}, context, NOW).cancel) is cancelled


def test_a_run_document_cancels_a_run_once() -> None:
    """`{run: <id>, state: cancelled}` cancels a live run; one that is cancelled already, or has ended, is left alone."""
    run = begun(made(decide(revision())))
    context = replace(CONTEXT, requests={"stop": RunRequest("stop", place(source=""), run=run.id, state="cancelled")})
    assert decide(revision(), run, context=context).cancel == ((run.id, "cancelled by Run stop (w.yaml:1)"),)
    only(decide(revision(), replace(run, cancelled="cancelled by Run stop"), context=context))
    only(decide(revision(), ended(run), context=context))


# --- rule 3: at most one automatic run


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED])
def test_rule_3_one_run_whatever_became_of_it(phase: Phase) -> None:
    """A digest has had its run also when that failed; the status says so, and the cure."""
    run = ended(begun(made(decide(revision()))), phase)
    decisions = decide(revision(), run)
    only(decisions)
    word = decisions.satisfied["w"]
    assert word.run == run.id
    assert ("rerun: <any new string>" in word.message) == (phase is not Phase.SUCCEEDED)


def test_rule_3_asking_twice_after_a_restart_gives_nothing() -> None:
    """Once what was decided exists, nothing more is owed."""
    revisions = {f"w{place_}": revision(f"text{place_}", f"w{place_}") for place_ in range(5)}
    first = owed(revisions, {}, CONTEXT, NOW)
    heads = {debt.revision.name: (head(debt),) for debt in first.create}
    only(owed(revisions, heads, CONTEXT, NOW))
    assert [debt.run_id for debt in owed(revisions, {}, CONTEXT, NOW).create] == [debt.run_id for debt in first.create]


def test_rule_3_a_run_that_ended_without_beginning_anything_counts() -> None:
    """A run whose only task was skipped never saved an intent, and is still the run of its digest: it is not made for ever."""
    only(decide(revision(), ended(made(decide(revision())))))


# --- rule 4: going back


def test_rule_4_going_back_is_satisfied_by_the_old_record() -> None:
    """A revert runs nothing when its digest once began."""
    old = ended(begun(made(decide(revision("one")))))
    new = ended(begun(made(decide(revision("two"), old))))
    only(decide(revision("one"), old, new))


def test_rule_4_a_run_superseded_before_it_began_does_not_satisfy() -> None:
    """Going back to a digest whose run was dropped before its first intent makes a run with another id."""
    first = made(decide(revision("one")))
    newer = decide(revision("two"), first)
    only(newer, create=[newer.create[0].run_id], drop=[first.id])
    second, first = ended(begun(made(newer))), told(first, newer)
    back = decide(revision("one"), first, second)
    assert len(back.create) == 1
    assert back.create[0].run_id not in (first.id, second.id)
    only(decide(revision("one"), first, second, made(back)))


@pytest.mark.parametrize("started", [False, True])
def test_rule_4_a_run_cancelled_by_a_person_satisfies(started: bool) -> None:
    """Cancelling is not undone by the next look, also when nothing had begun; the status says how to run it again."""
    run = made(decide(revision()))
    run = ended(replace(begun(run) if started else run, cancelled="cancelled by Run stop"), Phase.CANCELLED)
    decisions = decide(revision(), run)
    only(decisions)
    message = f"run {run.id} of this digest was cancelled: cancelled by Run stop; to run it again: `rerun: <any new string>`"
    assert decisions.satisfied["w"] == Word(run.id, "Cancelled", message)


def test_rule_4_a_run_cancelled_by_replace_says_so_and_how_to_rerun() -> None:
    """Going back to a digest whose run was replaced after it began runs nothing, and says what to do."""
    old = begun(made(decide(revision("one"))))
    replaced = decide(revision("two", concurrency=Concurrency.REPLACE), old)
    old = ended(told(old, replaced), Phase.CANCELLED)
    back = decide(revision("one", concurrency=Concurrency.REPLACE), old)
    only(back)
    assert back.satisfied["w"].reason == "Replaced"
    assert "replaced by sha256:" in back.satisfied["w"].message
    assert "rerun: <any new string>" in back.satisfied["w"].message


# --- rule 5: concurrency


def test_rule_5_queue_waits_for_what_has_begun() -> None:
    """The running one is never killed by a commit; nothing is made until it has ended, and the status says what is waited for."""
    running = begun(made(decide(revision("one"))))
    waiting = decide(revision("two"), running)
    only(waiting, waiting=["WaitingForRun"])
    assert waiting.waiting[0].message == f"waiting for run {running.id} to end (concurrency: queue)"
    assert [debt.revision.canonical for debt in decide(revision("two"), ended(running)).create] == ["two"]


def test_rule_5_the_newest_waiting_wins() -> None:
    """Of three commits during one run, the last runs next; the two between never had a record and do not satisfy anything."""
    running = begun(made(decide(revision("one"))))
    for text in ("two", "three", "four"):
        only(decide(revision(text), running), waiting=["WaitingForRun"])
    assert [debt.revision.canonical for debt in decide(revision("four"), ended(running)).create] == ["four"]
    assert len(decide(revision("two"), ended(running)).create) == 1


def test_rule_5_a_run_that_has_not_begun_is_superseded_when_the_digest_goes_back() -> None:
    """When the digest in force has its record, what waits for another digest is dropped, not run."""
    old = ended(begun(made(decide(revision("one")))))
    waiting = made(decide(revision("two"), old))
    only(decide(revision("one"), old, waiting), drop=[waiting.id])
    only(decide(revision("one"), old, begun(waiting)))
    only(decide(revision("one", concurrency=Concurrency.ALLOW), old, waiting))


def test_rule_5_allow_runs_beside() -> None:
    """With `allow` the new digest runs at once, and the old run goes on."""
    running = begun(made(decide(revision("one"))))
    decisions = decide(revision("two", concurrency=Concurrency.ALLOW), running)
    only(decisions, create=[decisions.create[0].run_id])


def test_rule_5_replace_cancels_and_runs_when_that_has_ended() -> None:
    """With `replace` the old run is cancelled once, and the new one is made when it has ended: they never overlap."""
    new = revision("two", concurrency=Concurrency.REPLACE)
    running = begun(made(decide(revision("one"))))
    first = decide(new, running)
    only(first, cancel=[running.id], waiting=["WaitingForRun"])
    running = told(running, first)
    only(decide(new, running), waiting=["WaitingForRun"])
    assert len(decide(new, ended(running)).create) == 1


@pytest.mark.parametrize("concurrency", [Concurrency.QUEUE, Concurrency.REPLACE])
def test_rule_5_a_run_asked_for_by_hand_is_never_superseded(concurrency: Concurrency) -> None:
    """A commit does not drop what a person asked for and waits, under `queue` ; it is waited for."""
    context = replace(CONTEXT, requests={"ask": RunRequest("ask", place(), workflow="w")})
    asked = made(decide(revision("one", triggers=frozenset({Trigger.MANUAL})), context=context))
    decisions = decide(revision("two", concurrency=concurrency), asked, context=context)
    expected = {"cancel": [asked.id]} if concurrency is Concurrency.REPLACE else {}
    only(decisions, waiting=["WaitingForRun"], **expected)


@pytest.mark.parametrize("concurrency", list(Concurrency))
def test_rule_5_by_hand_and_by_itself_do_not_replace_each_other_for_ever(concurrency: Concurrency) -> None:
    """A request and a new digest at once end, after a few cycles, in exactly two runs, both begun."""
    context = replace(CONTEXT, requests={"ask": RunRequest("ask", place(), workflow="w")})
    heads: list[RunHead] = []
    for cycle in range(8):
        decisions = decide(revision(concurrency=concurrency), *heads, context=context)
        heads = [told(each, decisions) for each in heads]
        heads = [ended(each) if each.begun else each if each.ended else begun(each) for each in heads]
        heads += [head(debt, NOW + cycle) for debt in decisions.create]
    assert [(each.begun, each.ended) for each in heads] == [(True, True), (True, True)]


def test_rule_5_one_workflow_makes_one_run_a_cycle() -> None:
    """Of a request and a new digest in one cycle, a queue makes the first and lets the other wait for it."""
    context = replace(CONTEXT, requests={"ask": RunRequest("ask", place(), workflow="w")})
    decisions = decide(revision(), context=context)
    run = decisions.create[0].run_id
    assert [debt.request for debt in decisions.create] == ["ask"]
    assert decisions.waiting == (Waiting("w", "", "WaitingForRun", f"waiting for run {run} to end (concurrency: queue)"),)
    assert [debt.request for debt in decide(revision(concurrency=Concurrency.ALLOW), context=context).create] == ["ask", ""]


def test_rule_5_what_made_way_is_not_waited_for() -> None:
    """A run that was told to make way before it began will never start anything, so nobody waits for its end to be recorded."""
    old = replace(made(decide(revision("one"))), dropped=f"{trigger.SUPERSEDED}sha256:2")
    assert len(decide(revision("two"), old).create) == 1


# --- rules 7, 8, 9


@pytest.mark.parametrize(
    ("rule", "drop", "cancel"),
    [(OnDelete.FINISH, True, False), (OnDelete.CANCEL, False, True), (OnDelete.ORPHAN, False, False)],
)
def test_rule_7_a_removed_document(rule: OnDelete, drop: bool, cancel: bool) -> None:
    """finish drops what waits, cancel ends everything, orphan changes nothing; each is said once, and ended runs are left alone."""
    alive = begun(made(decide(revision("one"))))
    over = ended(begun(made(decide(revision("two")))))
    context = replace(CONTEXT, gone={"w": rule})
    decisions = owed({}, {"w": (alive, over)}, context, NOW)
    only(decisions, drop=[alive.id] if drop else [], cancel=[alive.id] if cancel else [])
    only(owed({}, {"w": (told(alive, decisions), over)}, context, NOW))


def test_rule_7_a_document_that_comes_back_runs_what_never_began() -> None:
    """A run that was dropped with its document before it began does not satisfy; one that had begun does, and says what became of it."""
    waiting = made(decide(revision()))
    dropped = told(waiting, owed({}, {"w": (waiting,)}, replace(CONTEXT, gone={"w": OnDelete.FINISH}), NOW))
    assert len(decide(revision(), dropped).create) == 1
    half = replace(ended(begun(waiting), Phase.CANCELLED), dropped=dropped.dropped)
    decisions = decide(revision(), half)
    only(decisions)
    assert decisions.satisfied["w"].reason == "Dropped"


def test_rule_7_a_request_that_comes_back_is_answered_with_another_run() -> None:
    """The run of a Run document that was dropped before it began is made again under another id."""
    context = replace(CONTEXT, requests={"ask": RunRequest("ask", place(), workflow="w")})
    manual = revision(triggers=frozenset({Trigger.MANUAL}))
    first = made(decide(manual, context=context))
    first = told(first, owed({}, {"w": (first,)}, replace(CONTEXT, gone={"w": OnDelete.FINISH}), NOW))
    second = made(decide(manual, first, context=context))
    assert second.id != first.id
    only(decide(manual, first, second, context=context))


@pytest.mark.parametrize(
    ("before", "after", "too_many"),
    [(0, 0, False), (1, 0, True), (4, 2, False), (4, 1, True), (6, 3, False), (7, 3, True), (10, 9, False), (2, 1, False), (3, 3, False)],
)
def test_rule_7_a_guard_against_removing_most_of_a_source(before: int, after: int, too_many: bool) -> None:
    """Everything, or more than half and at least three, needs a person."""
    names = [f"w{number}" for number in range(before)]
    assert trigger.too_many_gone(names, names[:after]) == too_many


def crowd(count: int, **changes: object) -> dict[str, Revision]:
    return {f"w{number}": revision(f"text{number}", f"w{number}", **changes) for number in range(count)}


def test_rule_8_a_commit_that_would_start_too_many_runs_is_held() -> None:
    """Above the limit none starts, each says the cure; at the limit all start; other causes are not held with them."""
    context = replace(CONTEXT, limits=Limits(runs_per_commit=3))
    assert len(owed(crowd(3), {}, context, NOW).create) == 3
    revisions = crowd(4) | {"other": revision("x", "other", place=place(COMMIT_B, "second"))}
    decisions = owed(revisions, {}, context, NOW)
    assert [debt.revision.name for debt in decisions.create] == ["other"]
    message = (
        f"{COMMIT_A} would start 4 runs, more than limits.runs_per_commit (3); `approve: {COMMIT_A}` of Source src lets all of them start"
    )
    assert decisions.held[0] == Held("w0", "", "TooManyRuns", message, f"approve: {revisions['w0'].digest}")
    assert [each.workflow for each in decisions.held] == ["w0", "w1", "w2", "w3"]


@pytest.mark.parametrize("approved", ["digest", "commit", "source"])
def test_rule_8_an_approval_lets_it_start(approved: str) -> None:
    """The digest or the commit on the workflow, or the commit on the Source, is an approval."""
    revisions = crowd(4)
    gates = {"src": Gate(approve=COMMIT_A)} if approved == "source" else {}
    if approved != "source":
        word = revisions["w1"].digest if approved == "digest" else COMMIT_A
        revisions["w1"] = replace(revisions["w1"], approve=word)
    decisions = owed(revisions, {}, replace(CONTEXT, limits=Limits(runs_per_commit=3), gates=gates), NOW)
    expected = ["w0", "w1", "w2", "w3"] if approved == "source" else ["w1"]
    assert [debt.revision.name for debt in decisions.create] == expected


def test_rule_8_nothing_is_approved_by_saying_nothing() -> None:
    """A source without an approval, and a cause without a name, is not an approval."""
    nowhere = Place("src", "w.yaml", 1)
    decisions = owed(crowd(2, place=nowhere), {}, replace(CONTEXT, limits=Limits(runs_per_commit=1), gates={"src": Gate()}), NOW)
    assert [each.reason for each in decisions.held] == ["TooManyRuns", "TooManyRuns"]


def test_rule_8_a_changed_digest_voids_an_approval() -> None:
    """What was approved is this digest, not the next one."""
    context = replace(CONTEXT, limits=Limits(core_hours_per_run=0.5))
    small = revision("one", approve=digest_of("one"))
    assert len(decide(small, context=context).create) == 1
    only(decide(revision("two", approve=digest_of("one")), context=context), held=["TooLarge"])


@pytest.mark.parametrize(("hours", "held"), [(None, []), (32.0, []), (31.9, ["TooLarge"])])
def test_rule_8_a_run_above_the_core_hours_is_held(hours: float | None, held: list[str]) -> None:
    """Cores times time limits, over all tasks, may not pass the limit of the source, else of the settings."""
    tasks = (Task("a", "x", resources=Resources(cpus=4, time_limit_s=4 * 3600)), Task("b", "x", resources=Resources(cpus=16)))
    one = revision(tasks=tasks)
    for context in (
        replace(CONTEXT, limits=Limits(core_hours_per_run=hours)),
        replace(CONTEXT, limits=Limits(core_hours_per_run=0.1), gates={"src": Gate(limits=Limits(core_hours_per_run=hours))}),
    ):
        decisions = decide(one, context=context)
        assert ([each.reason for each in decisions.held], len(decisions.create)) == (held, 0 if held else 1)


def test_rule_9_a_run_is_pinned_when_it_is_made() -> None:
    """The run carries the place, commit and canonical text of the revision it was made from."""
    one = revision(max_concurrent=3, title="T", rerun="x")
    run = trigger.run_of(decide(one).create[0], NOW)
    assert (run.place, run.digest, run.canonical, run.tasks, run.created_at) == (one.place, one.digest, "one", one.tasks, NOW)
    assert (run.backend, run.max_concurrent, run.title, run.rerun) == ("local", 3, "T", "x")


# --- suspension


@pytest.mark.parametrize("where", ["workflow", "source", "request"])
def test_what_is_suspended_owes_nothing_new(where: str) -> None:
    """Nothing is made while the workflow, its source or the request is suspended; it says by whom, and wakes at the end of it."""
    suspend = Suspend("too hot", "ada", NOW + 60)
    one = revision(triggers=frozenset({Trigger.MANUAL}), suspend=suspend if where == "workflow" else None)
    request = RunRequest("ask", place(), workflow="w", suspend=suspend if where == "request" else None)
    gates = {"src": Gate(suspend=suspend)} if where == "source" else {}
    context = replace(CONTEXT, requests={"ask": request}, gates=gates)
    decisions = decide(one, context=context)
    only(decisions, waiting=["Suspended"])
    assert decisions.wake_at == NOW + 60
    assert decisions.waiting[0].message.endswith("is suspended by ada: too hot")
    assert len(decide(one, context=context, now=NOW + 60).create) == 1


def test_a_suspension_without_an_end_wakes_nobody() -> None:
    """Only a change can end it."""
    decisions = decide(revision(suspend=Suspend()))
    only(decisions, waiting=["Suspended"])
    assert (decisions.wake_at, decisions.waiting[0].message) == (None, "workflow w is suspended")


# --- all rules together


TEXTS = st.sampled_from(["one", "two", "three"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), TEXTS),
        st.tuples(st.just("begin"), st.just("")),
        st.tuples(st.just("end"), st.just("")),
        st.tuples(st.just("look"), st.just("")),
        st.tuples(st.just("remove"), st.just("")),
    ),
    max_size=25,
)


def pursue(heads: Iterable[RunHead], step: str) -> list[RunHead]:
    """The oldest live run begins, or the oldest that has begun ends."""
    moved, result = False, []
    for each in heads:
        if not moved and not each.ended and each.begun == (step == "end"):
            moved = True
            result.append(begun(each) if step == "begin" else ended(each))
        else:
            result.append(each)
    return result


@given(STEPS, st.sampled_from(list(Concurrency)))
def test_whatever_happens_each_digest_begins_at_most_once(steps: list[tuple[str, str]], concurrency: Concurrency) -> None:
    """Commits, reverts, removals, beginnings and ends in any order: no digest begins twice, no id is made twice, a queue never
    overlaps, and in the end the digest in force has its record."""
    text: str | None = None
    heads: list[RunHead] = []

    def cycle(clock: int) -> None:
        nonlocal heads
        revisions: Mapping[str, Revision] = {"w": revision(text, concurrency=concurrency)} if text else {}
        context = replace(CONTEXT, gone={} if text else {"w": OnDelete.FINISH})
        decisions = owed(revisions, {"w": tuple(heads)}, context, NOW)
        heads = [told(each, decisions) for each in heads] + [head(debt, NOW + clock) for debt in decisions.create]
        only(owed(revisions, {"w": tuple(heads)}, context, NOW), waiting=[each.reason for each in decisions.waiting])

    for clock, (step, argument) in enumerate(steps):
        text = argument if step == "commit" else None if step == "remove" else text
        heads = pursue(heads, step) if step in ("begin", "end") else heads
        cycle(clock)
        started = [each.digest for each in heads if each.begun]
        assert len(started) == len(set(started))
        assert len({each.id for each in heads}) == len(heads)
        if concurrency is not Concurrency.ALLOW:
            assert sum(not each.ended for each in heads) <= 1
    for clock in range(10):
        heads = pursue(pursue(heads, "begin"), "end")
        cycle(100 + clock)
    assert all(each.ended for each in heads)
    assert text is None or digest_of(text) in {each.digest for each in heads if each.begun}


def test_a_thousand_workflows_are_quick() -> None:
    """A cycle over 1,000 satisfied workflows with ten records each takes milliseconds, not seconds."""
    revisions = crowd(1000)
    heads = {}
    for name, one in revisions.items():
        run = ended(begun(RunHead(f"{name:0>12}", name, one.digest, "", Phase.SUCCEEDED, True, True, NOW)))
        heads[name] = (*(replace(run, id=f"{name}.{number}", occasion=str(number)) for number in range(9)), run)
    before = time.process_time()
    only(owed(revisions, heads, CONTEXT, NOW))
    assert time.process_time() - before < 0.5
