"""What `scripts/compare` and `scripts/scale` are made of.

meter     runs a program and keeps its seconds and its peak memory; sizes, comparisons, the machine
tools     cairn, restic and borg, each by the same calls
data      the input of all rounds: dumps, trees, a quiet day's dump, streams, directories of PostgreSQL
parts     what is measured, part by part; plain.py is the same by zstd, tar, find and cp
table     the rows, their targets, and the Markdown
"""
