import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from afterbase.text.stream import StreamDecoder
from afterbase.text.tokenizer import Tokenizer


def pieces(tokenizer, tokens, **options):
    stream = StreamDecoder(tokenizer, **options)
    return [stream.push(token) for token in tokens], stream.finish()


def test_an_apple_appears_whole_or_not_at_all(house):
    tokens = house.encode("a🥝b")  # four bytes that no merge has learned
    came, rest = pieces(house, tokens)
    assert came == ["a", "", "", "", "🥝", "b"] and rest == ""


def test_a_cut_off_character_comes_at_the_end(house):
    tokens = house.encode("a🥝")[:-1]
    came, rest = pieces(house, tokens)
    assert came == ["a", "", "", ""] and rest == "\ufffd"


def test_spaces_before_words_stay_where_a_vocabulary_drops_the_first():
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "\u2581a": 1, "\u2581b": 2}, unk_token="</s>"))
    inner.decoder = tokenizers.decoders.Metaspace()
    assert pieces(Tokenizer(inner, {"eos_token": "</s>"}, None), [1, 2, 1]) == (["a", " b", " a"], "")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_the_pieces_joined_are_the_whole_decoded(house, data):
    words = st.sampled_from([*range(house.vocab_size), *house.encode("小明🥝 \ufffd<think>")])
    tokens = data.draw(st.lists(words, max_size=30))
    came, rest = pieces(house, tokens)
    assert "".join(came) + rest == house.decode(tokens)
    assert not any(piece.endswith("\ufffd") for piece in came)
