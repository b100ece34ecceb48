import json
import lzma

import pytest

from afterbase.config import build
from afterbase.curate.dataset import ConversationFile, read_conversations
from afterbase.errors import DataError
from afterbase.records import Message

HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


@pytest.fixture
def read(tmp_path):
    def from_rows(*rows, **settings):
        path = tmp_path / "data.jsonl.xz"
        path.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        return read_conversations(build(ConversationFile, {"path": path, **settings}, "recipe"))

    return from_rows


def test_messages_are_read_as_they_are_and_columns_are_put_together(read):
    asked = {"question": "Hi", "response": "Hello.", "system": None}
    plain, listed, guided = read(asked, {"messages": HI}, {**asked, "system": "Be brief."})
    assert plain.messages == listed.messages == (Message("user", "Hi"), Message("assistant", "Hello."))
    assert guided.messages == (Message("system", "Be brief."), *plain.messages)
    assert listed.where.endswith("data.jsonl.xz, line 2")


def test_columns_may_have_other_names(read):
    (row,) = read({"q": "2 + 2?", "a": "4"}, columns={"question": "q", "response": "a"})
    assert [message.content for message in row.messages] == ["2 + 2?", "4"]


def test_a_limit_reads_no_further(read):
    assert len(read({"messages": HI}, {"messages": HI}, "broken", limit=2)) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("text", "line 2: a row is str; it must be an object"),
        ({"question": "Hi", "response": None}, "line 2: column 'response' is NoneType"),
        ({"question": "Hi", "response": "a", "system": 3}, "line 2: column 'system' is int"),
        ({"messages": HI[:1]}, "line 2: the conversation does not end with the assistant"),
        ({"messages": []}, "line 2: the conversation does not end with the assistant"),
        ({"messages": [{"role": "user"}]}, "line 2: a message is"),
    ],
)
def test_the_first_row_that_does_not_fit_is_named(read, row, said):
    with pytest.raises(DataError, match=said):
        read({"messages": HI}, row)


def test_a_file_without_rows_is_refused(read):
    with pytest.raises(DataError, match="holds no conversations; give a file with at least one row"):
        read()
