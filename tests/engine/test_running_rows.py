"""The running rows, driven by hand-made logits: what ends a request, and that closing gaps mixes nothing up."""

import asyncio

import pytest
import torch

from afterbase.engine.rows import FULL, IDLE, STOPPED, Group, Rows
from afterbase.errors import EngineError
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
    """No further than the longest limit; nowhere while a row's draws are truncated or steered."""

    def rows_of(**sampling) -> Rows:
        driver = Driver(decode=ascii_text)
        driver.ask(range(50), max_tokens=7)
        driver.ask(range(50), **{"max_tokens": 5, **sampling})
        return driver.rows

    assert rows_of().burst(16) == 6  # the first has said one of its seven
    assert rows_of(max_tokens=100).burst(16) == 16
    assert not rows_of().hosted and not rows_of(stop=("!",)).hosted
    assert rows_of(top_k=3).hosted and rows_of(top_p=0.9).hosted and rows_of(presence_penalty=1.0).hosted


def test_bursts_count_down_to_the_longest_limit():
    driver = Driver()
    driver.ask(range(50), max_tokens=21)
    assert [driver.rows.burst(16) for _ in range(2)] == [16, 4]


def test_a_row_that_needed_the_host_takes_that_along():
    """Of three rows the middle one is truncated; when the first ends, the last takes its place."""
    driver = Driver()
    for stop, sampling in ((6, {}), (8, {"top_k": 3}), (99, {})):
        driver.ask([5, 6, 7, 8, 9, 9, 9], stop_ids=(stop,), **sampling)
    seen = []
    while driver.rows.running > 1:
        seen.append((driver.rows.running, driver.rows.hosted))
        driver.step()
    assert set(seen) == {(3, True), (2, True)} and not driver.rows.hosted


def say(rows, *line, done=()):
    """A device's step: each row says its token, and some end by it."""
    for row, token in enumerate(line):
        rows.tokens[row, rows.counts[row]] = token
        rows.counts[row] += 1
    for row, how in done:
        rows.done[row] = how


def test_a_look_sees_the_moment_at_which_it_was_taken():
    """Row 0 had ended by then; row 1 ends a step later, and row 2's later token is nobody's news yet."""
    driver, heard = Driver(decode=ascii_text), []
    groups = [driver.ask([65] * 9, max_tokens=20) for _ in range(3)]
    groups[2].watch, driver.rows.watched = lambda *news: heard.append(news[1]), True
    groups[2].told[0] = 1
    say(driver.rows, 66, 66, 66, done=[(0, STOPPED)])
    seen = driver.rows.seen()
    say(driver.rows, 67, 67, 67, done=[(1, FULL)])
    ((targets, sources, _),) = driver.rows.look(3, seen)
    assert (targets.tolist(), sources.tolist()) == ([0], [2])
    assert groups[0].finished[0].tokens == (65, 66) and groups[0].finished[0].finish == "stop"
    assert not groups[1].finished and heard == [66] and driver.rows.behind
    driver.rows.look(3)
    assert groups[1].finished[0].tokens == (65, 66, 67) and groups[1].finished[0].finish == "length"
    assert heard == [66, 67] and not driver.rows.behind and driver.rows.done.tolist()[:2] == [0, IDLE]


def test_what_the_host_reckons_is_what_the_device_has():
    """The longest row and the tokens that may still come, after looks behind two steps that are under way."""
    driver = Driver()
    driver.ask([5] * 9, prompt=range(30), max_tokens=4)
    driver.ask([5] * 9, prompt=range(20), max_tokens=40)
    driver.rows.look(3)
    seen, _ = driver.rows.seen(), driver.rows.burst(2)
    say(driver.rows, 6, 6)
    say(driver.rows, 6, 6)
    driver.rows.lengths[:2] += 2
    driver.rows.look(3, seen)
    assert driver.rows.filled() == int(driver.rows.lengths.max()) == 32
    assert driver.rows.left == 40 - 3 == int((driver.rows.limits - driver.rows.counts).max())


def test_a_device_passes_over_rows_that_were_dropped():
    driver = Driver(rows=4)
    groups = [driver.ask(range(50)) for _ in range(3)]
    assert driver.rows.drop() == groups and driver.rows.running == 0
    driver.ask(range(50))
    assert driver.rows.done.tolist() == [0, IDLE, IDLE, IDLE]


def test_who_joins_is_reckoned_with_also_where_the_host_has_asked_for_half():
    """After draws that the host saw it asks for the longest row alone; then thirty tokens join, and a burst of two follows."""
    driver = Driver()
    driver.ask([5] * 9)
    driver.step()
    assert driver.rows.filled() == 2
    driver.ask([5] * 9, prompt=range(30))
    driver.rows.filled()
    group = Group(tuple(range(40)), Sampling(max_tokens=9), range(1), asyncio.Future(loop=asyncio.new_event_loop()))
    driver.rows.place([group])
    assert driver.rows.filled() == 40
    driver.rows.burst(2)
    assert driver.rows.filled() == 42


def test_who_has_stopped_waiting_hears_no_more():
    """The device had drawn another token before the request was cancelled; the host looks afterwards."""
    driver, heard = Driver(), []
    group = driver.ask([5] * 9, max_tokens=20)
    group.watch, driver.rows.watched = lambda *news: heard.append(news[1]), True
    driver.rows.look(3)
    say(driver.rows, 6)
    seen = driver.rows.seen()
    group.future.cancel()
    driver.rows.look(3, seen)
    assert heard == [5]


def test_an_answer_without_finite_log_probabilities_is_an_error_of_its_own():
    """The first row's logits are NaN; the second's are not."""
    driver = Driver()
    broken, sound = driver.ask([5] * 9, max_tokens=2), driver.ask([5] * 9, max_tokens=2)
    driver.rows.last()
    logits = torch.zeros(2, VOCABULARY)
    logits[0] = torch.nan
    driver.rows.advance(logits, version=3)
    with pytest.raises(EngineError, match="weights 3 give logits that are not finite numbers"):
        broken.future.result()
    assert len(sound.finished[0].tokens) == 2


def test_nobody_listens_once_the_last_stop_string_has_gone():
    driver = Driver(decode=ascii_text)
    driver.ask([5] * 9)
    heard = driver.ask([65, 66, 67], stop=("AB",))
    assert driver.rows.listening
    driver.finish(heard)
    assert not driver.rows.listening and driver.rows.running == 1
