import pytest

from afterbase.text.chat import HOUSE_TEMPLATE
from afterbase.text.tokenizer import SPECIAL, Tokenizer, train_bpe

TEXTS = ["What is 2 + 2? The answer is 4.", "Let me think about the reasoning process.\nThe user asks a question.", "小明有3个苹果"] * 3


@pytest.fixture(scope="session")
def house() -> Tokenizer:
    return train_bpe(iter(TEXTS), 400, list(SPECIAL), HOUSE_TEMPLATE)


@pytest.fixture
def under(house):
    """The house vocabulary under another chat template."""
    return lambda template: Tokenizer(house._inner, house._config, template)
