"""A study as a discrete-event simulation: servers that batch, cells that converse, jobs that wait.

Engines are those of the scripted server's time model; how many conversations run is decided by the
product's own controller and shares, and their order by the product's own prediction. What the
product does with files and clocks is done here with numbers: a supervisor looks at its engine
every HEARTBEAT_S, a cell looks at its servers every LOOK_S.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from emobench.benchmarks.tasks import load_env
from emobench.llm.concurrency import INITIAL, ConcurrencyController, EngineSample
from emobench.llm.transport import Role
from emobench.runner.endpoint_resolver import RETURN_S
from emobench.runner.order import predict_lengths
from emobench.runner.pace import HEADROOM, LEAST_HEADROOM, LOOK_S
from emobench.scripted.timing import BatchingEngine, TimeModel
from emobench.serving.shares import Wish, share_conversations
from emobench.store.endpoints import HEARTBEAT_S
from performance.conversations import Conversation, begin_conversation

CELL_START_S = 5.0
"""From the end of one cell to the first conversation of the next in its place."""


@dataclass(frozen=True)
class ServerSpec:
    """A server job: when Slurm starts it, how long it loads, and its cards."""

    model: TimeModel
    starts_s: float = 0.0
    loads_s: float = 60.0
    cards: int = 1

    @property
    def ready_s(self) -> float:
        return self.starts_s + self.loads_s


@dataclass(frozen=True)
class CellSpec:
    """One array task."""

    number: int
    assistant: str
    env: str
    tasks: Sequence[int]


@dataclass(frozen=True)
class Pacing:
    """How many conversations run."""

    throttle: int
    """Cells of an array at a time."""
    concurrency: int | None = None
    """Conversations of a cell; None: as the servers say."""
    first: int = 8
    """Conversations of a cell that no server has heard of yet, at most."""
    variants: int = 5
    """Cells of one turn."""


@dataclass(frozen=True)
class Study:
    """What is simulated."""

    users: Sequence[ServerSpec]
    """The replicas of the user's server."""
    assistants: Mapping[str, Sequence[ServerSpec]]
    cells: Sequence[CellSpec]
    pacing: Pacing
    array_starts_s: Mapping[str, float] = field(default_factory=dict)
    """When Slurm lets an array's tasks start, by assistant."""
    talk: float = 1.0
    longest_first: bool = True


@dataclass
class _Server:
    role: Role
    spec: ServerSpec
    name: str
    engine: BatchingEngine
    controller: ConcurrencyController | None
    version: int = 0
    cells: dict[int, _Cell] = field(default_factory=dict)
    told: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By client: its wish, and how many conversations it has."""
    shares: dict[int, int] = field(default_factory=dict)
    preemptions: int = 0
    generated: int = 0
    observed_s: float = float("-inf")
    looked_s: float = float("-inf")
    known: frozenset[int] = frozenset()
    ends_s: float = 0.0
    samples: list[tuple[float, int, bool]] = field(default_factory=list)
    """Each second: the time, requests running, and whether more conversations could have begun."""

    @property
    def ready_s(self) -> float:
        return self.spec.ready_s


@dataclass(eq=False)
class _Cell:
    spec: CellSpec
    tasks: deque[int]
    servers: dict[Role, _Server]
    size: int
    under_way: int = 0
    moves_s: float = 0.0
    """When it looks again whether its own replicas are ready."""
    told: dict[Role, tuple[float, int, int]] = field(default_factory=dict)
    """When, the wish, and how many conversations."""
    tokens: dict[int, int] = field(default_factory=dict)
    """Of each conversation that ended."""


@dataclass(frozen=True)
class Outcome:
    """What a simulated study took."""

    seconds: float
    """From the first start of a server to the last conversation's end."""
    accelerator_s: float
    ends_s: Sequence[float]
    """Of each conversation, in order."""
    servers: Mapping[str, _Server]
    calls: int

    @property
    def tail(self) -> float:
        """Share of the time that passed between 95 % and all of the conversations."""
        almost = self.ends_s[bisect_left(range(len(self.ends_s)), 0.95 * len(self.ends_s))]
        return (self.ends_s[-1] - almost) / self.seconds

    def compute_low_share(self, server: str, useful: float, least: float = 0.8) -> float:
        """Return the share of a server's loaded time in which it had less than `least` of its
        useful batch. It is loaded while more conversations could begin there."""
        loaded = [running for _, running, more in self.servers[server].samples if more]
        low = sum(running < least * useful for running in loaded)
        return low / len(loaded) if loaded else 0.0

    def compute_mean_batch(self, server: str) -> float:
        """Return the mean of the requests running while the server was loaded."""
        loaded = [running for _, running, more in self.servers[server].samples if more]
        return sum(loaded) / len(loaded) if loaded else 0.0


class Simulation:
    """Runs one study to its end."""

    def __init__(self, study: Study, seed: int = 0) -> None:
        self._study, self._seed = study, seed
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._servers = self._build_servers()
        self._replicas: dict[str, list[_Server]] = {}
        for server in self._servers.values():
            self._replicas.setdefault(server.name, []).append(server)
        self._queues = {
            name: deque(cell for cell in study.cells if cell.assistant == name)
            for name in study.assistants
        }
        self._running_cells = dict.fromkeys(study.assistants, 0)
        self._conversations: dict[int, tuple[Conversation, _Cell, int]] = {}
        self._numbers = count()
        self._answered: deque[int] = deque()
        self._touched: list[_Server] = []
        self._ends: list[float] = []
        self._measured: dict[tuple[str, str], list[dict[int, int]]] = {}
        self._calls = 0

    def run(self) -> Outcome:
        """Simulate until the last conversation has ended."""
        for server in self._servers.values():
            self._at(server.ready_s, lambda server=server: self._supervise(server))  # type: ignore[misc]
        for name in self._study.assistants:
            for _ in range(self._study.pacing.throttle):
                at = self._study.array_starts_s.get(name, 0.0)
                self._at(at, lambda name=name: self._start_cell(name))  # type: ignore[misc]
        total = sum(len(cell.tasks) for cell in self._study.cells)
        while len(self._ends) < total:
            self._now, _, act = heappop(self._events)
            act()
            self._settle()
        started = min(server.spec.starts_s for server in self._servers.values())
        used = sum(
            (server.ends_s - server.spec.starts_s) * server.spec.cards
            for server in self._servers.values()
            if server.ends_s
        )
        return Outcome(self._now - started, used, self._ends, self._servers, self._calls)

    def _build_servers(self) -> dict[str, _Server]:
        study = self._study
        roles: list[tuple[Role, str, Sequence[ServerSpec]]] = [("user", "user", study.users)]
        roles += [("assistant", name, specs) for name, specs in study.assistants.items()]
        controlled = study.pacing.concurrency is None
        partners = sum(map(len, study.assistants.values())) / len(study.users)
        initial = {"user": round(INITIAL * max(1, partners)), "assistant": INITIAL}
        return {
            f"{name}+{number}": _Server(
                role,
                spec,
                name,
                BatchingEngine(spec.model),
                ConcurrencyController(initial[role]) if controlled else None,
            )
            for role, name, specs in roles
            for number, spec in enumerate(specs, 1)
        }

    def _at(self, time_s: float, act: Callable[[], None]) -> None:
        heappush(self._events, (time_s, next(self._order), act))

    # Engines

    def _settle(self) -> None:
        """Go on with conversations that were answered, and note when each engine does so next."""
        while self._answered:
            self._go_on(self._answered.popleft())
        for server in self._touched:
            server.version += 1
            then = server.engine.find_next_s()
            if then is not None:
                self._at(then, lambda s=server, v=server.version: self._wake(s, v))  # type: ignore[misc]
        self._touched.clear()

    def _wake(self, server: _Server, version: int) -> None:
        if version == server.version:
            self._look(server)

    def _look(self, server: _Server) -> None:
        self._answered.extend(server.engine.advance(self._now))
        if server not in self._touched:
            self._touched.append(server)

    def _go_on(self, number: int) -> None:
        conversation, _, _ = self._conversations[number]
        conversation.end_turn()
        self._say(number)

    def _say(self, number: int) -> None:
        conversation, cell, task = self._conversations[number]
        if not conversation.begin_turn():
            del self._conversations[number]
            self._end_conversation(conversation, cell, task)
            return
        role, tokens, _ = conversation.reply
        server = cell.servers[role]
        self._look(server)
        self._calls += 1
        server.engine.submit(self._now, number, conversation.prompts[role], tokens, number)

    # Cells

    def _start_cell(self, assistant: str) -> None:
        if not self._queues[assistant]:
            return
        ready = self._find_servers(assistant, self._queues[assistant][0].number)
        if ready is None:  # the cell waits for its servers
            later = min(
                server.ready_s
                for server in self._servers.values()
                if server.name in ("user", assistant) and server.ready_s > self._now
            )
            self._at(later, lambda: self._start_cell(assistant))
            return
        spec = self._queues[assistant].popleft()
        self._running_cells[assistant] += 1
        cell = _Cell(spec, deque(self._sort_tasks(spec)), ready, 0)
        for server in ready.values():
            server.cells[spec.number] = cell
        self._follow(cell)

    def _find_servers(self, assistant: str, number: int) -> dict[Role, _Server] | None:
        found: dict[Role, _Server] = {}
        names: dict[Role, str] = {"user": "user", "assistant": assistant}
        for role, name in names.items():
            replicas = self._replicas[name]
            first = number % len(replicas)
            ordered = replicas[first:] + replicas[:first]
            server = next((s for s in ordered if s.ready_s <= self._now), None)
            if server is None:
                return None
            found[role] = server
        return found

    def _sort_tasks(self, spec: CellSpec) -> list[int]:
        if not self._study.longest_first:
            return list(spec.tasks)
        known = load_env(spec.env).tasks
        lengths = predict_lengths(
            {task: known[task] for task in spec.tasks},
            self._measured.get((spec.assistant, spec.env), [])[-16:],
        )
        return sorted(spec.tasks, key=lambda task: -lengths[task])

    def _follow(self, cell: _Cell) -> None:
        """What a cell does each second: move to its own replicas, tell its wish, take its share."""
        if not cell.tasks and not cell.under_way:
            return
        if self._study.pacing.concurrency is not None:
            cell.size = self._study.pacing.concurrency
        else:
            if self._now >= cell.moves_s:
                cell.moves_s = self._now + RETURN_S
                self._move(cell)
            self._negotiate(cell)
            self._at(self._now + LOOK_S, lambda: self._follow(cell))
        self._begin_conversations(cell)

    def _move(self, cell: _Cell) -> None:
        found = self._find_servers(cell.spec.assistant, cell.spec.number)
        assert found is not None
        for role, server in found.items():
            if server is not cell.servers[role]:
                self._forget(cell, cell.servers[role])
                cell.servers[role] = server
                server.cells[cell.spec.number] = cell
                cell.told.pop(role, None)

    def _negotiate(self, cell: _Cell) -> None:
        number = cell.spec.number
        wish = len(cell.tasks) + cell.under_way
        shares: dict[Role, int | None] = {
            role: server.shares.get(number) for role, server in cell.servers.items()
        }
        for role, server in cell.servers.items():
            other = shares["user" if role == "assistant" else "assistant"]
            asked = wish
            if other is not None:
                asked = min(wish, other + max(LEAST_HEADROOM, int(HEADROOM * other)))
            self._tell(cell, role, server, asked, shares[role] or 0)
        known = [
            share
            if share is not None
            else min(
                max(0, _get_limit(server) - sum(server.shares.values())), self._study.pacing.first
            )
            for share, server in zip(shares.values(), cell.servers.values(), strict=True)
        ]
        cell.size = max(1, min(known))

    def _tell(self, cell: _Cell, role: Role, server: _Server, asked: int, share: int) -> None:
        at_s, before, had = cell.told.get(role, (float("-inf"), 0, 0))
        gives_back = asked < min(share, before)
        uses_up = cell.under_way >= share > had
        if self._now - at_s >= HEARTBEAT_S or gives_back or uses_up or asked > before:
            cell.told[role] = (self._now, asked, cell.under_way)
            server.told[cell.spec.number] = (asked, cell.under_way)

    def _begin_conversations(self, cell: _Cell) -> None:
        while cell.tasks and cell.under_way < cell.size:
            task, number = cell.tasks.popleft(), next(self._numbers)
            spec = cell.spec
            seed = self._seed * 1_000_003 + spec.number
            conversation = begin_conversation(number, spec.env, task, seed, self._study.talk)
            self._conversations[number] = (conversation, cell, task)
            cell.under_way += 1
            self._say(number)

    def _end_conversation(self, conversation: Conversation, cell: _Cell, task: int) -> None:
        cell.under_way -= 1
        cell.tokens[task] = sum(tokens for _, tokens in conversation.prompts["assistant"])
        self._ends.append(self._now)
        for server in cell.servers.values():
            server.ends_s = self._now
        self._begin_conversations(cell)
        if not cell.tasks and not cell.under_way:
            spec = cell.spec
            for server in cell.servers.values():
                self._forget(cell, server)
            self._measured.setdefault((spec.assistant, spec.env), []).append(cell.tokens)
            self._at(self._now + CELL_START_S, lambda: self._start_cell(spec.assistant))

    def _forget(self, cell: _Cell, server: _Server) -> None:
        server.cells.pop(cell.spec.number, None)
        server.told.pop(cell.spec.number, None)

    # Supervisors

    def _supervise(self, server: _Server) -> None:
        """What a supervisor does each second: read its clients, look at the engine, share."""
        self._look(server)
        self._settle()
        more = any(cell.tasks for cell in server.cells.values())
        server.samples.append((self._now, server.engine.running, more))
        if server.controller is not None:
            clients = frozenset(server.told)
            due = self._now - server.looked_s >= HEARTBEAT_S
            if due:
                server.looked_s = self._now
                self._observe(server, server.controller)
            if due or clients != server.known:
                server.known = clients
                wishes = [
                    Wish(
                        f"{number:06}",
                        "study",
                        server.cells[number].spec.assistant,
                        asked,
                        turn=number // self._study.pacing.variants,
                    )
                    for number, (asked, _) in server.told.items()
                ]
                given = share_conversations(server.controller.limit, wishes)
                server.shares = {int(name): share for name, share in given.items()}
        if self._conversations or any(self._queues.values()):
            self._at(self._now + 1.0, lambda: self._supervise(server))

    def _observe(self, server: _Server, controller: ConcurrencyController) -> None:
        engine = server.engine
        preempted = engine.counters.preemptions - server.preemptions
        server.preemptions = engine.counters.preemptions
        tokens = engine.counters.generation_tokens - server.generated
        server.generated = engine.counters.generation_tokens
        looked = self._now - server.observed_s
        server.observed_s = self._now
        in_use = sum(had for _, had in server.told.values())
        controller.observe(
            self._now,
            EngineSample(
                in_use=max(in_use, engine.running + engine.waiting),
                running=engine.running,
                waiting=engine.waiting,
                cache_use=engine.cache_use,
                preemptions=preempted,
                tokens_per_s=tokens / looked,
            ),
        )


def _get_limit(server: _Server) -> int:
    return server.controller.limit if server.controller else 0
