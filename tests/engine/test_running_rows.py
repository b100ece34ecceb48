"""The running rows, driven by hand-made logits: what ends a request, and that closing gaps mixes nothing up."""

import asyncio

import pytest
import torch

from afterbase.engine.rows import IDLE, Group, Rows
from afterbase.records import Completion, Sampling

VOCABULARY = 300


class Driver:
    """Rows without a model: each request says its own lines, token by token."""

    def __init__(self, rows=8, room=100, decode=None):
        self.rows = Rows(rows, room, torch.device("cpu"), decode)
        self.lines: dict[Group, list[int]] = {}

    def ask(self, line, prompt=(1,), **sampling) -> Group:
        """A request that will say `line`."""
        group = Group(tuple(prompt), Sampling(temperature=0.0, **sampling), range(1), asyncio.Future(loop=asyncio.new_event_loop()))
        self.lines[group] = list(line)
        self.rows.place([group])
        self.step()
        return group

    def step(self) -> list:
        """Everyone (or, right after a request, only the new one) says its next token."""
        first = self.rows.running - self.rows.fresh if self.rows.fresh else 0
        if not self.rows.fresh:
            self.rows.last()
        logits = torch.zeros(self.rows.running - first, VOCABULARY)
        for row in range(first, self.rows.running):
            group, _ = self.rows.owners[row]
            logits[row - first, self.lines[group][int(self.rows.counts[row])]] = 9.0
        return self.rows.advance(logits, version=3)

    def finish(self, group) -> Completion:
        """Go on until this request has ended."""
        while not group.finished:
            self.step()
        return group.finished[0]


def ascii_text(tokens) -> str:
    return bytes(tokens).decode("utf-8", errors="replace")


def test_a_stop_id_ends_and_is_kept():
    driver = Driver()
    done = driver.finish(driver.ask([5, 6, 7, 8], stop_ids=(7, 9)))
    assert (done.tokens, done.finish, done.version) == ((5, 6, 7), "stop", 3)
    assert len(done.logprobs) == len(done.sampled_logprobs) == 3


def test_a_stop_id_as_the_very_first_token_ends_at_once():
    driver = Driver()
    assert driver.ask([7, 8], stop_ids=(7,)).finished[0].tokens == (7,) and driver.rows.running == 0


def test_the_token_limit_ends_with_length_unless_it_stops_there_anyway():
    driver = Driver()
    assert driver.finish(driver.ask([5, 6, 7, 8], max_tokens=3)).finish == "length"
    assert driver.finish(driver.ask([5, 6, 7, 8], max_tokens=3, stop_ids=(7,))).finish == "stop"


def test_the_context_ends_with_length():
    """A prompt of 7 in a room of 10 leaves 3 tokens."""
    driver = Driver(room=10)
    done = driver.finish(driver.ask(range(50), prompt=range(7)))
    assert (done.tokens, done.finish) == ((0, 1, 2), "length")


@pytest.mark.parametrize(
    ("line", "stop", "kept"),
    [
        ("one.two", ".", "one."),
        ("a END b", "END", "a END"),
        ("aaab", "aab", "aaab"),
        ("ENEND x", "END", "ENEND"),
        ("ja 小明 nein", "小明", "ja 小明"),
        ("so 🎉🎉🎉🎉🎉🎉🎉🎉 end", "🎉🎉🎉🎉🎉🎉🎉🎉", "so 🎉🎉🎉🎉🎉🎉🎉🎉"),
    ],
)
def test_a_stop_string_may_span_tokens_and_characters_too(line, stop, kept):
    """One token is one byte here: a flower is four tokens, and eight of them thirty-two."""
    driver = Driver(decode=ascii_text)
    done = driver.finish(driver.ask(line.encode(), stop=(stop, "never said")))
    assert (ascii_text(done.tokens), done.finish) == (kept, "stop")


def test_a_token_that_holds_more_than_the_stop_string_ends_too():
    """Token 7 reads "x.\\n": the full stop is in the middle of it."""
    driver = Driver(decode=lambda tokens: "".join("x.\n" if token == 7 else "y" for token in tokens))
    assert driver.finish(driver.ask([5, 6, 7, 8], stop=(".",))).tokens == (5, 6, 7)


def test_stop_ids_of_one_request_do_not_stop_another():
    driver = Driver()
    first, second = driver.ask([5] * 9, stop_ids=(6, 7, 8)), driver.ask([6, 7, 8, 4, 5], stop_ids=(4,))
    assert driver.finish(second).tokens == (6, 7, 8, 4) and not first.finished


def test_a_rows_old_stop_ids_are_forgotten():
    driver = Driver()
    driver.finish(driver.ask([5], stop_ids=(5, 6, 7)))
    assert driver.finish(driver.ask([6, 7, 9], stop_ids=(9,))).tokens == (6, 7, 9)


def test_a_gap_is_filled_by_the_last_row():
    """Of rows 0 1 2 3, 1 ends: 3 moves down, with the 4 tokens that its cache holds."""
    driver = Driver()
    groups = [driver.ask([9, 9, 9, 9, 9, 9] if n != 1 else [9, 9, 9, 7], stop_ids=(7,), prompt=range(1 + (n == 3))) for n in range(4)]
    moves = [driver.step() for _ in range(3)]
    assert moves[:2] == [[], []] and groups[1].finished
    ((targets, sources, length),) = moves[2]
    assert (targets.tolist(), sources.tolist(), length) == ([1], [3], 5)
    assert [owner for owner, _ in driver.rows.owners] == [groups[0], groups[3], groups[2]]


def test_each_request_keeps_its_own_tokens_through_many_moves():
    """60 requests of 1 to 23 tokens pass through 8 rows; each says its own line to the end."""
    driver, random = Driver(), torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 24, (60,), generator=random).tolist()
    waiting = [[*torch.randint(10, VOCABULARY, (length - 1,), generator=random).tolist(), 7] for length in lengths]
    asked = []
    while waiting or driver.rows.running:
        while waiting and driver.rows.running < 8:
            line = waiting.pop()
            asked.append((driver.ask(line, stop_ids=(7,)), line))
        if driver.rows.running:
            driver.step()
    assert [list(group.finished[0].tokens) for group, _ in asked] == [line for _, line in asked]


def test_dropping_tells_which_groups_were_running():
    driver = Driver()
    first, second = driver.ask([5] * 9), driver.ask([5] * 9)
    assert driver.rows.drop() == [first, second] and driver.rows.running == 0
    assert driver.finish(driver.ask([5, 7], stop_ids=(7,))).tokens == (5, 7)


def test_a_device_goes_alone_as_far_as_the_host_has_no_say():
    """No further than the longest limit; one step at a time for a stop string; not for truncated draws."""

    def most(decode=None, **sampling) -> int:
        driver = Driver(decode=decode)
        driver.ask(range(50), max_tokens=7)
        driver.ask(range(50), **{"max_tokens": 5, **sampling})
        return driver.rows.burst(16)

    assert most() == 6  # the first has said one of its seven
    assert most(max_tokens=100) == 16
    assert most(decode=ascii_text, stop=("!",)) == 1
    assert most(top_k=3) == most(top_p=0.9) == 0


def test_bursts_count_down_to_the_longest_limit():
    driver = Driver()
    driver.ask(range(50), max_tokens=21)
    assert [driver.rows.burst(16) for _ in range(2)] == [16, 4]


def test_a_device_passes_over_rows_that_were_dropped():
    driver = Driver(rows=4)
    groups = [driver.ask(range(50)) for _ in range(3)]
    assert driver.rows.drop() == groups and driver.rows.running == 0
    driver.ask(range(50))
    assert driver.rows.done.tolist() == [0, IDLE, IDLE, IDLE]
