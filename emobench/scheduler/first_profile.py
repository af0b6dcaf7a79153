"""A first profile of a site from what its Slurm says, for its user to correct. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from emobench.scheduler.render import make_template_environment, parse_limit_s
from emobench.scheduler.site import Site, count_cards, parse_gres_names

TEMPLATE = "profile.yaml.j2"
CARD_GRES = re.compile(r"(gpu|hpu|gaudi)\b", re.IGNORECASE)
"""Other GRES are licences, disks and shares of a card."""
GAUDI = re.compile(r"hpu|gaudi|hl-?\d", re.IGNORECASE)
DAY_S, ARRAY_S = 24 * 3600, 4 * 3600
CPUS, MEMORY_GB = 8, 64
"""For each card, where a node has as much."""


@dataclass(frozen=True)
class CardPartition:
    """One kind of card in one partition."""

    partition: str
    gres: str
    """Without the count."""
    cards: int
    """On a node."""
    cpus: int
    memory_gb: int
    is_default: bool

    def __str__(self) -> str:
        return f"{self.partition} ({self.gres}, {self.cards} on a node)"


def list_card_partitions(site: Site) -> list[CardPartition]:
    """Return the kinds of cards of the partitions that are up, the likeliest one first."""
    found = [
        CardPartition(
            partition=name,
            gres=gres,
            cards=count_cards(group.gres, gres),
            cpus=group.cpus,
            memory_gb=group.memory_mb // 1024,
            is_default=_is_default(site, name),
        )
        for name in _list_up(site)
        for group in site.nodes.get(name, ())
        for gres in parse_gres_names(group.gres)
        if CARD_GRES.match(gres)
    ]
    # The site's default is what most people may use; then the most cards.
    return sorted(dict.fromkeys(found), key=lambda each: (not each.is_default, -each.cards))


def write_profile(site: Site, template_dirs: Sequence[Path]) -> str:
    """Return the text of a profile, with what else there is to choose from in its comments."""
    environment = make_template_environment(template_dirs)
    environment.filters["yaml"] = _format_scalar
    return environment.get_template(TEMPLATE).render(_build_values(site))


def _build_values(site: Site) -> dict[str, object]:
    kinds = list_card_partitions(site)
    first = kinds[0] if kinds else None
    without = [name for name in _list_up(site) if not any(k.partition == name for k in kinds)]
    without.sort(key=lambda name: not _is_default(site, name))
    server = first.partition if first else next(iter(without), "")
    array = next(iter(without), server)
    accounts = sorted({row.account for row in site.accounting.own} if site.accounting else ())
    names = f"{server} {first.gres}" if first else ""
    return {
        "site": site.config.get("ClusterName", "this site"),
        "slurm": site.config.get("SLURM_VERSION", "of unknown version"),
        "accelerator": ("gaudi" if GAUDI.search(names) else "cuda") if first else "none",
        "server": server,
        "array": array,
        "array_has_cards": bool(kinds) and array not in without,
        "gres": first.gres if first else None,
        "others": kinds[1:],
        "array_others": without[1:],
        "cpus": min(CPUS, max(first.cpus // first.cards, 1)) if first else 2,
        "memory_gb": min(MEMORY_GB, first.memory_gb // first.cards) if first else 4,
        "server_time": _choose_limit(site, server, DAY_S, "1-00:00:00"),
        "array_time": _choose_limit(site, array, ARRAY_S, "4:00:00"),
        "accounts": accounts,
    }


def _list_up(site: Site) -> Iterator[str]:
    for name, partition in site.partitions.items():
        if partition.get("State", "UP") == "UP":
            yield name


def _is_default(site: Site, partition: str) -> bool:
    return site.partitions[partition].get("Default") == "YES"


def _choose_limit(site: Site, partition: str, wanted_s: int, wanted: str) -> str:
    """Return the wanted time, or the partition's where that is shorter."""
    longest = site.partitions.get(partition, {}).get("MaxTime", "")
    seconds = parse_limit_s(longest)
    return longest if seconds is not None and seconds < wanted_s else wanted


def _format_scalar(value: str) -> str:
    """Return a value of YAML: plain where that is safe."""
    return value if re.fullmatch(r"[A-Za-z_][\w.-]*(:[\w.-]+)*", value) else json.dumps(value)
