"""What a sweep needs to know of an OpenAI-compatible endpoint, asked in a few calls before it runs.

report      what is found: replies as checks, checks as a verdict in words   (pure)
session     the calls: what is asked, each bounded by a time-out
cells       the probe before a cell's first episode, shared among the cells of a run
"""
