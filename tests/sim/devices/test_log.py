"""The log of commands: bounded, numbered, and honest about what it lost."""

from __future__ import annotations

from sim.devices.log import CommandLog


def filled(count: int, capacity: int = 100) -> CommandLog:
    log = CommandLog(capacity)
    for number in range(1, count + 1):
        log.add(float(number), "SN", "127.0.0.1", f"command {number}", obeyed=number % 2 == 0)
    return log


def test_commands_are_numbered_from_one_and_read_from_any_number() -> None:
    log = filled(5)
    assert log.seq == 5
    assert [command.seq for command in log.since(0)] == [1, 2, 3, 4, 5]
    assert [command.seq for command in log.since(3)] == [4, 5]
    assert [command.seq for command in log.since(2, limit=2)] == [3, 4]
    assert log.since(5) == log.since(99) == []
    last = log.last
    assert last is not None
    assert (last.at_s, last.device, last.client, last.command, last.obeyed) == (
        5.0,
        "SN",
        "127.0.0.1",
        "command 5",
        False,
    )


def test_the_oldest_are_lost_when_it_is_full_and_it_says_which() -> None:
    log = filled(250)
    assert [command.seq for command in log.since(0)] == list(range(151, 251))
    assert log.oldest_seq == 151
    assert [command.seq for command in log.since(0, limit=3)] == [151, 152, 153]


def test_clearing_forgets_and_goes_on_numbering() -> None:
    log = filled(3)
    log.reads = 7
    log.clear()
    assert (log.seq, log.oldest_seq, log.last, log.since(0), log.reads) == (3, 4, None, [], 0)
    log.add(9.0, "SN", "", "next", obeyed=True)
    assert [command.seq for command in log.since(0)] == [4]


def test_a_command_of_any_length_is_kept_short() -> None:
    log = CommandLog()
    log.add(0.0, "SN", "", "x" * 10_000, obeyed=False)
    assert len(log.since(0)[0].command) == 80
