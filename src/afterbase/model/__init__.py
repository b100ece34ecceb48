"""The transformer that trains and samples: DeepSeek-V3, Qwen and Llama checkpoints through the same code."""
