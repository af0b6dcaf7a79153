"""Keys of hosted endpoints: a file of mode 0600 beside the key of the run's own servers.

Jobs read them there. Slurm keeps what sbatch exports in its state (and, at some sites, in its
database), and every set-up line of a script can print it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress

from emobench.core.errors import InvalidInput, Problem
from emobench.core.files import parse_json, write_atomic
from emobench.core.plan import list_roles
from emobench.core.redaction import hide, hide_environment
from emobench.core.run_dir import RunDir
from emobench.core.sweep import Sweep
from emobench.store.endpoints import make_private_folder, read_own


def list_key_variables(sweep: Sweep) -> list[str]:
    """Return the variables that hold keys of hosted endpoints; no job gets them from sbatch."""
    names = _list_names(sweep)
    if sweep.judge is not None and sweep.judge.server is None:
        names.add(sweep.judge.api_key_env)
    return sorted(names)


def save_hosted_keys(run_dir: RunDir, sweep: Sweep) -> None:
    """Keep the keys of the roles' endpoints for the jobs: those in the environment, and of earlier
    calls those that are not. Raises InvalidInput, OSError."""
    names = sorted(_list_names(sweep))
    if not names:
        run_dir.hosted_keys.unlink(missing_ok=True)
        return
    keys = {name: key for name in names if (key := find_hosted_key(run_dir, name))}
    make_private_folder(run_dir)
    write_atomic(run_dir.hosted_keys, json.dumps(keys, indent=2) + "\n", 0o600)


def find_hosted_key(run_dir: RunDir, variable: str) -> str | None:
    """Return the key that belongs to a variable: the environment's, or else the one that was kept;
    None where there is none. Raises InvalidInput where the file cannot be read."""
    return os.environ.get(variable) or _read(run_dir).get(variable)


def hide_keys(run_dir: RunDir) -> None:
    """Have all keys of the run taken out of what this process shows, as far as it may read them."""
    hide_environment(os.environ)
    with suppress(InvalidInput):
        hide(*_read(run_dir).values())
    with suppress(OSError, UnicodeDecodeError):
        hide(read_own(run_dir, run_dir.api_key))


def _list_names(sweep: Sweep) -> set[str]:
    return {model.api_key_env for model in list_roles(sweep).values() if model.engine == "openai"}


def _read(run_dir: RunDir) -> Mapping[str, str]:
    path = run_dir.hosted_keys
    try:
        data = parse_json(read_own(run_dir, path).encode())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(Problem(f"no keys of endpoints: {error}", file=str(path))) from error
    pairs = data.items() if isinstance(data, dict) else ()
    return {name: key for name, key in pairs if isinstance(key, str)}
