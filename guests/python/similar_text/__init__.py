"""A comparison policy for results that are prose: answers of language models, rendered prompts, reports, error messages.

Two such results are hardly ever equal byte for byte. Here they are the same if their words are, and near enough if they share
most of them in the same order; figures must agree however near the words are, because `42` for `43` is one word of many and
the only one that matters.
"""
