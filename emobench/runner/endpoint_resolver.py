"""Where a cell's two roles answer now, and again after a server came back somewhere else.

A conversation moves between two of its calls, without noticing, where its server hands over to
another or leaves in order; after any other loss it is begun again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from emobench.core.errors import InvalidInput, ServersGone
from emobench.core.models import OpenAIModel, RoleModel, select_sampling
from emobench.core.plan import USER_SERVER, Plan, list_replicas, name_assistant_server
from emobench.core.run_dir import RunDir
from emobench.core.stop_signals import Stopped
from emobench.core.sweep import Cell
from emobench.llm.client import ChatClient, Unreachable
from emobench.llm.transport import ModelEndpoint, Role, Transport
from emobench.store.endpoints import ServerLocation
from emobench.store.hosted_keys import find_hosted_key

if TYPE_CHECKING:
    from emobench.serving.waiting import Found

OUTAGE_S = 120.0
"""How long an endpoint that is not ours may be away before the cell gives up."""
PROBE_TIMEOUT_S = 10.0
LOOK_S = 1.0
"""The endpoint files are looked at this often, by whichever conversation is about to call."""
RETURN_S = 10.0
"""A replica that was not ready is looked at again after this."""


@dataclass(frozen=True)
class RoleEndpoints:
    """One generation of both roles' endpoints, with the transports that belong to it."""

    number: int
    roles: Mapping[Role, ModelEndpoint]
    transports: dict[Role, Transport] = field(default_factory=dict)
    continues: int = 0
    """The oldest generation whose conversations may go on with this one."""


class EndpointResolver:
    """Resolves a cell's endpoints, and resolves them anew when an episode lost its server."""

    def __init__(
        self, plan: Plan, run_dir: RunDir, cell: Cell, interrupted: Callable[[], bool]
    ) -> None:
        """Wait for both servers. Raises ServersGone, InvalidInput for a key that is not set."""
        self._plan, self._run_dir, self._cell = plan, run_dir, cell
        self._interrupted = interrupted
        self._lock = threading.Lock()
        self._found: dict[Role, Found] = {}
        self._stamps: dict[Role, object] = {}
        self._away: set[Role] = set()
        """Roles whose server has left in order, and whose next one is to be waited for."""
        self._gone: tuple[int, ServersGone] | None = None
        """Why none came for the generation of this number, which is not waited for again."""
        self._endpoints = RoleEndpoints(0, self._resolve())
        self._next_look = self._next_return = time.monotonic() + LOOK_S

    @property
    def latest(self) -> RoleEndpoints:
        """The newest endpoints that are known."""
        return self._endpoints

    @property
    def locations(self) -> dict[Role, ServerLocation]:
        """Where the files of the servers in use are, without endpoints that are not ours."""
        return {role: found.location for role, found in self._found.items()}

    def refresh(self) -> RoleEndpoints:
        """Return the newest endpoints, as of a second ago at most.

        Waits for a server that is being replaced; raises ServersGone where none comes.
        """
        if time.monotonic() >= self._next_look or self._away:
            self._read_files()
        return self._endpoints

    def raise_if_interrupted(self) -> None:
        """Raise Stopped where the cell is being ended."""
        if self._interrupted():
            raise Stopped

    def find_successor(self, seen: RoleEndpoints) -> RoleEndpoints | None:
        """Return newer endpoints with which a conversation whose call failed may go on, or None.

        Waits for them where the server has left in order. Raises ServersGone.
        """
        with self._lock:
            self._stamps.clear()  # a stamp may be cached for minutes, what is read is fresh
        self._read_files(wait=True)
        newest = self._endpoints
        return newest if newest.number > seen.number >= newest.continues else None

    def _read_files(self, wait: bool = False) -> None:
        # While one thread reads the files, the others go on with what is known.
        if not self._lock.acquire(blocking=wait or bool(self._away)):
            return
        try:
            self._next_look = time.monotonic() + LOOK_S
            for role in self._found:
                self._follow(role)
            if self._away:
                if self._gone is not None and self._gone[0] == self._endpoints.number:
                    raise self._gone[1]
                self._replace({role: self._resolve_role(role, check=False) for role in self._away})
        except ServersGone as error:
            self._gone = self._endpoints.number, error
            raise
        finally:
            self._lock.release()

    def _follow(self, role: Role) -> None:
        """Note where the role's server went, if it handed over or left."""
        location, known = self._found[role].location, self._found[role].endpoint
        try:
            status = location.file.stat()
        except OSError:
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamps.get(role):
            return
        self._stamps[role] = stamp
        endpoint = location.read()
        if endpoint is None:
            return
        if endpoint.incarnation == known.incarnation:
            if endpoint.state == "left":
                self._away.add(role)
        elif known.incarnation in endpoint.follows:
            if endpoint.state == "ready":
                found = replace(self._found[role], endpoint=endpoint)
                self._replace({role: self._adopt(found, role)})
            else:
                self._away.add(role)

    def _replace(self, roles: Mapping[Role, ModelEndpoint]) -> None:
        """Begin a generation with which conversations in progress go on."""
        old = self._endpoints
        transports = {
            role: transport for role, transport in old.transports.items() if role not in roles
        }
        self._endpoints = RoleEndpoints(
            old.number + 1, {**old.roles, **roles}, transports, old.continues
        )
        self._away.difference_update(roles)

    def return_to_preferred(self) -> None:
        """Return to the replicas that the cell's number chooses, where they are ready by now.

        A cell that began before they were would stay with another one.
        """
        if time.monotonic() < self._next_return or not self._lock.acquire(blocking=False):
            return
        try:
            self._next_return = time.monotonic() + RETURN_S
            for role, known in list(self._found.items()):
                first = self._list_replicas(role)[0]
                if known.instance != first and role not in self._away:
                    from emobench.serving.waiting import find_server

                    found, _ = find_server(self._run_dir, first)
                    if found is not None:
                        self._replace({role: self._adopt(found, role)})
        finally:
            self._lock.release()

    def wait_for_servers(self, seen: RoleEndpoints) -> None:
        """Wait until both servers answer (again), and take their addresses.

        Done once for all episodes that failed together. Raises ServersGone where they do not come
        back in time.
        """
        with self._lock:
            if self._endpoints.number != seen.number:
                return
            roles = self._resolve(check=True)
            same = roles == self._endpoints.roles
            transports = self._endpoints.transports if same else {}
            number = seen.number + 1
            continues = seen.continues if same else number
            self._endpoints = RoleEndpoints(number, roles, transports, continues)
            self._away.clear()

    def _resolve(self, check: bool = False) -> dict[Role, ModelEndpoint]:
        return {role: self._resolve_role(role, check) for role in ("user", "assistant")}

    def _resolve_role(self, role: Role, check: bool) -> ModelEndpoint:
        server, model = self._find_role(role)
        if model.engine == "openai":
            sampling = select_sampling(model)
            endpoint = _make_configured_endpoint(
                self._run_dir, server, model, sampling, self._plan.sweep.timeout_s
            )
            if check and endpoint.direct:
                self._wait_for_answer(endpoint)
            return endpoint
        from emobench.serving.waiting import wait_for_endpoint

        found = wait_for_endpoint(
            self._run_dir,
            *self._list_replicas(role),
            deadline_s=self._plan.profile.server_deadline_min * 60,
            interrupted=self._interrupted,
        )
        return self._adopt(found, role)

    def _adopt(self, found: Found, role: Role) -> ModelEndpoint:
        self._found[role] = found
        return ModelEndpoint(
            model=found.endpoint.model,
            url=found.endpoint.url,
            api_key=found.location.read_key(),
            incarnation=found.endpoint.incarnation,
            server=found.location.instance,
            sampling=select_sampling(self._find_role(role)[1]),
            timeout_s=self._plan.sweep.timeout_s,
        )

    def _list_replicas(self, role: Role) -> list[str]:
        """Return the replicas in order of preference, so that the cells are spread over whichever
        are ready."""
        rest = list_replicas(*self._find_role(role))
        round_, first = divmod(self._cell.number, len(rest))
        chosen = rest.pop(first)
        turn = round_ % len(rest) if rest else 0
        return [chosen, *rest[turn:], *rest[:turn]]

    def _find_role(self, role: Role) -> tuple[str, RoleModel]:
        sweep, assistant = self._plan.sweep, self._cell.assistant
        if role == "user":
            return USER_SERVER, sweep.user
        return name_assistant_server(assistant), sweep.assistants[assistant]

    def _wait_for_answer(self, endpoint: ModelEndpoint) -> None:
        assert endpoint.url is not None
        deadline = time.monotonic() + OUTAGE_S
        said = ""
        while not self._interrupted():
            client = ChatClient(endpoint.url, endpoint.api_key, PROBE_TIMEOUT_S)
            try:
                answer = client.get("/models")
                if answer.status < 500:
                    return
                said = f"HTTP {answer.status}"
            except Unreachable as error:
                said = str(error)
            finally:
                client.close()
            if time.monotonic() > deadline:
                raise ServersGone(f"{endpoint.url} has been away for {OUTAGE_S:.0f} s: {said}")
            time.sleep(1.0)
        raise ServersGone(f"interrupted while waiting for {endpoint.url}")


class Follower:
    """The endpoints of one conversation, which move with its servers."""

    def __init__(self, resolver: EndpointResolver) -> None:
        self._resolver = resolver
        self.endpoints = resolver.latest

    def resolve(self) -> RoleEndpoints:
        """Return where to call now. Raises ServersGone, and Stopped where a wait was interrupted:
        that is no failure of a server."""
        try:
            newest = self._resolver.refresh()
        except ServersGone:
            self._resolver.raise_if_interrupted()
            raise
        if newest is not self.endpoints and newest.continues <= self.endpoints.number:
            self.endpoints = newest
        return self.endpoints

    def move(self) -> bool:
        """Return, after a call that failed, whether it may be sent again to where its server went.

        Raises ServersGone, and Stopped as `resolve` does."""
        try:
            newest = self._resolver.find_successor(self.endpoints)
        except ServersGone:
            self._resolver.raise_if_interrupted()
            raise
        if newest is None:
            return False
        self.endpoints = newest
        return True


def _make_configured_endpoint(
    run_dir: RunDir,
    server: str,
    settings: OpenAIModel,
    sampling: dict[str, object],
    timeout_s: float,
) -> ModelEndpoint:
    key = find_hosted_key(run_dir, settings.api_key_env)
    if key is None and settings.base_url is None:
        raise InvalidInput(
            f"the variable {settings.api_key_env} is not set: {server} needs it to reach "
            f"{settings.provider}; export it before running"
        )
    return ModelEndpoint(
        model=settings.model,
        url=settings.base_url,
        api_key=key or "none",  # clients refuse to start without any
        provider=settings.provider,
        price=settings.price,
        sampling=sampling,
        timeout_s=timeout_s,
        rate_limit_wait_s=settings.rate_limit_wait_min * 60,
    )
