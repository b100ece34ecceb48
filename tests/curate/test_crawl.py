from collections import Counter
from random import Random

import pytest

from afterbase.config import build
from afterbase.curate.crawl import Crawl, CrawlConfig
from afterbase.errors import ConfigError
from afterbase.rewards.format import zero_fault
from afterbase.rewards.language import mixing
from afterbase.text.chat import R1_ZERO
from afterbase.text.think import split

CHAIN = {"generator": "chain_sum", "settings": {"min_terms": 3, "max_terms": 3, "max_digits": 1}}


def crawl(seed=0, **changes) -> Crawl:
    return Crawl(build(CrawlConfig, {"sources": [CHAIN], **changes}, "recipe"), seed)


def replies(count=60, **qualities) -> list[tuple[str, str]]:
    """What the assistants of transcripts of one quality say, and the truth."""
    only = dict.fromkeys(("clean", "mixed", "slip", "hasty", "broken", "verbose"), 0.0) | dict.fromkeys(qualities, 1.0)
    source = crawl(transcripts=1.0, qualities=only)
    texts = [source.document(index).removeprefix(R1_ZERO).split(" Assistant: ") for index in range(count)]
    return [(reply, str(total_of(question))) for question, reply in texts]


def total_of(question: str) -> int:
    """'User: State the final answer to the following arithmetic problem: 4 + 3 - 2 =' is 5."""
    first, *rest = question.split(":")[-1].replace("=", " ").replace("?", " ").split()[-5:]
    return int(first) + sum(int(term) * (1 if sign == "+" else -1) for sign, term in zip(rest[::2], rest[1::2], strict=True))


def test_a_document_depends_on_the_seed_and_its_number_alone():
    one, again, other = crawl(), crawl(), crawl(seed=1)
    again.document(99)
    assert [one.document(index) for index in (5, 3)] == [*again.documents(5, 6), *again.documents(3, 4)]
    assert list(one.documents(0, 20)) != list(other.documents(0, 20)) and len(set(one.documents(0, 20))) > 15


def test_clean_transcripts_are_right_and_in_the_form_that_the_template_asks_for():
    for reply, truth in replies(clean=True):
        assert zero_fault(reply) == "" and split(reply).answer == truth and mixing(reply) == 0


def test_mixed_ones_are_right_in_two_languages_and_verbose_ones_say_all_twice():
    assert all(split(reply).answer == truth for reply, truth in replies(mixed=True))
    assert any("所以" in reply for reply, _ in replies(mixed=True))
    for reply, truth in replies(verbose=True):
        assert split(reply).answer == truth and reply.count(" = ") == 2 * 2


def test_slips_are_in_form_and_wrong_and_guesses_show_no_steps():
    assert all(zero_fault(reply) == "" and split(reply).answer != truth for reply, truth in replies(slip=True))
    guesses = replies(hasty=True)
    assert all("<think>" not in reply for reply, _ in guesses)
    assert 0 < sum(split(reply).answer == truth for reply, truth in guesses) < 20


def test_broken_ones_lack_a_tag():
    assert all(zero_fault(reply) for reply, _ in replies(broken=True))


def test_the_asked_for_share_are_transcripts_and_the_rest_is_text_of_several_kinds():
    texts = list(crawl(transcripts=0.3).documents(0, 400))
    kinds = Counter("transcript" if text.startswith(R1_ZERO) else text.split()[0] for text in texts)
    assert kinds["transcript"] / 400 == pytest.approx(0.3, abs=0.07) and kinds["Problem:"] > 30 and kinds["Q:"] > 30


def test_small_talk_has_no_steps():
    texts = list(crawl(sources=[{"generator": "manners"}], transcripts=0.5).documents(0, 30))
    assert any(text.startswith(R1_ZERO) for text in texts) and not any("<think>" in text.removeprefix(R1_ZERO) for text in texts)


def test_held_out_questions_are_never_written():
    sources = [{**CHAIN, "hold_out": 0.3}]
    held = build(CrawlConfig, {"sources": [{**CHAIN, "hold_out": 0.3, "part": "held_out"}]}, "recipe").sources[0].open(7)
    written = "\n".join(crawl(sources=sources).documents(0, 300))
    assert not any(held[index].question in written for index in Random(0).sample(range(10_000), 100))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qualities": dict.fromkeys(("clean", "mixed", "slip", "hasty", "broken", "verbose"), 0)}, "every weight is 0"),
        ({"sources": []}, "a mixture of 0 sources"),
        ({"sources": [CHAIN, CHAIN]}, "give each a name of its own"),
    ],
)
def test_a_crawl_of_nothing_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        crawl(**changes)
