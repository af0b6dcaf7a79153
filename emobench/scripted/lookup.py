"""Which environment and which task a conversation is about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from math import log

from emobench.benchmarks.task_sets import TASK_COUNTS
from emobench.benchmarks.tasks import EnvTasks, Task, load_env
from emobench.scripted.user import to_first_person

THRESHOLD = 0.3
"""Least similarity at which a task counts as recognised; the scripted user reaches above 0.9."""

_WORD = re.compile(r"[a-z0-9#@_]+(?:[.'-][a-z0-9]+)*")


def count_words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.lower()))


class TaskIndex:
    """Tasks of one environment by the words of their instructions."""

    def __init__(self, source: EnvTasks) -> None:
        self.source = source
        self._bags = [count_words(to_first_person(task.instruction)) for task in source.tasks]
        frequency = Counter(word for bag in self._bags for word in bag)
        # Names, codes and numbers of few tasks weigh most.
        self._weight = {word: log(1 + len(self._bags) / count) for word, count in frequency.items()}
        self.find = lru_cache(maxsize=8192)(self._find)

    def _find(self, said: tuple[str, ...]) -> Task | None:
        """Return the task most like what was said: weighted Jaccard similarity of the word counts.

        Words that are in no instruction are not counted. None below the threshold.
        """
        heard = Counter(
            {word: n for word, n in count_words(" ".join(said)).items() if word in self._weight}
        )
        best, found = THRESHOLD, None
        for bag, task in zip(self._bags, self.source.tasks, strict=True):
            common = self._weigh(heard & bag)
            score = common / (self._weigh(heard | bag) or 1.0)
            if score > best:
                best, found = score, task
        return found

    def _weigh(self, bag: Counter[str]) -> float:
        return sum(self._weight[word] * count for word, count in bag.items())


class Library:
    """All environments. Built once at start-up; afterwards it only reads."""

    def __init__(self, envs: Iterable[str] = tuple(TASK_COUNTS)) -> None:
        self.indices = {env: TaskIndex(load_env(env)) for env in envs}
        names = Counter(name for index in self.indices.values() for name in index.source.tools)
        self._env_of_tool = {
            name: env
            for env, index in self.indices.items()
            for name in sorted(index.source.tools)
            if names[name] == 1
        }
        self.env_of_prompt = lru_cache(maxsize=256)(self._find_env_by_prompt)

    def find_env_by_tools(self, names: Iterable[str]) -> str | None:
        """Return the environment that owns the first tool which only one environment has."""
        return next((self._env_of_tool[name] for name in names if name in self._env_of_tool), None)

    def _find_env_by_prompt(self, prompt: str) -> str | None:
        """Find the environment by the tool names a prompt without `tools` lists, or else by the
        title of its policy."""
        hits = Counter(env for name, env in self._env_of_tool.items() if name in prompt)
        if hits:
            return hits.most_common(1)[0][0]
        head = prompt[:200].lower()
        return next((env for env in self.indices if f"{env} agent policy" in head), None)
