"""The mutants that no test can kill, each with its reason (``equivalents.txt``).

A block of the file is one mutant: the function, the line as it is, the line as it becomes, and why
nobody can tell them apart. Neither files nor line numbers are named, so code may move. `Campaign`
reads the file; mutants in it are counted, and leave the score alone.
"""

from __future__ import annotations

from pathlib import Path

Key = tuple[str, str, str]


class Equivalents:
    def __init__(self, reasons: dict[Key, str]) -> None:
        self.reasons = reasons
        self.used: set[Key] = set()

    @classmethod
    def read(cls, path: Path) -> Equivalents:
        """Raises `ValueError` for a block that is not complete."""
        reasons: dict[Key, str] = {}
        text = "\n".join(line for line in path.read_text().splitlines() if line[:1] != "#")
        for block in filter(str.strip, text.split("\n\n")):
            function, before, after, *reason = block.strip().splitlines()
            if function[:2] != "@ " or before[:2] != "- " or after[:2] != "+ " or not reason:
                raise ValueError(f"not '@ function', '- line', '+ line' and a reason:\n{block}")
            name = "" if function == "@ (top)" else function[2:].strip()
            reasons[name, before[2:].strip(), after[2:].strip()] = " ".join(reason).strip()
        return cls(reasons)

    def __contains__(self, key: Key) -> bool:
        function, before, after = key
        name = function.replace(".<locals>", "")
        found = (name, before, after)
        if found in self.reasons:
            self.used.add(found)
            return True
        return False
