"""What a sweep needs to know of an OpenAI-compatible endpoint, asked in a few calls before it runs.

report      what is found: checks, and a verdict in words
situations  what is asked: moments of a conversation with one sensible next step
replies     an HTTP answer as a reply, and what is wrong with it     (pure)
verdict     replies as checks, checks as a verdict                   (pure)
session     the calls, each bounded by a time-out


cells       the probe before a cell's first episode, shared among the cells of a run
"""

from emobench.probe.report import Check, ProbeReport
from emobench.probe.session import probe

__all__ = ["Check", "ProbeReport", "probe"]
