import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.errors import CheckpointError, ConfigError, DataError, StorageError
from afterbase.text.chat import HOUSE_TEMPLATE
from afterbase.text.tokenizer import EOS, SPECIAL, TAGS, Tokenizer, train_bpe

MIXED = "<think>1234 + x²</think> <answer>naïve 小明 🍎\n\n  \tend</answer>"


def test_text_survives_the_round_trip(house):
    assert house.decode(house.encode(MIXED)) == MIXED


@settings(max_examples=60, deadline=None)
@given(text=st.text())
def test_any_text_survives_the_round_trip(house, text):
    assert house.decode(house.encode(text), skip_special=False) == text


def test_digits_stand_alone_and_words_do_not():
    learned = train_bpe(iter(["in 2024 the answer"] * 50), 400, list(SPECIAL), HOUSE_TEMPLATE)
    pieces = [learned.decode([token]) for token in learned.encode("in 2024 the answer")]
    assert pieces == ["in", " 2", "0", "2", "4", " the", " answer"]


def test_tags_are_one_visible_token_and_special_tokens_are_hidden(house):
    for tag in TAGS:
        (token,) = house.encode(tag)
        assert house.decode([token]) == tag
    assert house.decode(house.encode("4" + EOS)) == "4"
    assert house.decode(house.encode("4" + EOS), skip_special=False) == "4" + EOS


def test_tags_stay_visible_even_where_a_checkpoint_calls_them_special(house):
    text = house._inner.to_str().replace(
        '"content":"<think>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false',
        '"content":"<think>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true',
    )
    inner = type(house._inner).from_str(text)
    (token,) = house.encode("<think>")
    assert inner.decode([token]) == ""  # the library hides it
    assert Tokenizer(inner, house._config, None).decode([token]) == "<think>"


def test_ids_begin_with_the_special_tokens_and_end_with_the_tags(house):
    assert [house.token(i) for i in range(len(SPECIAL))] == list(SPECIAL)
    assert [house.token(house.vocab_size - 4 + i) for i in range(4)] == list(TAGS)
    assert (house.bos_id, house.eos_id, house.pad_id) == (0, 1, 2)


def test_the_same_texts_in_any_order_give_the_same_vocabulary():
    texts = [f"the {word} of a {word}ing" for word in ("cat", "sing", "walk", "talk", "ring")]
    one, two = (train_bpe(iter(t), 300, list(SPECIAL), HOUSE_TEMPLATE) for t in (texts, texts[::-1]))
    assert one._inner.to_str() == two._inner.to_str()


def test_no_merge_is_spent_on_the_letters_of_a_tag():
    tagged = train_bpe(iter(["<think>a</think>"] * 50), 300, list(SPECIAL), HOUSE_TEMPLATE)
    assert tagged.vocab_size == len(SPECIAL) + 256 + len(TAGS)


def test_a_vocabulary_too_small_or_without_an_end_is_refused():
    with pytest.raises(ConfigError, match="use 268 or more"):
        train_bpe(iter(["a"]), 267, list(SPECIAL), HOUSE_TEMPLATE)
    with pytest.raises(ConfigError, match="which ends every turn"):
        train_bpe(iter(["a"]), 400, ["<s>"], HOUSE_TEMPLATE)


def test_a_saved_tokenizer_loads_as_it_was_here_and_in_transformers(house, tmp_path):
    from transformers import PreTrainedTokenizerFast

    house.save(tmp_path)
    ours, theirs = Tokenizer.load(tmp_path), PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    assert (ours.eos_id, ours.bos_id, ours.pad_id) == (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (1, 0, 2)
    assert ours.encode(MIXED + EOS) == theirs(MIXED + EOS)["input_ids"] == house.encode(MIXED + EOS)
    assert ours.decode(ours.encode(MIXED + EOS)) == theirs.decode(theirs(MIXED + EOS)["input_ids"], skip_special_tokens=True) == MIXED
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " 2 + 2? \n"}]
    rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert rendered == "<｜begin▁of▁sentence｜>Be brief.<｜User｜> 2 + 2? \n<｜Assistant｜>"
    assert ours.chat_template == theirs.chat_template == HOUSE_TEMPLATE


def saved(house, tmp_path: Path, **config) -> Path:
    house.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return tmp_path


def test_special_tokens_may_be_given_as_objects_and_padding_may_be_missing(house, tmp_path):
    directory = saved(house, tmp_path, eos_token={"content": EOS, "lstrip": False}, pad_token=None, bos_token=None)
    loaded = Tokenizer.load(directory)
    assert (loaded.eos_id, loaded.pad_id, loaded.bos_id) == (1, 1, None)


def test_special_tokens_may_stand_in_their_own_file(house, tmp_path):
    directory = saved(house, tmp_path, eos_token="<｜pad｜>")
    config = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["eos_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "special_tokens_map.json").write_text(json.dumps({"eos_token": EOS}))
    assert Tokenizer.load(directory).eos_id == 1


def test_the_template_file_wins_over_the_one_in_the_config_and_default_over_other_names(house, tmp_path):
    directory = saved(house, tmp_path, chat_template=[{"name": "tools", "template": "T"}, {"name": "default", "template": "D"}])
    assert Tokenizer.load(directory).chat_template == HOUSE_TEMPLATE
    (directory / "chat_template.jinja").unlink()
    assert Tokenizer.load(directory).chat_template == "D"
    assert Tokenizer.load(saved(house, tmp_path / "b", chat_template="C")).chat_template == HOUSE_TEMPLATE


@pytest.mark.parametrize(("ids", "stops"), [(3, (1, 3)), ([4, 1, 3], (1, 4, 3)), (None, (1,))])
def test_generation_config_adds_stop_tokens(house, tmp_path, ids, stops):
    house.save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.stop_ids == stops
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").stop_ids == stops


def test_a_file_that_cuts_every_text_short_is_overruled(house, tmp_path):
    house.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    cut = json.loads(path.read_text(encoding="utf-8"))
    cut["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(cut))
    assert len(Tokenizer.load(tmp_path).encode("1234567")) == 7


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("tokenizer.json", None, "no tokenizer at"),
        ("tokenizer.json", "{}", "is not a tokenizer"),
        ("tokenizer.json", "[1]", "is not a tokenizer"),
        ("tokenizer.json", "{" * 100_000, "is not a tokenizer"),
        ("tokenizer_config.json", None, "is missing"),
        ("tokenizer_config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", "[" * 100_000, "not valid JSON"),
        ("tokenizer_config.json", "[]", "holds list"),
        ("tokenizer_config.json", "{}", "names no end-of-sequence"),
        ("tokenizer_config.json", '{"eos_token": "<nope>"}', "'<nope>', which is not in the vocabulary"),
        ("tokenizer_config.json", '{"eos_token": {"id": 3}, "chat_template": 3}', "neither a string nor a list"),
        ("tokenizer_config.json", f'{{"eos_token": "{EOS}", "chat_template": [{{"name": "default", "template": 5}}]}}', "neither a string"),
        ("generation_config.json", '{"eos_token_id": "x"}', "must be a token id"),
    ],
)
def test_a_broken_directory_is_one_sentence_that_names_it(house, tmp_path, name, text, says):
    house.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / name).unlink(missing_ok=True)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=says) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_at_which_the_library_panics_is_a_broken_one_too(house, tmp_path):
    """A prefix longer than its pieces makes tokenizers panic, which Python sees as something that is no Exception."""
    house.save(tmp_path)
    table = json.loads((tmp_path / "tokenizer.json").read_text())
    table["model"]["continuing_subword_prefix"] = "128"
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_a_checkpoint_that_is_no_directory_is_said_to_be_none(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=f"{place} is no directory; give a checkpoint's on this machine"):
        Tokenizer.load(tmp_path / place)


def test_a_directory_that_cannot_be_written_is_said_in_words(house, tmp_path):
    shutil.copy(__file__, tmp_path / "file")
    with pytest.raises(StorageError, match="file"):
        house.save(tmp_path / "file")


def test_half_a_character_is_refused_in_words(house):
    with pytest.raises(DataError, match="half a character"):
        house.encode("a\ud83d")
