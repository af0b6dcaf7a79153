"""How many conversations a server takes now, and how many of them each of its cells: what its
supervisor publishes in the endpoint file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from emobench.config.capacity import find_capacity
from emobench.config.vllm_arguments import find_option
from emobench.core.models import RoleModel, VllmModel
from emobench.core.poller import Poller
from emobench.core.run_dir import RunDir
from emobench.llm.concurrency import INITIAL, SETTLE_S, ConcurrencyController, EngineSample
from emobench.llm.engine_metrics import Load, ask_load
from emobench.serving.shares import Wish, share_conversations
from emobench.store.clients import Client, list_client_files, read_clients
from emobench.store.endpoints import HEARTBEAT_S, read_endpoint

SILENT_S = 20.0
"""A client whose file has not changed for so long, by this clock, counts no more: those of two
nodes may differ."""
BEGUN_BY_WHOLE = 4
"""Conversations to begin with for each request of full length that the cache holds: one is rarely
a quarter of that length."""


class Admission:
    """Asks the engine for its load, reads who uses it, and shares what fits among them."""

    def __init__(
        self,
        run_dir: RunDir,
        instance: str,
        model: RoleModel,
        look_s: float = HEARTBEAT_S,
        settle_s: float = SETTLE_S,
        partners: int = 1,
    ) -> None:
        """`partners` is how many copies of the other role's models there are for each of this
        one's."""
        self._run_dir, self._instance, self._model = run_dir, instance, model
        self._look_s, self._settle_s, self._partners = look_s, settle_s, partners
        known = read_endpoint(run_dir, instance)
        self._known = known.limit if known else None
        self._controller: ConcurrencyController | None = None
        self._load = Poller("the engine's load", lambda: ask_load(self._url), look_s)
        self._url = ""
        self._seen: Load | None = None
        self._untold: Load | None = None
        self._files: list[str] = []
        self._looked = float("-inf")
        self._clients: list[Client] = []
        self._beats: dict[str, tuple[str, float]] = {}
        """By client: its last heartbeat, and when that was first seen."""
        self.in_use = 0
        """Conversations under way."""
        self.shares: Mapping[str, int] = {}
        """Conversations by client."""

    @property
    def limit(self) -> int | None:
        """Conversations that fit; None before the first start of an engine."""
        return self._controller.limit if self._controller else None

    def begin(self, url: str, whole: float | None) -> None:
        """Take note of an engine that is ready; `whole` is how many requests of full length its
        cache holds, where it says so."""
        self._url, self._seen = url, None
        if self._controller is None:
            # A server that takes over, or was started again, goes on with what was found.
            initial = self._known or _choose_initial(self._model, whole, self._partners)
            self._controller = ConcurrencyController(initial, settle_s=self._settle_s)
        self.refresh()

    def refresh(self) -> bool:
        """Look at the engine and at its clients where it is time, and return whether there is
        something new to publish."""
        if self._controller is None:
            return False
        now_s = time.monotonic()
        files = list_client_files(self._run_dir, self._instance)
        if files != self._files or now_s - self._looked >= self._look_s:
            self._files, self._looked = files, now_s
            self._clients = self._list_live(read_clients(self._run_dir, self._instance), now_s)
            self.in_use = sum(client.in_use for client in self._clients)
        load = self._load.poll()
        if load is not None and load is not self._seen:
            self._controller.observe(now_s, build_sample(self._seen, load, self.in_use))
            self._seen = self._untold = load
        before, self.shares = self.shares, self._share(self._controller.limit)
        return self.shares != before

    def take_load(self) -> Load | None:
        """Return the newest look at the engine, once; None where there has been none since."""
        load, self._untold = self._untold, None
        return load

    def _list_live(self, clients: Sequence[Client], now_s: float) -> list[Client]:
        known = self._beats
        self._beats = {
            client.name: seen
            if (seen := known.get(client.name, ("", now_s)))[0] == client.heartbeat
            else (client.heartbeat, now_s)
            for client in clients
        }
        return [each for each in clients if now_s - self._beats[each.name][1] < SILENT_S]

    def _share(self, limit: int) -> dict[str, int]:
        return share_conversations(
            limit,
            [
                Wish(client.name, client.sweep, client.assistant, client.wish, client.turn)
                for client in self._clients
            ],
        )


def build_sample(before: Load | None, load: Load, in_use: int) -> EngineSample | None:
    """Return what a look says beside the one before it (None: of another start of the engine);
    None where it says too little."""
    if load.running is None or load.waiting is None:
        return None
    preempted = (load.preemptions or 0.0) - (before.preemptions or 0.0 if before else 0.0)
    return EngineSample(
        # Others may use the server as well: a judge, or cells of an earlier version.
        in_use=max(in_use, int(load.running + load.waiting)),
        running=load.running,
        waiting=load.waiting,
        cache_use=load.cache_use,
        preemptions=preempted if before else 0.0,
        tokens_per_s=_compute_tokens_per_s(before, load),
    )


def _compute_tokens_per_s(before: Load | None, load: Load) -> float | None:
    if before is None or before.generation_tokens is None or load.generation_tokens is None:
        return None
    passed_s = (load.at_s or 0.0) - (before.at_s or 0.0)
    return (load.generation_tokens - before.generation_tokens) / passed_s if passed_s > 0 else None


def _choose_initial(model: RoleModel, whole: float | None, partners: int = 1) -> int:
    """Return how many conversations a server begins with: enough for each partner to begin."""
    if not isinstance(model, VllmModel):
        return INITIAL * partners
    assumed = (find_capacity("", model).requests or INITIAL) // model.replicas
    if model.max_num_seqs is None and find_option(model, "--max-num-seqs") is None:
        assumed *= partners
    if whole is None:
        return assumed
    return min(assumed, max(1, int(BEGUN_BY_WHOLE * whole * model.data_parallel)))
