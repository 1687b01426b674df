from __future__ import annotations

import pytest

from rules.model import SEVERITY, Alert, PostReview, Violation
from rules.off_post import OffPost
from rules.post import SeenReview
from tests.rules.counter_facts import at
from tests.rules.posts import APPEAL_ENDS, LOCKS_AT, PostFacts, duty

RULE = OffPost()
NOTICE, YELLOW, RED = (SEVERITY[name] for name in ("notice", "yellow", "red"))


@pytest.fixture
def facts() -> PostFacts:
    return PostFacts()


def alerts(facts: PostFacts, as_of: str, **given: object) -> tuple[Alert, ...]:
    return facts.judge_post(RULE, as_of, **given).alerts


def violations(facts: PostFacts, as_of: str = "17:59") -> tuple[Violation, ...]:
    return facts.judge_post(RULE, as_of).violations


def confirm(facts: PostFacts, *which: int) -> None:
    """A person looked at these vacancies and said so."""
    found = facts.post("17:59").vacancies
    for index in which or range(len(found)):
        facts.review(f"17:50:{index:02}", found[index].id, "confirmed")


@pytest.mark.parametrize(
    ("as_of", "code", "severity"),
    [
        ("09:04:59.999", "", 0),
        ("09:05", "PRE-01", NOTICE),
        ("09:14:59.999", "PRE-01", NOTICE),
        ("09:15", "PRE-02", NOTICE),
        ("09:59:59.999", "PRE-02", NOTICE),
        ("10:00", "PRE-03", YELLOW),
    ],
)
def test_what_a_camera_alone_says_is_told_one_step_lower(
    facts: PostFacts, as_of: str, code: str, severity: int
) -> None:
    facts.away("09:00")

    assert [(one.code, one.severity) for one in alerts(facts, as_of)] == (
        [(code, severity)] if code else []
    )
    assert violations(facts, as_of) == ()


@pytest.mark.parametrize(
    ("as_of", "code", "severity", "points"),
    [
        ("09:05", "PRE-01", NOTICE, 0),
        ("09:14:59.999", "PRE-01", NOTICE, 0),
        ("09:15", "PRE-02", YELLOW, 3),
        ("09:59:59.999", "PRE-02", YELLOW, 3),
        ("10:00", "PRE-03", RED, 5),
    ],
)
def test_what_is_confirmed_is_a_violation_of_the_one_on_duty(
    facts: PostFacts, as_of: str, code: str, severity: int, points: float
) -> None:
    facts.away("09:00")
    facts.event("08:59", "window_logout", person="1001")
    (alert,) = alerts(facts, as_of)
    found = violations(facts, as_of)

    assert (alert.code, alert.severity) == (code, severity)
    assert alert.state == ("converted" if points else "open")
    assert [(one.code, one.severity, one.points, one.person) for one in found] == (
        [(code, severity, points, "1001")] if points else []
    )


def test_an_alert_has_the_vacancys_id_and_says_who_and_when(facts: PostFacts) -> None:
    facts.away("09:00-09:20")
    (vacancy,) = facts.post("10:00").vacancies
    (alert,) = alerts(facts, "10:00")

    assert (alert.id, alert.evidence) == (vacancy.id, vacancy.readings)
    assert (alert.subject_kind, alert.subject, alert.unit) == ("window", "w1", "tax")
    assert (alert.opened_at, alert.ends_at, alert.state) == (at("09:05"), at("09:20"), "resolved")
    assert alert.title == ("离岗 20 分钟：1号窗口，09:00–09:20，工号 1001（待确认：仅摄像头发现）")
    assert alert.detail == (
        "Nobody was at window w1 for 20 min, from 09:00 to 09:20; on duty: 1001;"
        " the camera alone says so, a person has to confirm it."
    )


def test_while_it_lasts_an_alert_says_the_threshold_and_does_not_change(facts: PostFacts) -> None:
    facts.away("09:00")

    assert alerts(facts, "09:16") == alerts(facts, "09:58")
    assert alerts(facts, "09:16")[0].title.startswith("离岗 15 分钟：1号窗口，09:00 起，")
    assert alerts(facts, "09:16")[0].ends_at is None


def test_a_long_one_says_that_it_counts_as_half_a_days_absence(facts: PostFacts) -> None:
    facts.away("09:00-10:05")
    (proposed,) = alerts(facts, "17:59")
    assert "确认后按旷工半天计" in proposed.title

    confirm(facts)
    (alert,), (violation,) = alerts(facts, "17:59"), violations(facts)
    assert "，按旷工半天计" in alert.title
    assert violation.title == "长时间离岗 65 分钟，按旷工半天计：1号窗口，09:00–10:05"
    assert "half a day's absence" in violation.detail


def test_a_violation_says_what_confirmed_it_and_rests_on_the_readings(facts: PostFacts) -> None:
    facts.away("09:00-09:20")
    facts.punch("08:58")
    (violation,) = violations(facts, "10:00")

    assert violation.evidence == facts.post("10:00").vacancies[0].readings
    assert (violation.since, violation.until, violation.minutes) == (at("09:00"), at("09:20"), 20)
    assert (violation.segment, violation.unit, violation.rule) == ("am", "tax", "off_post")
    assert violation.detail == (
        "Off post for 20 min at window w1: from 09:00 to 09:20; confirmed by punch, seat."
    )


def test_a_violation_keeps_its_id_and_says_nothing_new_while_the_vacancy_lasts(
    facts: PostFacts,
) -> None:
    facts.away("09:00")
    facts.event("08:59", "window_logout", person="1001")
    (first,), (later,), (long,) = (violations(facts, one) for one in ("09:15", "09:50", "10:30"))

    assert first == later
    assert (first.minutes, first.until) == (15, at("09:15"))
    assert (long.id, long.minutes, long.code) == (first.id, 60, "PRE-03")


def test_it_is_final_when_appeals_are_over_and_locked_with_the_month(facts: PostFacts) -> None:
    facts.away("09:00-09:20")
    confirm(facts)
    moments = (APPEAL_ENDS - 1, APPEAL_ENDS, LOCKS_AT - 1, LOCKS_AT)

    assert [facts.judge_post(RULE, one).violations[0].finality for one in moments] == [
        "provisional", "final", "final", "locked",
    ]  # fmt: skip
    assert facts.judge_post(RULE, at("+1 12:00")).ask_again == APPEAL_ENDS
    assert facts.judge_post(RULE, APPEAL_ENDS).ask_again == LOCKS_AT


def test_what_a_person_dismissed_was_nothing(facts: PostFacts) -> None:
    facts.away("09:00-09:20")
    facts.punch("08:58")
    facts.review("10:00", facts.post("09:30").vacancies[0].id, "dismissed")
    outcome = facts.judge_post(RULE, "11:00")

    assert (outcome.alerts, outcome.violations) == ((), ())


def test_waiting_visitors_raise_it_by_one_step_and_never_beyond_red(facts: PostFacts) -> None:
    facts.away("09:00")
    facts.waits("09:01-09:03")

    assert [alerts(facts, one)[0].severity for one in ("09:05", "09:15", "10:00")] == [
        YELLOW, YELLOW, RED,
    ]  # fmt: skip
    assert alerts(facts, "09:05")[0].title.endswith("，有群众等候")

    facts.event("08:59", "window_logout", person="1001")
    assert [alerts(facts, one)[0].severity for one in ("09:05", "09:15", "10:00")] == [
        YELLOW, RED, RED,
    ]  # fmt: skip
    assert violations(facts, "09:15")[0].severity == RED


def test_visitors_who_waited_and_were_not_called_confirm_it(facts: PostFacts) -> None:
    facts.away("09:00-09:20")
    facts.waits("09:02-09:15")

    assert violations(facts, "10:00")[0].code == "PRE-02"


def test_of_two_on_duty_nobody_is_blamed_unless_one_is_known(facts: PostFacts) -> None:
    facts.duties.append(duty("1002", "08:30", "12:00"))
    facts.away("09:00-09:20")
    confirm(facts)
    assert violations(facts) == ()
    (alert,) = alerts(facts, "17:59")
    assert (alert.state, alert.severity) == ("resolved", YELLOW)
    assert "工号" not in alert.title

    facts.serve("A001", "08:40", "08:45", person="1002")
    assert [one.person for one in violations(facts)] == ["1002"]


def test_it_is_the_stand_ins_who_was_on_duty_at_that_minute(facts: PostFacts) -> None:
    facts.duties.append(duty("2002", "08:30", "10:00", "civil", stands_in=True))
    facts.away("09:00-09:20")
    confirm(facts)

    assert [(one.person, one.unit) for one in violations(facts)] == [("2002", "civil")]


def test_who_is_on_leave_or_has_not_come_has_not_left(facts: PostFacts) -> None:
    facts.saw("08:00 empty, 09:30 occupied, 10:00 empty, 10:40 occupied")
    facts.duties = [duty("1001", "08:30", "10:00"), duty("1001", "10:40", "12:00")]
    confirm(facts)

    assert (alerts(facts, "17:59"), violations(facts)) == ((), ())


def test_leave_approved_afterwards_takes_it_back(facts: PostFacts) -> None:
    facts.away("09:00-09:40")
    confirm(facts)
    assert len(violations(facts)) == 1

    facts.duties[0] = duty("1001", "08:30", "08:50")
    assert violations(facts) == ()


def test_only_the_part_not_covered_by_an_hours_leave_counts(facts: PostFacts) -> None:
    facts.duties = [duty("1001", "08:30", "09:14"), duty("1001", "10:00", "12:00")]
    facts.away("09:00-10:00")
    confirm(facts)

    assert [one.code for one in alerts(facts, "17:59")] == ["PRE-01"]
    assert violations(facts) == ()


def test_an_outage_pauses_it(facts: PostFacts) -> None:
    facts.saw("08:25 occupied, 09:00 empty, 09:10 unknown, 09:30 empty, 09:34 occupied")
    (alert,) = alerts(facts, "10:00")

    assert alert.code == "PRE-01"
    assert "离岗 14 分钟" in alert.title


def test_vacancies_soon_after_each_other_are_one_incident(facts: PostFacts) -> None:
    facts.away("09:00-09:20", "09:50-11:00", "11:30:01-11:50")
    confirm(facts)
    one, other = violations(facts)

    assert (one.code, one.points, one.minutes, one.since) == ("PRE-03", 5, 90, at("09:00"))
    assert one.title.endswith("09:00–09:20、09:50–11:00")
    assert (other.code, other.points, other.since) == ("PRE-02", 3, at("11:30:01"))
    assert [alert.state for alert in alerts(facts, "17:59")] == ["converted"] * 3


@pytest.mark.parametrize(
    ("spans", "named"),
    [
        (("09:00-09:10", "09:20-09:30:59", "09:40-09:46"), [False, False, True]),
        (("09:00-09:11", "09:20-09:30", "09:40-09:46"), [True, False, False]),
        (("09:00-09:04:59", "09:10-09:16", "09:20-09:26", "09:30-09:36"), [False, False, True]),
        (("09:00-09:10", "09:20-09:30", "14:40-14:50", "15:00-15:10"), [False] * 4),
    ],
)
def test_the_first_two_of_ten_minutes_in_a_segment_name_nobody(
    facts: PostFacts, spans: tuple[str, ...], named: list[bool]
) -> None:
    facts.away(*spans)
    found = alerts(facts, "17:59")

    assert ["1001" in one.title + one.detail for one in found] == named


def test_it_asks_to_be_called_whenever_time_alone_changes_the_answer(facts: PostFacts) -> None:
    facts.sensors = facts.sensors[:1]
    facts.away("09:00")

    asks = [facts.judge_post(RULE, one).ask_again for one in ("09:01", "09:05", "09:11", "09:15")]
    assert asks == [at("09:05"), at("09:11"), at("09:15"), at("10:00")]


def test_its_limits_can_be_changed(facts: PostFacts) -> None:
    facts.away("09:00-09:04")
    confirm(facts)
    rule = OffPost(minutes=1, off_minutes=2, long_minutes=4, points=1, long_points=2)
    (violation,) = facts.judge_post(rule).violations

    assert (violation.code, violation.points) == ("PRE-03", 2)


@pytest.mark.parametrize("until", ["", "-12:00"])
def test_who_punched_and_did_not_come_back_is_judged_by_attendance_alone(
    facts: PostFacts, until: str
) -> None:
    facts.away(f"11:00{until}")
    facts.punch("10:59")
    (alert,) = alerts(facts, "11:50" if not until else "13:00")

    assert violations(facts, "13:00") == ()
    assert "已打卡离开（由考勤认定）" in alert.title
    assert alert.state == ("resolved" if until else "open")


def test_who_punches_much_later_was_off_post_until_then(facts: PostFacts) -> None:
    facts.away("10:00-12:00")
    facts.punch("11:59")
    (violation,) = violations(facts, "13:00")

    assert (violation.code, violation.minutes) == ("PRE-03", 120)


def test_a_colleagues_punch_confirms_nothing_about_the_one_who_is_named(facts: PostFacts) -> None:
    facts.duties.append(duty("1002", "08:30", "12:00"))
    facts.event("08:50", "called", "A001", person="1001")
    facts.away("09:00-09:20")
    facts.punch("09:01", "1002")
    (alert,) = alerts(facts, "10:00")

    assert "1001" in alert.title
    assert violations(facts, "10:00") == ()


def test_an_incident_goes_on_although_somebody_elses_lies_between(facts: PostFacts) -> None:
    facts.duties = [
        duty("1001", "08:30", "09:18"), duty("1002", "09:18", "09:38"),
        duty("1001", "09:38", "12:00"),
    ]  # fmt: skip
    facts.saw("08:30 occupied, 09:00 empty, 09:16 occupied, 09:20 empty, 09:36 occupied")
    facts.saw("09:40 empty, 09:56 occupied")
    for one in facts.post("12:00").vacancies:
        facts.review("12:00", one.id, "confirmed")
    found = violations(facts, "12:30")

    assert sorted(one.person for one in found) == ["1001", "1002"]


def test_a_review_holds_when_a_late_call_moves_the_beginning(facts: PostFacts) -> None:
    facts.away("09:00-09:40")
    facts.waits("09:02-09:35")
    (vacancy,) = facts.post("10:00").vacancies
    body = PostReview(
        "w1", facts.hall().work_date, vacancy.id, "dismissed", "9001",
        began_at=vacancy.began_at, ended_at=vacancy.parts[-1][1],
    )  # fmt: skip
    facts.reviews.append(SeenReview(at("10:00"), at("10:00"), "api", b"review", body))
    facts.event("09:01", "recalled", "A001")
    moved = facts.post("11:00").vacancies[-1]

    assert moved.id != vacancy.id
    assert violations(facts, "11:00") == ()
