"""All benchmarks begin as the command does, before any of them starts a worker: with its settings of memory, which
workers take from the environment of the first that they are forked from."""

from lumbar_kaggle.core.budget import keep_memory

keep_memory()
