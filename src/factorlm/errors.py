"""One tree of exceptions. Everything a user can cause says in one line what was wanted, what came and what to do.

FactorlmError
├── InputError (also ValueError)   a text, number, name or file that cannot be used
│   ├── UnknownNameError           no factor or model of that name; lists near names
│   └── DeadEndError               every next token is impossible
├── IncompatibleError              parts that do not fit: another encoder, another vocabulary
├── IntegrityError                 a file that is not what its manifest says
├── UnboundError                   a factor used before it was given a model
└── FetchError                     a model that could not be fetched
"""

import difflib
from collections.abc import Iterable


class FactorlmError(Exception):
    """Root of everything that factorlm raises on purpose; the command line prints it and exits with 2."""


class InputError(FactorlmError, ValueError):
    """A text, number, name or file of the caller that cannot be used."""


class UnknownNameError(InputError):
    """A name that is not in a table."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str], hint: str = "") -> "UnknownNameError":
        """Say which names are near, else all of them.

        Args:
            what: the kind of thing looked for, such as "factor".
            name: what came.
            known: the names that exist.
            hint: the next move, when there is a better one than choosing a known name.
        """
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        else:
            advice = f"known: {', '.join(names)}" if names else "there are none yet"
        return cls(f"no {what} named {name!r}; {advice}{'; ' + hint if hint else ''}")


class DeadEndError(InputError):
    """Every next token has weight zero, so no text can go on."""


class IncompatibleError(FactorlmError):
    """Parts that do not fit together: another encoder or another vocabulary."""


class IntegrityError(FactorlmError):
    """A file that is not what its manifest says."""


class UnboundError(FactorlmError):
    """A factor that needs a model was used without one."""


class FetchError(FactorlmError):
    """A model that could not be fetched."""
