import json
import lzma

from afterbase.evals.suite.gsm8k import Gsm8k

ROW = {"question": "Ann has 3 apples and buys 1,200 more. How many?", "answer": "3 + 1200 = <<3+1200=1203>>1203\n#### 1,203"}


def test_gold_is_what_follows_the_hashes_plain_and_compressed(tmp_path):
    text = json.dumps(ROW) + "\n"
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(text.encode()))
    for name in ("a.jsonl", "a.jsonl.xz"):
        (prompt,) = Gsm8k(path=tmp_path / name).questions()
        assert prompt.answer == "1,203"
        assert prompt.question.startswith(ROW["question"]) and prompt.question.endswith(r"within \boxed{}.")


def test_the_protocol_is_greedy_with_a_length_cap(tmp_path):
    page = Gsm8k(path=tmp_path / "a.jsonl")
    assert (page.sampling.temperature, page.sampling.max_tokens, page.samples, page.template) == (0.0, 1024, 1, "chat")
