"""A hall's windows together: tickets, service areas, how many wait."""

from __future__ import annotations

import pytest

from rules.counter import (
    AreaRecord,
    CounterRecord,
    Durations,
    Window,
    episodes,
    follow_counter,
    follow_window,
    judge_counter,
    judge_window,
    queue_resets,
    window_days,
    workday_end,
)
from rules.long_queue import LongQueue
from rules.model import MINUTE
from tests.rules.counter_facts import W1, W2, Facts, at

W3 = Window("w3", "3号窗口", "tax", "税务")


@pytest.fixture
def facts() -> Facts:
    return Facts(W1, W2, W3)


def counter(facts: Facts, as_of: str = "17:59") -> CounterRecord:
    return follow_counter(facts.hall(as_of))


def area(facts: Facts, name: str = "综合", as_of: str = "17:59") -> AreaRecord:
    return next(one for one in counter(facts, as_of).areas if one.area == name)


def test_a_ticket_is_followed_through_the_hall(facts: Facts) -> None:
    facts.taken("08:40", "A001", queue="A", service_code="car")
    facts.serve("A001", "09:00")
    facts.event("09:05", "transferred", "A001", to="w3")
    facts.serve("A001", "09:20", "09:30", "w3")
    (ticket,) = counter(facts).tickets

    assert (ticket.ticket, ticket.queue, ticket.service_code) == ("A001", "A", "car")
    assert (ticket.taken_at, ticket.called_at, ticket.window) == (at("08:40"), at("09:00"), "w1")
    assert (ticket.area, ticket.ended, ticket.ended_at) == ("综合", "finished", at("09:30"))
    assert ticket.back


def test_a_ticket_nobody_saw_being_taken_is_a_ticket(facts: Facts) -> None:
    facts.serve("A001", "09:00", "09:05")
    (ticket,) = counter(facts).tickets

    assert (ticket.taken_at, ticket.called_at) == (None, at("09:00"))


def test_one_taking_told_by_two_is_one_ticket(facts: Facts) -> None:
    facts.taken("08:40", "A001")
    facts.taken("08:40:02", "A001", source="bus")

    assert len(counter(facts).tickets) == 1


def test_a_waiting_ticket_belongs_to_the_area_that_calls_its_queue(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002", "B001", "B002", "C001")
    facts.serve("A001", "09:00")
    facts.serve("B001", "09:00", window="w3")
    found = {one.ticket: one.area for one in counter(facts).tickets}

    assert (found["A002"], found["B002"]) == ("综合", "税务")
    assert found["C001"] not in ("综合", "税务")


def test_an_areas_day_by_the_hour(facts: Facts) -> None:
    facts.taken("08:50", "A001")
    facts.taken("09:30", "A002", "A003", "A004")
    facts.serve("A001", "09:00", "09:10")
    facts.serve("A002", "09:50", "10:10", "w2")
    facts.event("10:20", "called", "A003")
    facts.event("10:21", "abandoned", "A003")
    facts.event("10:30", "abandoned", "A004", "")
    record = area(facts)

    assert record.waits == Durations(3, 80 * MINUTE, 26.7, 50.0)
    told = [
        (one.hour, one.taken, one.called, one.finished, one.abandoned, one.waiting)
        for one in record.hours
    ]
    assert told == [(8, 1, 0, 0, 0, 1), (9, 3, 2, 1, 0, 3), (10, 0, 1, 1, 2, 2)]
    assert record.hours[1].waits == Durations(2, 30 * MINUTE, 15.0, 20.0)
    assert (record.waiting, record.open_windows) == (0, 2)


def test_how_many_wait_is_unknown_until_somebody_tells(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    assert (area(facts).waiting, area(facts).open_windows) == (None, 1)

    facts.serve("A002", "09:10", waiting=7)
    assert area(facts).waiting == 7

    facts.taken("09:11", "A050")
    assert area(facts).waiting == 8


def test_the_line_steps_as_tickets_are_taken_and_called(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002")
    facts.taken("08:45", "A003")
    facts.serve("A001", "09:00")
    facts.event("09:10", "window_paused")

    assert area(facts).line == (
        (at("08:40"), 2, 0),
        (at("08:45"), 3, 0),
        (at("09:00"), 2, 1),
        (at("09:10"), 2, 0),
    )


def test_a_batch_empties_the_queue(facts: Facts) -> None:
    facts.taken("17:30", "A001", "A002", "A003")
    facts.serve("A001", "17:40")
    facts.event("18:00", "batch_abandoned", "", "")
    record = counter(facts, "18:10")

    assert record.batches == ((at("18:00"), ""),)
    assert [(one.ended, one.batch) for one in record.tickets] == [("abandoned", True)] * 3
    assert area(facts, as_of="18:10").waiting == 0


def test_windows_that_were_followed_already_need_not_be_again(facts: Facts) -> None:
    facts.taken("08:40", "A001")
    facts.serve("A001", "09:00", "09:05")
    day = facts.hall()
    windows = {name: follow_window(share) for name, share in window_days(day).items()}

    assert follow_counter(day, windows) == follow_counter(day)


def test_the_outcome_carries_the_areas_and_the_next_moment(facts: Facts) -> None:
    facts.serve("A900", "08:35")
    facts.taken("09:00", *[f"A{number:03}" for number in range(1, 12)])
    facts.serve("A001", "09:10")
    day = facts.hall("09:12")
    outcome = judge_counter(day, follow_counter(day), [LongQueue()])

    assert [one.area for one in outcome.areas] == ["税务", "综合"]
    assert outcome.ask_again == at("09:15")


def test_a_window_asks_to_be_followed_again_at_midnight(facts: Facts) -> None:
    day = facts.window()

    assert judge_window(day, follow_window(day), []).ask_again == at("24:00")


def test_a_display_that_shows_another_queues_ticket_is_accepted(facts: Facts) -> None:
    facts.serve("A001", "09:00", source="display")
    facts.serve("B007", "09:10", source="display")
    record = facts.follow()

    assert (record.state, record.ticket, record.queue) == ("calling", "B007", "B")


def test_resets_are_found_for_each_queue_by_itself(facts: Facts) -> None:
    facts.taken("08:40", "A001", "B001")
    facts.taken("08:50", "A002", "B002")
    facts.taken("11:00", "A001")
    facts.taken("15:00", "A001")

    assert queue_resets(facts.hall()) == (("A", at("11:00")), ("A", at("15:00")))


def test_workdays_are_counted_after_the_date(facts: Facts) -> None:
    day = facts.window()

    assert workday_end(day, at("17:59"), 1) == at("+1 18:00")
    assert workday_end(day, at("+4 09:00"), 1) == at("+7 18:00")
    assert workday_end(day, at("+5 09:00"), 1) == at("+7 18:00")
    assert workday_end(day, at("09:00"), 99) is None


def test_an_episode_lasts_over_short_dips() -> None:
    def line(*told: tuple[str, float | None]) -> list[tuple[int, float | None]]:
        return [(at(when), value) for when, value in told]

    swing = line(("09:00", 11), ("09:10", 10), ("09:14:59", 12), ("09:20", None))
    (one,), asks = episodes(swing, 10, at("09:21"))
    assert (one.since, one.until, one.peak, one.at) == (at("09:00"), None, 12, at("09:14:59"))
    assert asks == at("09:25")

    (one,), asks = episodes(swing, 10, at("09:25"))
    assert (one.until, asks) == (at("09:20"), None)

    apart = line(("09:00", 11), ("09:10", 10), ("09:15", 12))
    first, second = episodes(apart, 10, at("09:16"))[0]
    assert (first.since, first.until, second.since) == (at("09:00"), at("09:10"), at("09:15"))

    assert episodes(apart, 12, at("09:16")) == ([], None)
    assert episodes(line(("10:00", 99)), 10, at("09:59")) == ([], None)


def test_tickets_taken_after_a_batch_go_on_waiting(facts: Facts) -> None:
    facts.taken("11:30", "A001")
    facts.event("12:00", "batch_abandoned", "", "")
    facts.taken("13:00", "A002", "A003")
    facts.serve("A003", "13:10", "13:20")
    found = {one.ticket: one.ended for one in counter(facts).tickets}

    assert found == {"A001": "abandoned", "A002": "", "A003": "finished"}


def test_ranges_of_numbers_without_letters_are_no_new_beginning(facts: Facts) -> None:
    facts.taken("08:31", "2001")
    facts.taken("08:32", "1001", "2002")
    facts.taken("08:33", "1002")
    assert queue_resets(facts.hall()) == ()

    facts.taken("11:00", "1001")
    assert queue_resets(facts.hall()) == (("", at("11:00")),)


def test_a_named_queue_begins_again_far_below(facts: Facts) -> None:
    facts.taken("08:31", "2040", queue="car")
    facts.taken("11:00", "2001", queue="car")

    assert queue_resets(facts.hall()) == (("car", at("11:00")),)


def test_what_the_queue_is_called_when_calling_holds_for_who_waits(facts: Facts) -> None:
    facts.taken("08:40", *[f"A00{number}" for number in range(1, 9)])
    facts.serve("A001", "09:01", queue="personal", waiting=7)
    facts.serve("A002", "09:02")

    assert area(facts).waiting == 6
    assert {one.queue for one in counter(facts).tickets} == {"personal"}


def test_letters_that_two_queues_share_name_neither(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002", "A003")
    facts.serve("A001", "09:01", "09:02", queue="car")
    facts.serve("A002", "09:03", "09:04", queue="tax")

    assert counter(facts).tickets[2].queue == "A"


def test_a_ticket_whose_printer_is_ahead_waits_no_more_once_called(facts: Facts) -> None:
    facts.serve("A001", "09:00", "09:05")
    facts.taken("09:00:03", "A001")

    assert area(facts).waiting == 0


def test_numbers_that_began_again_leave_no_ghost_waiting(facts: Facts) -> None:
    facts.taken("08:40", "A001")
    facts.serve("A001", "08:50", "08:55")
    facts.taken("10:50", "A037", "A038")
    facts.taken("11:00", "A001")
    facts.serve("A037", "11:02", "11:05", queue="car")
    facts.event("11:03", "abandoned", "A038", "")
    facts.serve("A001", "11:06", "11:08")
    found = [(one.ticket, one.epoch, one.ended) for one in counter(facts).tickets]

    assert area(facts).waiting == 0
    assert found == [
        ("A001", 0, "finished"), ("A037", 0, "finished"), ("A038", 0, "abandoned"),
        ("A001", 1, "finished"),
    ]  # fmt: skip


def test_a_ticket_given_up_and_called_all_the_same_was_served(facts: Facts) -> None:
    facts.taken("08:40", "A001")
    facts.event("09:05", "abandoned", "A001")
    facts.serve("A001", "09:10", "09:15")
    (ticket,) = counter(facts).tickets

    assert (ticket.ended, ticket.ended_at, ticket.back) == ("finished", at("09:15"), True)


def test_a_batch_that_names_a_window_sends_nobody_away_who_waits(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002")
    facts.serve("A001", "08:50")
    facts.event("12:00", "batch_abandoned", "", "w1")
    record = counter(facts)

    assert record.batches == ()
    assert [one.ended for one in record.tickets] == ["abandoned", ""]
