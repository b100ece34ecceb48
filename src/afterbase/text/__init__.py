"""Between words and tokens: the tokenizer, the chat templates, and what a reasoning answer is made of."""
