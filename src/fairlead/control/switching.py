"""Which policy is in force, and how does another one take over while requests run?

A switch is one step between two requests: running requests keep their leases, what was learned of backends and models
stays, the new policy begins with an empty memory of its own (sessions, turns). Reading what is asked for is
config/switch.py's work; here it is carried out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fairlead.config.schema import Policy, Shadow, options_of
from fairlead.core import shadow as core_shadow
from fairlead.core.balancer import Balancer
from fairlead.core.view import Policy as CorePolicy
from fairlead.core.view import Rng
from fairlead.proxy.service import Service, SessionSource

log = logging.getLogger("fairlead")

WARMING = "the prefix index starts empty: it was not kept before, and fills with the prompts that are sent from now on"

Read = Callable[[object, Policy, Shadow | None], tuple[Policy, Shadow | None]]


class SwitchRefused(Exception):
    """Nothing was changed; the message is a sentence for people."""


class Switching:
    """The policies in force, as they are configured; the balancer has the objects."""

    def __init__(
        self,
        policy: Policy,
        shadow: Shadow | None,
        *,
        balancer: Balancer,
        service: Service,
        read: Read,
        make: Callable[[Policy], CorePolicy],
        rng: Rng,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """`balancer` decides by `policy` already. `read` raises ValueError; `rng` is the shadows' own; `tell` hears of
        each policy that takes over."""
        self.policy, self.shadow = policy, shadow
        self._balancer, self._service = balancer, service
        self._read, self._make, self._rng, self._tell = read, make, rng, tell
        if shadow is not None:
            balancer.set_shadow(core_shadow.Shadow(make(shadow), rng))
        service.session = session_source(policy, shadow)

    def switch(self, body: object) -> dict[str, Any]:
        """Do what `body` asks for and tell what was and what is. SwitchRefused."""
        try:
            policy, shadow = self._read(body, self.policy, self.shadow)
        except ValueError as problem:
            raise SwitchRefused(str(problem)) from None
        assert isinstance(body, dict)
        old, cold = self.shown(), not self._balancer.uses_prefixes
        self._take_over(policy, shadow, "policy" in body, "shadow" in body)
        warms = cold and self._balancer.uses_prefixes
        return {"old": old, "new": self.shown(), "warming": WARMING if warms else None}

    def follow(self, policy: Policy, shadow: Shadow | None, read: Read) -> None:
        """What the file says from now on is in force; `read` knows it. What is in force already stays as it is."""
        self._read = read
        self._take_over(policy, shadow, policy != self.policy, shadow != self.shadow)

    def _take_over(self, policy: Policy, shadow: Shadow | None, takes_policy: bool, takes_shadow: bool) -> None:
        balancer = self._balancer
        steps: list[Callable[[], None]] = []
        if takes_policy:
            made = self._make(policy)
            steps.append(lambda: balancer.set_policy(made))
            log.info("the policy is %s now, it was %s", policy.name, self.policy.name)
        if takes_shadow:
            beside = None if shadow is None else core_shadow.Shadow(self._make(shadow), self._rng)
            # The one that keeps the prefix index in use comes first, or the index would be emptied between the two.
            steps.insert(0 if beside is not None else len(steps), lambda: balancer.set_shadow(beside))
            log.info("the shadow is %s now, it was %s", _name(shadow), _name(self.shadow))
        self.policy, self.shadow = policy, shadow
        self._service.session = session_source(policy, shadow)
        for step in steps:
            step()
        if takes_policy and self._tell is not None:
            self._tell(policy.name)

    def shown(self) -> dict[str, Any]:
        """The policies in force with their options."""
        return {"policy": as_shown(self.policy), "shadow": None if self.shadow is None else as_shown(self.shadow)}


def session_source(policy: Policy, shadow: Policy | None) -> SessionSource | None:
    """Where requests name their session, if one of the two wants to know."""
    for each in (policy, shadow):
        if each is not None and each.name == "session":
            return SessionSource(
                header=each.header.lower().encode() if each.header else None,
                cookie=each.cookie.encode() if each.cookie else None,
                body_field=each.body_field,
            )
    return None


def _name(policy: Policy | None) -> str:
    return "none" if policy is None else policy.name


def as_shown(policy: Policy) -> dict[str, Any]:
    """Its name and the options that are its own."""
    own = {
        name: getattr(policy, name)
        for name, (option, _) in options_of(type(policy)).items()
        if option.only_for == policy.name
    }
    return {"name": policy.name, "options": own}
