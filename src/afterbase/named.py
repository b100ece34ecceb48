"""What a recipe names by a dotted path, such as "my_rewards:brevity": a module of the user's own, and something in it."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from afterbase.errors import ConfigError


def parted(path: str) -> tuple[str, str]:
    """Module and name; the last dot parts them where there is no colon."""
    module, _, name = path.partition(":") if ":" in path else path.rpartition(".")
    return module, name


def is_path(path: str) -> bool:
    """Whether it can name something at all."""
    module, name = parted(path)
    return bool(module) and all(part.isidentifier() for part in (*module.split("."), name))


def imported(path: str, what: str) -> ModuleType:
    """The module of a path, that of a `what` such as "reward"; ConfigError says why there is none."""
    module = parted(path)[0]
    with _from_here():
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if f"{module}.".startswith(f"{error.name}."):
                file = module.replace(".", "/") + ".py"
                raise ConfigError(
                    f"there is no module {module!r} for the {what} {path!r}; start where {file} lies, or install it"
                ) from None
            raise ConfigError(f"the {what} {path!r} cannot be imported ({error}); install what {module} needs") from None
        except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
            raise ConfigError(f"the {what} {path!r} cannot be imported ({type(error).__name__}: {error}); mend {module}") from None


def file_of(path: str) -> Path | None:
    """The file that the module would be read from; None for one without a file."""
    with _from_here(), suppress(Exception):  # the packages above it are imported, and what they lack is told by `imported`
        spec = importlib.util.find_spec(parted(path)[0])
        return Path(spec.origin) if spec and spec.origin and spec.has_location else None


@contextmanager
def _from_here() -> Iterator[None]:
    """Modules of the current directory come first while one is looked for, and last afterwards: a `code.py` there hides nothing."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
