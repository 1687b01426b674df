"""When a punch happened, by what is known of the terminal's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rules.model import DAY, HOUR, MINUTE
from rules.trust import CORRECTED, DEVICE, QUARANTINED, RECEIVED, Clock

NOON = 1_772_424_000_000  # 2026-03-02 12:00 +08:00
SECOND = 1000


def clock_off_by(*seconds: float, every: int = HOUR, until: int = NOON) -> Clock:
    """A clock checked every hour until noon, with these offsets in turn."""
    clock = Clock()
    for number, offset in enumerate(reversed(seconds)):
        at = until - number * every
        clock.check(at, at + round(offset * SECOND))
    return clock


def test_up_to_thirty_seconds_the_terminal_is_right():
    for offset in (-30, 0, 30):
        clock = clock_off_by(offset, offset)

        device_at = NOON + offset * SECOND

        assert clock.event_time(device_at, NOON, live=True) == (device_at, DEVICE, 0)
        assert clock.event_time(device_at - HOUR, NOON, live=False)[:2] == (
            device_at - HOUR,
            DEVICE,
        )


def test_from_thirty_one_seconds_to_five_minutes_the_offset_is_taken_off():
    for offset in (-300, -31, 31, 300):
        clock = clock_off_by(offset, offset)

        assert clock.event_time(NOON + offset * SECOND, NOON, live=True) == (NOON, CORRECTED, 0)
        told = NOON - 30 * MINUTE
        assert clock.event_time(told + offset * SECOND, NOON, live=False) == (told, CORRECTED, 0)


def test_beyond_five_minutes_a_live_punch_takes_our_time_and_a_logged_one_is_quarantined():
    clock = clock_off_by(301, 301)
    clock.complete_until = NOON - HOUR

    assert clock.event_time(NOON + 301 * SECOND, NOON, live=True) == (NOON, RECEIVED, 0)
    assert clock.event_time(NOON, NOON, live=False) == (NOON, QUARANTINED, NOON - HOUR)


def test_a_date_before_2020_or_a_day_ahead_is_never_believed():
    good = clock_off_by(0, 0)
    good.complete_until = NOON - HOUR
    lost_date = 946_684_800_000  # 2000-01-01

    assert good.event_time(lost_date, NOON, live=True) == (NOON, RECEIVED, 0)
    assert good.event_time(lost_date, NOON, live=False) == (NOON, QUARANTINED, NOON - HOUR)
    assert good.event_time(NOON + DAY + SECOND, NOON, live=False)[1] == QUARANTINED


def test_a_log_from_between_two_checks_with_a_jump_is_quarantined_to_that_span():
    """At 11:00 the clock was right, at 12:00 an hour ahead: 11:30 on it is one of two moments."""
    clock = clock_off_by(0, 3600)
    clock.complete_until = NOON - HOUR

    event_at, trust, earliest = clock.event_time(NOON + 30 * MINUTE, NOON + SECOND, live=False)

    assert (event_at, trust, earliest) == (NOON + SECOND, QUARANTINED, NOON - HOUR)


def test_a_live_punch_that_disagrees_by_minutes_is_judged_by_both_times():
    """A jump, or a report that took two minutes: the milder time will count."""
    clock = clock_off_by(0, 0)

    assert clock.event_time(NOON - 2 * MINUTE, NOON, live=True) == (NOON, CORRECTED, 0)


def test_a_backlog_of_years_is_believed_where_the_clock_was_never_wrong():
    clock = clock_off_by(0)

    assert clock.event_time(NOON - 400 * DAY, NOON, live=False) == (NOON - 400 * DAY, DEVICE, 0)


def test_a_clock_that_drifts_is_corrected_by_the_offset_of_the_time():
    """It gained 40 seconds an hour; half way between 80 s and 120 s stands the nearer check."""
    clock = clock_off_by(40, 80, 120)

    event_at, trust, _ = clock.event_time(NOON - 30 * MINUTE + 100 * SECOND, NOON, live=False)

    assert trust == CORRECTED
    assert abs(event_at - (NOON - 30 * MINUTE)) <= 20 * SECOND


@given(
    offsets=st.lists(st.integers(-4000, 4000), max_size=6),
    device=st.integers(-3 * DAY, 3 * DAY),
    live=st.booleans(),
    complete=st.sampled_from([0, NOON - DAY, NOON - HOUR]),
)
def test_whatever_is_claimed_the_answer_is_one_of_the_four_and_never_after_receipt_by_much(
    offsets, device, live, complete
):
    clock = clock_off_by(*offsets)
    clock.complete_until = complete

    event_at, trust, earliest = clock.event_time(NOON + device, NOON, live)

    assert trust in (DEVICE, CORRECTED, RECEIVED, QUARANTINED)
    assert event_at <= NOON + 2 * MINUTE or (live and trust == DEVICE)
    assert earliest <= event_at
    if trust == QUARANTINED:
        assert not live
