"""The judge asked about every turn of a run, over HTTP.

Turns are asked in an order drawn by the study's seed across all conditions, each distinct text
once. What has an answer in the run directory is not asked again, so the command can be stopped
and repeated. What gets no answer is missing: it is counted, and asked again the next time.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from emobench.analysis.judge.labels import build_request, hash_turn, read_answer
from emobench.analysis.transcript.conversation import read_conversations, select_with_result
from emobench.core.errors import InvalidInput
from emobench.core.gates import JudgeSettings
from emobench.core.output import warn
from emobench.core.run_dir import RunDir
from emobench.core.worker_pool import WorkerPool
from emobench.llm.endpoint_limits import EndpointLimits
from emobench.llm.refusals import INVALID
from emobench.llm.transport import CallFailed, HttpTransport, ModelEndpoint
from emobench.store.labels import Answer, AnswerStore
from emobench.tables.run_results import collect

MAX_FAILURES = 20
"""Failures in a row after which the judge counts as gone."""
_POLL_S = 0.5


@dataclass(frozen=True)
class Asked:
    """What came of one call of the command."""

    distinct: int
    """Different turns."""
    known: int
    """Of these, answered before."""
    answered: int
    unreadable: int
    """Answers, old and new, that hold no label beyond doubt."""
    failed: int
    """Turns without an answer: missing."""
    why: str
    """The commonest failure in its own words, or empty."""


class Judge:
    """One model at one endpoint; safe to share among threads."""

    def __init__(self, endpoint: ModelEndpoint, max_tokens: int) -> None:
        limit = EndpointLimits(progress=warn).find(endpoint)
        self._transport = HttpTransport(endpoint, limit)
        self._model = endpoint.model
        self._max_tokens = max_tokens
        self._schema = True

    def ask(self, turn: str) -> Answer:
        """Ask about a turn. Raises CallFailed where the endpoint gives no answer."""
        if self._schema:
            try:
                return self._ask(turn, schema=True)
            except CallFailed as error:
                if error.status not in INVALID or error.kind == "context_overflow":
                    raise
            answer = self._ask(turn, schema=False)
            self._schema = False  # it refused the form, not the turn: not asked for again
            return answer
        return self._ask(turn, schema=False)

    def _ask(self, turn: str, *, schema: bool) -> Answer:
        request = build_request(turn, self._model, self._max_tokens, schema=schema)
        reply = self._transport.send("assistant", request)
        said = reply.message.content or ""
        return Answer(hash_turn(turn, self._model), self._model, read_answer(said), said)


def judge_run(
    run_dir: RunDir,
    settings: JudgeSettings,
    endpoint: ModelEndpoint,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, all_of_them: None,
) -> Asked:
    """Ask about every user turn of a run, or of the judge's sample, and keep the answers there.

    Raises InvalidInput where the run has no conversation yet.
    """
    collected = collect(run_dir)
    chosen = select_with_result(collected, settings.sample)
    turns = [
        turn
        for *_, conversation in read_conversations(collected.plan, chosen)
        for turn in conversation.transcript.turns
    ]
    if not turns:
        raise InvalidInput(f"{run_dir.path} has no conversation with a result yet")
    with AnswerStore(run_dir.judge_answers) as store:
        return ask_all(
            turns,
            Judge(endpoint, settings.max_tokens),
            endpoint.model,
            store,
            concurrency=settings.concurrency,
            seed=seed,
            progress=progress,
        )


def ask_all(
    turns: Iterable[str],
    judge: Judge,
    model: str,
    store: AnswerStore,
    *,
    concurrency: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, all_of_them: None,
) -> Asked:
    """Ask about every turn that has no answer yet, `concurrency` at a time.

    Ends early after `MAX_FAILURES` failures in a row. Raises OSError from the store.
    """
    distinct = sorted(set(turns))
    missing = [turn for turn in distinct if hash_turn(turn, model) not in store.answers]
    random.Random(seed).shuffle(missing)
    in_a_row = 0

    def work(turn: str) -> Answer | CallFailed:
        try:
            return judge.ask(turn)
        except CallFailed as error:
            return error

    why: Counter[str] = Counter()
    answered = 0
    pool = WorkerPool(concurrency, work, missing, stopped=lambda: in_a_row >= MAX_FAILURES)
    try:
        while pool.threads:
            results = pool.wait_for_results(_POLL_S)
            store.append(result for result in results if isinstance(result, Answer))
            for result in results:
                if isinstance(result, Answer):
                    answered += 1
                    in_a_row = 0
                else:
                    in_a_row += 1
                    why[str(result)] += 1
            progress(len(distinct) - len(missing) + answered, len(distinct))
    finally:
        pool.close()
    answers = [store.answers.get(hash_turn(turn, model)) for turn in distinct]
    return Asked(
        distinct=len(distinct),
        known=len(distinct) - len(missing),
        answered=answered,
        unreadable=sum(answer is not None and answer.label is None for answer in answers),
        failed=sum(answer is None for answer in answers),
        why=why.most_common(1)[0][0] if why else "",
    )
