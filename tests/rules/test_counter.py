"""One window's date: states, services, sources that disagree."""

from __future__ import annotations

import pytest

from rules.counter import Durations, WindowRecord, same_ticket, window_days
from rules.model import QUEUE_EVENTS, normal_ticket
from tests.rules.counter_facts import W1, W2, Facts, at, up


@pytest.fixture
def facts() -> Facts:
    return Facts(W1, W2)


def states(record: WindowRecord) -> list[str]:
    return [state for _, state in record.states]


def ended(record: WindowRecord) -> list[tuple[str, str]]:
    return [(one.ticket, one.ended) for one in record.services]


# The state machine


def test_a_ticket_is_called_served_and_finished(facts: Facts) -> None:
    facts.taken("08:50", "A037", queue="A")
    facts.event("09:00", "called", "A037", queue="A", person="1001", waiting=12)
    facts.event("09:00:30", "started", "A037")
    facts.event("09:05:30", "finished", "A037")
    record = facts.follow()

    (service,) = record.services
    assert states(record) == ["calling", "serving", "finished"]
    assert record.state == "finished"
    assert record.since == at("09:05:30")
    assert (record.ticket, record.queue, record.person) == ("A037", "A", "1001")
    assert record.called_at == at("09:00")
    assert (record.waiting, record.repeat, record.calls) == (12, 0, 1)
    assert (service.taken_at, service.called_at) == (at("08:50"), at("09:00"))
    assert (service.started_at, service.finished_at) == (at("09:00:30"), at("09:05:30"))
    assert (service.waited, service.served) == (10 * 60_000, 5 * 60_000)
    assert record.out_of_order == ()


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("called", "calling"),
        ("called started", "serving"),
        ("called finished", "finished"),
        ("called abandoned", "idle"),
        ("called held", "idle"),
        ("called transferred", "idle"),
        ("called held called_back", "calling"),
        ("called abandoned called_back", "calling"),
        ("called window_paused", "paused"),
        ("called window_paused window_resumed", "calling"),
        ("called finished window_paused window_resumed", "finished"),
        ("window_login", "idle"),
        ("window_opened", "idle"),
        ("window_opened window_closed", "closed"),
        ("window_opened window_closed window_opened", "idle"),
        ("called started window_closed finished window_opened", "finished"),
        ("called batch_abandoned", "idle"),
    ],
)
def test_the_state_after_events_in_order(facts: Facts, events: str, expected: str) -> None:
    for minute, event in enumerate(events.split()):
        ticket = "" if event.startswith(("window", "batch")) else "A001"
        facts.event(f"09:{minute:02}", event, ticket)
    record = facts.follow()

    assert record.state == expected
    assert record.since is not None


def test_nothing_told_is_unknown_and_nothing_is_counted(facts: Facts) -> None:
    record = facts.follow()

    assert (record.state, record.since, record.waiting) == ("unknown", None, None)
    assert record.services == ()
    assert (record.figures.rated.n, record.figures.rated.of) == (0, 0)
    assert record.figures.waits == Durations()


def test_idle_names_no_ticket_and_a_pause_hides_it(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.event("09:01", "window_paused")
    paused = facts.follow()
    facts.event("09:02", "window_resumed")
    facts.event("09:03", "held", "A001")
    idle = facts.follow()

    assert (paused.state, paused.ticket, paused.called_at) == ("paused", "", None)
    assert (idle.state, idle.ticket, idle.repeat) == ("idle", "", 0)


def test_a_call_while_another_is_called_ends_the_former_unseen(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    second = facts.event("09:10", "called", "A002")
    record = facts.follow()

    assert ended(record) == [("A001", "ended_unknown"), ("A002", "open")]
    assert record.figures.rated.of == 0
    assert record.out_of_order == (second.reading_id.hex(),)


def test_displays_never_tell_of_an_end_so_it_is_not_out_of_order(facts: Facts) -> None:
    facts.serve("A001", "09:00", source="display")
    facts.serve("A002", "09:10", source="display")
    record = facts.follow()

    assert ended(record) == [("A001", "ended_unknown"), ("A002", "open")]
    assert record.out_of_order == ()


def test_an_end_told_after_the_next_call_still_ends_its_own_service(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.serve("A002", "09:10")
    late = facts.event("09:10:02", "finished", "A001")
    record = facts.follow()

    assert ended(record) == [("A001", "finished"), ("A002", "open")]
    assert (record.state, record.ticket) == ("calling", "A002")
    assert late.reading_id.hex() in record.out_of_order


def test_a_finish_without_a_call_is_a_service_and_out_of_order(facts: Facts) -> None:
    event = facts.event("09:05", "finished", "A001", person="1001")
    record = facts.follow()

    (service,) = record.services
    assert (record.state, service.ended, service.person) == ("finished", "finished", "1001")
    assert (service.called_at, service.waited, service.served) == (None, None, None)
    assert record.figures.rated.of == 1
    assert record.out_of_order == (event.reading_id.hex(),)


def test_a_finish_told_twice_is_one_service(facts: Facts) -> None:
    facts.serve("A001", "09:00", "09:05")
    again = facts.event("09:05:30", "finished", "A001")
    key = facts.event("09:05:40", "finished", "", source="bus")
    record = facts.follow()

    assert ended(record) == [("A001", "finished")]
    assert record.services[0].finished_at == at("09:05")
    assert record.out_of_order == (again.reading_id.hex(), key.reading_id.hex())


def test_a_finish_of_a_ticket_never_seen_leaves_the_one_that_is_called(facts: Facts) -> None:
    facts.serve("A002", "09:00")
    facts.event("09:01", "finished", "A009")
    record = facts.follow()

    assert ended(record) == [("A002", "open"), ("A009", "finished")]
    assert (record.state, record.ticket) == ("calling", "A002")


def test_a_start_of_another_ticket_ends_the_former_unseen(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.event("09:01", "started", "A002")
    record = facts.follow()

    assert ended(record) == [("A001", "ended_unknown"), ("A002", "open")]
    assert (record.state, record.ticket, record.called_at) == ("serving", "A002", None)


def test_a_recall_without_its_call_calls_but_tells_no_wait(facts: Facts) -> None:
    facts.taken("08:50", "A001")
    event = facts.event("09:00", "recalled", "A001")
    record = facts.follow()

    assert (record.state, record.repeat) == ("calling", 1)
    assert record.services[0].waited is None
    assert record.out_of_order == (event.reading_id.hex(),)


def test_recalls_are_counted_and_are_the_last_call(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.event("09:01", "recalled", "A001")
    newest = facts.event("09:02", "recalled", "A001")
    record = facts.follow()

    assert (record.repeat, record.calls) == (2, 3)
    assert record.last_call is not None
    assert (record.last_call.at, record.last_call.kind) == (at("09:02"), "recalled")
    assert record.last_call.readings == (newest.reading_id,)
    assert record.called_at == at("09:00")


@pytest.mark.parametrize(("again", "calls"), [("09:00:04.9", 1), ("09:00:05", 2)])
def test_the_same_ticket_called_within_five_seconds_is_a_repeat(
    facts: Facts, again: str, calls: int
) -> None:
    first = facts.event("09:00", "called", "A001")
    second = facts.event(again, "called", "A001")
    record = facts.follow()

    assert record.calls == calls
    assert len(record.services) == 1
    assert record.last_call is not None
    if calls == 1:
        assert record.last_call.at == at("09:00")
        assert record.last_call.readings == (first.reading_id, second.reading_id)


def test_a_held_ticket_is_one_service_when_it_is_called_back(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.event("09:01", "held", "A001")
    facts.serve("A002", "09:02", "09:05")
    facts.event("09:06", "called_back", "A001")
    facts.event("09:10", "finished", "A001")
    record = facts.follow()

    assert ended(record) == [("A001", "finished"), ("A002", "finished")]
    assert record.services[0].called_at == at("09:00")
    assert record.services[0].flags == ("called_back",)
    assert record.out_of_order == ()


def test_a_key_calls_back_the_newest_ticket_put_aside(facts: Facts) -> None:
    for minute, ticket in (("00", "A001"), ("10", "A002")):
        facts.event(f"09:{minute}", "called", ticket, source="bus")
        facts.event(f"09:{minute}:30", "held", source="bus")
    facts.event("09:20", "called_back", source="bus")
    record = facts.follow()

    assert (record.state, record.ticket) == ("calling", "A002")
    assert ended(record) == [("A001", "held"), ("A002", "open")]


def test_events_of_one_second_are_taken_in_the_order_that_fits(facts: Facts) -> None:
    """Some tellers know whole seconds only: finish and next call then have the same time."""
    facts.serve("A001", "09:00")
    for second in range(1, 20):
        facts.event(f"09:{second:02}", "finished", f"A{second:03}")
        facts.event(f"09:{second:02}", "called", f"A{second + 1:03}")
    record = facts.follow()

    assert [how for _, how in ended(record)] == ["finished"] * 19 + ["open"]
    assert record.out_of_order == ()


def test_the_person_is_who_called_the_ticket(facts: Facts) -> None:
    facts.event("08:30", "window_login", person="1001")
    facts.serve("A001", "09:00", "09:05")
    facts.event("10:00", "window_logout", person="1001")
    facts.event("10:01", "window_login", person="1002")
    facts.serve("A002", "10:02", person="1003")
    facts.serve("A003", "10:10")
    record = facts.follow()

    assert [one.person for one in record.services] == ["1001", "1003", "1002"]


def test_nobody_is_logged_in_after_a_logout(facts: Facts) -> None:
    facts.event("08:30", "window_login", person="1001")
    facts.event("10:00", "window_logout")

    assert facts.follow().person == ""


def test_an_unknown_kind_of_event_is_flagged_and_changes_nothing(facts: Facts) -> None:
    event = facts.event("09:00", "teleported", "A001")
    record = facts.follow()

    assert record.state == "unknown"
    assert record.out_of_order == (event.reading_id.hex(),)


@pytest.mark.parametrize("first", QUEUE_EVENTS)
@pytest.mark.parametrize("second", QUEUE_EVENTS)
def test_no_pair_of_events_is_dropped_silently(facts: Facts, first: str, second: str) -> None:
    """Every event is applied, or flagged, or belongs to a ticket only."""
    facts.event("09:00", first, "A001")
    event = facts.event("09:10", second, "A002")
    record = facts.follow()
    facts.events.pop()
    without = facts.follow()

    told = event.reading_id.hex() in record.out_of_order
    quiet = second in ("ticket_taken", "window_login", "window_logout", "window_opened",
                       "batch_abandoned", "window_resumed", "window_paused")  # fmt: skip
    same = (record.state, record.services) == (without.state, without.services)
    assert told or quiet or not same or second == first == "window_closed"


def test_waiting_is_as_last_told_and_never_a_guessed_nought(facts: Facts) -> None:
    facts.serve("A001", "09:00", waiting=0)
    assert facts.follow().waiting == 0

    facts.serve("A002", "09:10")
    assert facts.follow().waiting == 0

    other = Facts()
    other.serve("A001", "09:00")
    assert other.follow().waiting is None


def test_a_clock_far_ahead_is_not_believed(facts: Facts) -> None:
    facts.event("09:10", "called", "A001", received="09:00")
    facts.event("09:05", "called", "A002", received="09:04")
    record = facts.follow()

    assert [one.called_at for one in record.services] == [at("09:00"), at("09:05")]


def test_a_burst_after_an_outage_keeps_its_own_times(facts: Facts) -> None:
    facts.serve("A001", "09:00", "09:05", received="11:00")

    assert facts.follow().services[0].finished_at == at("09:05")


# Pause keys are toggles


def test_a_pause_key_that_contradicts_itself_makes_the_state_unknown(facts: Facts) -> None:
    facts.event("09:00", "window_paused", source="bus")
    facts.event("09:10", "window_paused", source="bus")
    record = facts.follow()
    assert record.state == "unknown"

    facts.event("09:20", "window_resumed", source="display")
    assert facts.follow().state == "idle"


def test_a_resume_key_in_the_midst_of_service_is_contradictory(facts: Facts) -> None:
    facts.event("09:00", "called", source="bus")
    facts.event("09:01", "window_resumed", source="bus")
    assert facts.follow().state == "unknown"

    facts.event("09:02", "called", source="bus")
    assert facts.follow().state == "calling"


def test_the_queue_system_telling_a_pause_twice_is_no_contradiction(facts: Facts) -> None:
    facts.event("09:00", "window_paused")
    facts.event("09:10", "window_paused")

    assert facts.follow().state == "paused"


def test_the_hosts_own_text_wins_over_a_lost_key(facts: Facts) -> None:
    facts.event("09:00", "called", source="bus")
    facts.event("09:01", "window_paused", source="display")
    facts.event("09:02", "window_resumed", source="display")

    assert states(facts.follow()) == ["calling", "paused", "calling"]


# Sources that disagree


def test_one_event_of_two_sources_is_one_and_the_trusted_one_fills_it(facts: Facts) -> None:
    shown = facts.event("09:00:04", "called", "037", source="display")
    api = facts.event("09:00", "called", "A037", person="1001")
    facts.event("09:05", "finished", "A037")
    record = facts.follow()

    (service,) = record.services
    assert (service.ticket, service.person, service.called_at) == ("A037", "1001", at("09:00"))
    assert service.sources == ("api",)
    assert service.recalls == 0
    assert record.last_call is not None
    assert record.last_call.readings == (api.reading_id, shown.reading_id)
    assert record.calls == 1


def test_a_lower_source_fills_what_the_higher_does_not_say(facts: Facts) -> None:
    facts.event("09:00", "called", "A037")
    facts.event("09:00:01", "called", "A037", source="bus", person="1001", queue="A", waiting=7)
    record = facts.follow()

    assert (record.person, record.queue, record.waiting) == ("1001", "A", 7)


@pytest.mark.parametrize(("shown", "ticket"), [("09:00:05", "A037"), ("09:00:05.1", "")])
def test_a_key_without_a_number_is_completed_by_the_display_within_five_seconds(
    facts: Facts, shown: str, ticket: str
) -> None:
    facts.event("09:00", "called", source="bus")
    facts.event(shown, "called", "A037", source="display")
    record = facts.follow(as_of="09:00:04" if not ticket else "17:00")

    assert record.services[0].ticket == ticket
    assert len(record.services) == (1 if ticket else 2)


def test_a_display_that_changed_well_before_the_key_belongs_to_the_call_before(
    facts: Facts,
) -> None:
    facts.event("09:00", "called", "A036", source="display")
    facts.event("09:00:03", "called", source="bus")
    record = facts.follow()

    assert [one.ticket for one in record.services] == ["A036", ""]


def test_keys_without_a_number_mean_the_ticket_that_is_called(facts: Facts) -> None:
    facts.event("09:00", "called", source="bus")
    facts.event("09:00:02", "called", "A037", source="display")
    facts.event("09:01", "recalled", source="bus")
    facts.event("09:05", "finished", source="bus")
    record = facts.follow()

    (service,) = record.services
    assert (service.ticket, service.ended, service.recalls) == ("A037", "finished", 1)
    assert service.called_at == at("09:00")


def test_only_displays_leave_the_recalls_unknown(facts: Facts) -> None:
    facts.serve("A037", "09:00", source="display")
    record = facts.follow()

    assert (record.repeat, record.services[0].recalls) == (None, None)


def test_a_display_is_no_call_where_the_queue_system_tells_of_calls(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.event("09:30", "called", "A777", source="display")
    record = facts.follow()

    assert (record.state, record.ticket) == ("calling", "A001")
    (one,) = record.unmatched_shown
    assert (one.ticket, one.since, one.until) == ("A777", at("09:30"), None)


def test_a_display_is_believed_while_the_queue_systems_link_is_known_to_be_down(
    facts: Facts,
) -> None:
    facts.serve("A001", "09:00", "09:05")
    facts.event("09:30", "called", "A002", source="display")
    link = up("qms", "queue", ("08:00", "09:10"), ("10:00", "20:00"), window="")
    record = facts.follow(device_up=(link,))

    assert (record.state, record.ticket) == ("calling", "A002")
    assert record.unmatched_shown == ()


def test_keys_count_beside_a_queue_system_that_tells_of_calls(facts: Facts) -> None:
    facts.serve("A001", "09:00")
    facts.event("09:04", "finished", source="bus")
    facts.event("09:04:01", "finished", "A001")
    record = facts.follow()

    assert ended(record) == [("A001", "finished")]
    assert record.services[0].finished_at == at("09:04:01")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A037", "A037", True),
        ("037", "A037", True),
        ("A037", "037", True),
        ("37", "A037", False),
        ("", "A037", False),
        ("B037", "A037", False),
    ],
)
def test_small_displays_show_the_last_digits(one: str, other: str, same: bool) -> None:
    assert same_ticket(one, other) is same


def test_a_ticket_is_compared_without_width_case_blanks_or_dot() -> None:
    assert normal_ticket(" ａ 037. ") == "A037"
    assert normal_ticket("综A037") == "综A037"


# What a display shows


def test_a_first_look_is_a_state_and_no_call(facts: Facts) -> None:
    facts.show("08:00", "A120", baseline=True)
    record = facts.follow()

    assert (record.state, record.ticket, record.called_at) == ("calling", "A120", None)
    assert (record.calls, record.last_call, record.figures.called) == (0, None, 0)


@pytest.mark.parametrize(("text", "state"), [("", "idle"), ("暂停服务", "paused")])
def test_a_first_look_at_a_blank_or_paused_display(facts: Facts, text: str, state: str) -> None:
    facts.show("08:00", text, baseline=True)

    assert facts.follow().state == state


def test_a_lamp_test_tells_nothing(facts: Facts) -> None:
    facts.show("08:00", "8888", baseline=True)

    assert facts.follow().state == "unknown"


def test_a_look_after_a_reconnection_knows_what_it_saw_before(facts: Facts) -> None:
    facts.serve("A001", "09:00", source="display")
    facts.show("09:10", "A001", baseline=True)
    record = facts.follow()

    assert ended(record) == [("A001", "open")]
    assert record.called_at == at("09:00")


def test_a_look_after_a_reconnection_may_find_another_ticket(facts: Facts) -> None:
    facts.serve("A001", "09:00", source="display")
    facts.show("09:10", "A005", baseline=True)
    record = facts.follow()

    assert ended(record) == [("A001", "ended_unknown"), ("A005", "open")]
    assert (record.ticket, record.called_at, record.calls) == ("A005", None, 1)


def test_a_blank_display_ends_the_service_only_where_nobody_else_tells(facts: Facts) -> None:
    facts.serve("A001", "09:00", source="display")
    facts.show("09:05", "")
    alone = facts.follow()

    other = Facts()
    other.serve("A001", "09:00")
    other.show("09:05", "")
    beside = other.follow()

    assert (alone.state, ended(alone)) == ("idle", [("A001", "ended_unknown")])
    assert (beside.state, ended(beside)) == ("calling", [("A001", "open")])


# Midnight, batches, transfers, resets


def test_tickets_do_not_survive_the_day(facts: Facts) -> None:
    facts.serve("A001", "17:00")
    facts.event("17:01", "held", "A001")
    facts.serve("A002", "17:50")
    before, after = facts.follow("23:59:59.9"), facts.follow("24:00")

    assert ended(before) == [("A001", "held"), ("A002", "open")]
    assert before.changes_at == at("24:00")
    assert ended(after) == [("A001", "ended_unknown"), ("A002", "ended_unknown")]
    assert (after.state, after.changes_at) == ("unknown", None)


def test_a_batch_gives_up_what_was_called_but_not_whom_is_served(facts: Facts) -> None:
    facts.serve("A001", "17:00")
    facts.event("17:01", "held", "A001")
    facts.serve("A002", "17:50")
    facts.event("17:50", "called", "A003", "w2")
    facts.event("17:51", "started", "A003", "w2")
    facts.event("18:00", "batch_abandoned", "", "")
    one, two = facts.follow(), facts.follow(window="w2")

    assert ended(one) == [("A001", "abandoned"), ("A002", "abandoned")]
    assert all("batch" in service.flags for service in one.services)
    assert ended(two) == [("A003", "ended_unknown")]
    assert (one.state, two.state) == ("idle", "idle")


def test_a_batch_of_one_queue_leaves_the_others(facts: Facts) -> None:
    facts.serve("B001", "17:50")
    facts.event("18:00", "batch_abandoned", "", "", queue="A")

    assert ended(facts.follow()) == [("B001", "open")]


def test_a_transferred_ticket_waits_anew_for_its_next_window(facts: Facts) -> None:
    facts.taken("08:40", "A001")
    facts.serve("A001", "09:00")
    facts.event("09:05", "transferred", "A001", to="w2")
    facts.event("09:11", "called", "A001", "w2")
    facts.event("09:20", "finished", "A001", "w2")
    one, two = facts.follow(), facts.follow(window="w2")

    assert (one.services[0].waited, one.services[0].to) == (20 * 60_000, "w2")
    assert (two.services[0].waited, two.services[0].taken_at) == (6 * 60_000, at("08:40"))


def test_a_wait_before_the_hall_opens_does_not_count(facts: Facts) -> None:
    facts.taken("07:30", "A001")
    facts.serve("A001", "08:35")

    assert facts.follow().services[0].waited == 5 * 60_000


def test_the_numbers_beginning_again_make_another_ticket(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002")
    facts.serve("A001", "09:00", "09:05")
    facts.taken("11:00", "A001")
    facts.serve("A001", "11:10", "11:20")
    record = facts.follow()

    assert [one.epoch for one in record.services] == [0, 1]
    assert [one.waited for one in record.services] == [20 * 60_000, 10 * 60_000]
    assert record.out_of_order == ()


def test_a_ticket_taken_before_the_numbers_began_again_keeps_its_place(facts: Facts) -> None:
    facts.taken("08:40", "A001")
    facts.taken("10:50", "A037")
    facts.taken("11:00", "A001")
    facts.serve("A037", "11:02", "11:05")

    assert [(one.ticket, one.epoch) for one in facts.follow().services] == [("A037", 0)]


def test_a_batch_of_one_window_leaves_the_others(facts: Facts) -> None:
    facts.serve("A001", "17:50")
    facts.event("17:50", "called", "A002", "w2")
    facts.event("18:00", "batch_abandoned", "", "w2")

    assert ended(facts.follow()) == [("A001", "open")]
    assert ended(facts.follow(window="w2")) == [("A002", "abandoned")]


def test_a_finished_ticket_called_again_is_out_of_order_if_no_numbers_began_again(
    facts: Facts,
) -> None:
    facts.serve("A001", "09:00", "09:05")
    again = facts.event("11:10", "called", "A001")
    record = facts.follow()

    assert len(record.services) == 2
    assert record.out_of_order == (again.reading_id.hex(),)


# Figures and shares


def test_waits_and_services_are_told_by_the_hour(facts: Facts) -> None:
    facts.taken("08:50", "A001")
    facts.taken("09:30", "A002", "A003")
    facts.serve("A001", "09:00", "09:10")
    facts.serve("A002", "09:50", "10:10")
    facts.event("10:20", "called", "A003")
    facts.event("10:21", "abandoned", "A003")
    figures = facts.follow().figures

    assert figures.waits == Durations(3, 80 * 60_000, 26.7, 50.0)
    assert figures.services == Durations(2, 30 * 60_000, 15.0, 20.0)
    assert [(h.hour, h.called, h.finished, h.abandoned) for h in figures.hours] == [
        (9, 2, 1, 0),
        (10, 1, 1, 1),
    ]
    assert figures.hours[0].waits == Durations(2, 30 * 60_000, 15.0, 20.0)


def test_each_window_gets_its_own_share_and_its_tickets_history(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002", "A003")
    facts.serve("A001", "09:00", "09:05")
    facts.event("09:00", "called", "A002", "w2")
    facts.event("18:00", "batch_abandoned", "", "")
    facts.rating("09:06", 5)
    facts.prompt("09:05", window="w2")
    facts.show("09:00", "A001")
    days = window_days(facts.hall())

    told = {name: [one.body.event for one in day.events] for name, day in days.items()}
    assert told == {
        "w1": ["called", "finished", "batch_abandoned", "ticket_taken"],
        "w2": ["called", "batch_abandoned", "ticket_taken"],
    }
    assert [len(days[name].ratings) for name in ("w1", "w2")] == [1, 0]
    assert [len(days[name].prompts) for name in ("w1", "w2")] == [0, 1]
    assert [len(days[name].shown) for name in ("w1", "w2")] == [1, 0]


def test_numbers_that_begin_again_leave_the_other_queues_alone(facts: Facts) -> None:
    facts.taken("08:40", "A001", "A002", "B001")
    facts.taken("11:00", "A001")
    facts.serve("A001", "11:10", "11:20")
    facts.serve("B001", "11:30", "11:40")

    assert [one.epoch for one in facts.follow().services] == [1, 0]


def test_a_recall_key_with_nothing_called_is_flagged(facts: Facts) -> None:
    event = facts.event("09:00", "recalled", source="bus")
    record = facts.follow()

    assert record.services == ()
    assert record.out_of_order == (event.reading_id.hex(),)


def test_the_queue_system_resuming_a_window_that_goes_on_is_out_of_order_only(
    facts: Facts,
) -> None:
    facts.serve("A001", "09:00")
    event = facts.event("09:01", "window_resumed")
    record = facts.follow()

    assert record.state == "calling"
    assert record.out_of_order == (event.reading_id.hex(),)


def test_a_resume_is_the_first_that_is_known_of_a_window(facts: Facts) -> None:
    facts.event("08:30", "window_resumed", source="bus")
    record = facts.follow()

    assert (record.state, record.out_of_order) == ("idle", ())


def test_numbers_that_began_again_before_explain_no_second_call(facts: Facts) -> None:
    facts.taken("08:30", "A001", "A002")
    facts.taken("08:40", "A001")
    facts.serve("A001", "09:00", "09:05")
    again = facts.event("11:10", "called", "A001")

    assert facts.follow().out_of_order == (again.reading_id.hex(),)
