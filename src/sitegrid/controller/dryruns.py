"""Asks the API server's admission what it says of what units' Services have different, since it is never sent there.

What differs is shown by agents and written into no Service, so admission plugins (DenyServiceExternalIPs), policies
and webhooks would have no say. So each patch is put to them as a dry run of the Service with it, under the
controller's account. An answer is remembered for as long as patch and Service are the same; a refusal is asked again
now and then, for policies change and nothing tells. What is refused is left out of its unit's patch, part by part,
and all other units go on (invariant I4). Held by ``tests/controller/passes/test_dryruns.py`` and, on a real API
server, ``tests/controller/test_servicegrids.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from sitegrid.controller.reporter import api_problem
from sitegrid.controller.writer import Writer
from sitegrid.grid.observed import Service
from sitegrid.grid.problem import OVERRIDE_INVALID, Problem
from sitegrid.grid.servicepatches import ServicePatches
from sitegrid.kube.errors import ApiError
from sitegrid.kube.resources import SERVICES
from sitegrid.wire.servicepatch import ServicePatch, patch_json

ASK_AGAIN: Final = 240.0
"""Seconds after which a refused patch may be asked about again; the next look at everything does it."""
_PASSING: Final = frozenset({401, 404, 408, 409, 429})
"""HTTP status codes that say nothing about the patch."""


class _Answer(NamedTuple):
    """What is left of a patch, and what was said about the rest at which time."""

    allowed: ServicePatch
    refusals: list[str]
    asked: float


@dataclass(slots=True)
class _Known:
    """The answers about the Service as it was."""

    service: tuple[object, ...]
    answers: dict[str, _Answer] = field(default_factory=dict)
    """By the patch as a text."""


class DryRuns:
    """What the API server says of all patches."""

    def __init__(self, writer: Writer, *, clock: Callable[[], float]) -> None:
        self._writer = writer
        self._clock = clock
        self._known: dict[str, _Known] = {}
        """By the Service's uid."""

    def forget(self, uid: str) -> None:
        """Forget a Service that is gone."""
        self._known.pop(uid, None)

    async def allowed(self, service: Service, found: ServicePatches) -> ServicePatches:
        """Return of `found` what the API server lets pass, and by unit also what it says of the rest.

        Raises ApiError and Unreachable where it does not say.
        """
        if not found.patches:
            return found
        meta = service.metadata
        state = (service.spec, meta.labels)
        known = self._known.get(meta.uid)
        if known is None or known.service != state:
            known = self._known[meta.uid] = _Known(state)
        texts = {value: patch.text() for value, patch in found.patches.items()}
        await self._ask(service, known, {texts[value]: patch for value, patch in found.patches.items()})
        patches, problems = {}, {**found.problems}
        for value, text in texts.items():
            answer = known.answers[text]
            if answer.allowed:
                patches[value] = answer.allowed
            if answer.refusals:
                said = [problems[value].message] if value in problems else []
                problems[value] = Problem(OVERRIDE_INVALID, "; ".join([*said, *answer.refusals]))
        return replace(found, patches=patches, problems=problems)

    async def _ask(self, service: Service, known: _Known, wanted: Mapping[str, ServicePatch]) -> None:
        """Have an answer to each of the `wanted` patches, by text, and to no others."""
        now, answers = self._clock(), known.answers
        for text, answer in [*answers.items()]:
            if text not in wanted or (answer.refusals and now - answer.asked >= ASK_AGAIN):
                del answers[text]
        new = [text for text in wanted if text not in answers]
        if not new:
            return
        meta = service.metadata
        present = await self._writer.find(SERVICES, meta.namespace, meta.name)
        if present is None:
            raise ApiError(404, "NotFound", f"Service {meta.namespace}/{meta.name} is gone")
        asked = await asyncio.gather(
            *(self._answer(service, present, wanted[text]) for text in new), return_exceptions=True
        )
        answers.update((text, answer) for text, answer in zip(new, asked, strict=True) if isinstance(answer, _Answer))
        for failure in asked:
            if isinstance(failure, BaseException):
                raise failure

    async def _answer(self, service: Service, present: dict[str, Any], patch: ServicePatch) -> _Answer:
        parts = [*_parts(patch)]
        refusal = await self._refusal(service, present, patch)
        if refusal is None:
            return _Answer(patch, [], self._clock())
        allowed, refusals = ServicePatch(), []
        for name, part in parts:
            wider = allowed._replace(**part)
            if len(parts) > 1:
                refusal = await self._refusal(service, present, wider)
            if refusal is None:
                allowed = wider
            else:
                refusals.append(f"patch.{name}: the API server refuses it: {refusal}")
        return _Answer(allowed, refusals, self._clock())

    async def _refusal(self, service: Service, present: dict[str, Any], patch: ServicePatch) -> str | None:
        """Return what the API server says against the Service with `patch`, None where it lets it pass."""
        try:
            await self._writer.dry_run(SERVICES, service.metadata, _difference(present, patch))
        except ApiError as error:
            if error.status >= 500 or error.status in _PASSING:
                raise
            return api_problem(error).message
        return None


def _parts(patch: ServicePatch) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield what is given of `patch`, each part by itself: its name in the grid, and the field."""
    if patch.annotations:
        yield "annotations", {"annotations": patch.annotations}
    if patch.node_ports:
        yield "nodePorts", {"node_ports": patch.node_ports}
    if patch.external_ips is not None:
        yield "externalIPs", {"external_ips": patch.external_ips}


def _difference(present: dict[str, Any], patch: ServicePatch) -> dict[str, Any]:
    """Return the merge patch that makes of the Service `present` what agents show."""
    spec = patch_json(present, patch, 0)["spec"]
    changed = {
        name: spec.get(name) for name in ("externalIPs", "ports") if spec.get(name) != present["spec"].get(name)
    }
    return {
        **({"metadata": {"annotations": dict(patch.annotations)}} if patch.annotations else {}),
        **({"spec": changed} if changed else {}),
    }
