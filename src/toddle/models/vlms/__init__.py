"""Vision-language models whose causal language model says actions, as OpenVLA does."""
