"""What of a configuration may not leave it by way of an export?

An exported file is copied into repositories, tickets and chats, the config file less so.
Rule 1: every header value is a secret: nobody can tell an engine's key from a harmless word by its name.
Rule 2: so is what the schema calls a `secret_url`: a webhook's path is its password.
Rule 3: what stands in a secret's place is for the tool that reads the file: a variable's name, or a word to replace.
"""

from __future__ import annotations

import re
from typing import Final

PLACEHOLDER: Final = "REPLACE-ME"


def variable(*words: str) -> str:
    """The name of the environment variable that holds a secret: FAIRLEAD_GPU1_AUTHORIZATION."""
    return "_".join(["FAIRLEAD", *(re.sub(r"[^A-Z0-9]+", "_", word.upper()).strip("_") for word in words)])


class Variables:
    """The variables of one file: each place has its own, whatever its words have in common with another's."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, ...], str] = {}

    def of(self, *words: str) -> str:
        if words not in self._places:
            taken = set(self._places.values())
            name, number = variable(*words), 2
            while name in taken:
                name, number = f"{variable(*words)}_{number}", number + 1
            self._places[words] = name
        return self._places[words]

    @property
    def all(self) -> list[str]:
        return list(self._places.values())


def header_name(header: str) -> str:
    """Of `Name: value`."""
    return header.partition(":")[0]
