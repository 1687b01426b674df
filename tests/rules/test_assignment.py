"""Giving punches to slots: against every possible choice, and what it promises."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from rules.attendance import assign, deviation, expectations, slot_verdict
from rules.model import AbsenceSpan, Policy, SegmentRule

SEVERITY = {"ok": 0, "late": 1, "serious_late": 2, "absent_class": 3}
SEVERITY |= {"early_leave": 1, "serious_early_leave": 2}
TIMETABLES = [
    (SegmentRule("am", 510, 720), SegmentRule("pm", 870, 1080)),
    (SegmentRule("am", 540, 720), SegmentRule("pm", 780, 1020)),
    (SegmentRule("am", 510, 720, grace=5), SegmentRule("pm", 725, 1080, min_gap=0)),
    (SegmentRule("a", 480, 600), SegmentRule("b", 610, 720), SegmentRule("c", 840, 960)),
    (SegmentRule("am", 540, 720, accept_off=(720, 735)), SegmentRule("pm", 780, 1020)),
    (SegmentRule("am", 540, 720), SegmentRule("pm", 780, 1020, accept_on=(740, 780))),
]


def cost(expected, picks, times, policy):
    empty = severities = minutes = 0
    preference = []
    for want, pick in zip(expected, picks, strict=True):
        if pick < 0:
            empty += 1
            preference.append((1, 0))
            continue
        late = deviation(want, times[pick], policy.seconds_matter)
        severity = SEVERITY[slot_verdict(want, late)]
        severities += severity
        minutes += late if severity else 0
        preference.append((0, times[pick] if want.kind in ("on", "back") else -times[pick]))
    return empty, severities, minutes, preference


def every_choice(expected, times, policy):
    options = [
        [-1] + [i for i, at in enumerate(times) if want.first <= at <= want.last]
        for want in expected
    ]
    for picks in product(*options):
        last = None
        for want, pick in zip(expected, picks, strict=True):
            if pick < 0:
                continue
            if last is not None:
                before, earlier = last
                gap = max(before.rule.min_gap * 60_000, policy.cluster_seconds * 1000 + 1)
                if times[pick] - times[earlier] < gap:
                    break
            last = (want, pick)
        else:
            yield picks


@st.composite
def days(draw, punches=7):
    rules = draw(st.sampled_from(TIMETABLES))
    policy = Policy(
        seconds_matter=draw(st.booleans()),
        single_lunch_punch=draw(st.booleans()),
        cluster_seconds=draw(st.sampled_from([0, 60])),
    )
    near = [rule.starts for rule in rules] + [rule.ends for rule in rules]
    moment = st.one_of(
        st.integers(420 * 60, 1150 * 60),
        st.builds(lambda at, off: at * 60 + off, st.sampled_from(near), st.integers(-4000, 4000)),
    )
    seconds = draw(st.lists(moment, max_size=punches, unique=True))
    away = []
    for index in range(draw(st.integers(0, 2))):
        starts = draw(st.integers(480, 1050))
        ends = starts + draw(st.integers(5, 200))
        away.append((starts, ends, draw(st.booleans()), index))
    return rules, policy, sorted(seconds), away


def expected_of(standard, rules, policy, away):
    midnight = standard.midnight
    absences = tuple(
        AbsenceSpan(f"L{i}", "official", midnight + a * 60_000, midnight + b * 60_000, punched)
        for a, b, punched, i in away
    )
    day = standard.day(rules=rules, policy=policy, absences=absences)
    return day, expectations(day)[1]


@settings(max_examples=400, deadline=None)
@given(days())
def test_no_other_choice_is_better(standard, drawn):
    rules, policy, seconds, away = drawn
    _, expected = expected_of(standard, rules, policy, away)
    if len(expected) > 6:
        expected = expected[:6]
    times = [standard.midnight + second * 1000 for second in seconds]

    picks = assign(expected, times, policy)

    best = min(
        cost(expected, every, times, policy) for every in every_choice(expected, times, policy)
    )
    assert cost(expected, picks, times, policy) == best
    assert tuple(picks) in set(every_choice(expected, times, policy))


@settings(max_examples=300, deadline=None)
@given(days(), st.integers(420 * 60, 1150 * 60))
def test_another_punch_never_raises_the_cost(standard, drawn, second):
    rules, policy, seconds, away = drawn
    _, expected = expected_of(standard, rules, policy, away)
    times = [standard.midnight + one * 1000 for one in seconds]
    more = sorted([*times, standard.midnight + second * 1000])

    before = cost(expected, assign(expected, times, policy), times, policy)
    after = cost(expected, assign(expected, more, policy), more, policy)

    assert after[:3] <= before[:3]


def test_a_punch_every_minute_is_judged_at_once(standard):
    """A stuck finger or a hostile log: the work grows with the punches, not with their square."""
    policy = Policy()
    _, expected = expected_of(standard, TIMETABLES[0], policy, [(600, 660, True, 0)])
    times = [standard.at("08:40") + i * 60_000 for i in range(600)]
    times = [at for at in times if not standard.at("12:00") <= at <= standard.at("14:45")]

    picks = assign(expected, times, policy)

    assert [expected[i].kind for i in range(len(expected)) if picks[i] < 0] == []
