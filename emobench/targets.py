"""Where a cell's two roles answer now, and again after a server came back somewhere else."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emobench.client import ChatClient, Unreachable
from emobench.config.models import OpenAIModel, RoleModel, sampling_of
from emobench.config.sweep import Cell
from emobench.errors import InvalidInput, ServersGone
from emobench.plan import USER_SERVER, Plan, assistant_server
from emobench.rundir import RunDir
from emobench.senders import Role, Sender, Target

OUTAGE_S = 120.0
"""How long an endpoint that is not ours may be away before the cell gives up."""
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Targets:
    """One generation of both roles' targets, with the senders that belong to it."""

    number: int
    roles: Mapping[Role, Target]
    senders: dict[Role, Sender] = field(default_factory=dict)


class TargetBook:
    """Resolves a cell's targets, and resolves them anew when an episode lost its server."""

    def __init__(
        self, plan: Plan, run_dir: RunDir, cell: Cell, interrupted: Callable[[], bool]
    ) -> None:
        """Waits for both servers. Raises ServersGone, InvalidInput for a key that is not set."""
        self._plan, self._run_dir, self._cell = plan, run_dir, cell
        self._interrupted = interrupted
        self._lock = threading.Lock()
        self._targets = Targets(0, self._resolve())

    def current(self) -> Targets:
        return self._targets

    def renew(self, seen: Targets) -> None:
        """Wait until both servers answer (again), and take their addresses; once for all episodes
        that failed together. Raises ServersGone where they do not come back in time."""
        with self._lock:
            if self._targets.number != seen.number:
                return
            roles = self._resolve(check=True)
            senders = self._targets.senders if roles == self._targets.roles else {}
            self._targets = Targets(seen.number + 1, roles, senders)

    def _resolve(self, check: bool = False) -> dict[Role, Target]:
        sweep, assistant = self._plan.sweep, self._cell.assistant
        return {
            "user": self._target(USER_SERVER, sweep.user, check),
            "assistant": self._target(
                assistant_server(assistant), sweep.assistants[assistant], check
            ),
        }

    def _target(self, server: str, model: RoleModel, check: bool) -> Target:
        sampling = sampling_of(model)
        if model.engine == "openai":
            target = _own_endpoint(server, model, sampling, self._plan.sweep.timeout_s)
            if check and target.url is not None:
                self._wait_for_answer(target)
            return target
        from emobench.serving.endpoints import api_key, wait_for_endpoint

        endpoint = wait_for_endpoint(
            self._run_dir,
            server,
            deadline_s=self._plan.profile.server_deadline_min * 60,
            interrupted=self._interrupted,
        )
        return Target(
            model=endpoint.model,
            url=endpoint.url,
            api_key=api_key(self._run_dir),
            incarnation=endpoint.incarnation,
            sampling=sampling,
            timeout_s=self._plan.sweep.timeout_s,
        )

    def _wait_for_answer(self, target: Target) -> None:
        assert target.url is not None
        deadline = time.monotonic() + OUTAGE_S
        said = ""
        while not self._interrupted():
            client = ChatClient(target.url, target.api_key, PROBE_TIMEOUT_S)
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
                raise ServersGone(f"{target.url} has been away for {OUTAGE_S:.0f} s: {said}")
            time.sleep(1.0)
        raise ServersGone(f"interrupted while waiting for {target.url}")


def _own_endpoint(
    server: str, settings: OpenAIModel, sampling: dict[str, object], timeout_s: float
) -> Target:
    key = os.environ.get(settings.api_key_env)
    if key is None and settings.base_url is None:
        raise InvalidInput(
            f"the variable {settings.api_key_env} is not set: {server} needs it to reach "
            f"{settings.provider}; export it before running"
        )
    return Target(
        model=settings.model,
        url=settings.base_url,
        api_key=key or "none",  # clients refuse to start without any
        provider=settings.provider,
        sampling=sampling,
        timeout_s=timeout_s,
    )
