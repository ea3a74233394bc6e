"""alerce_spark: an astronomical alert broker as a batch-and-stream Spark application.

Its public names are those of `__all__`; docs/analysis.md, "Public names", says what they are and what they promise.
Each is imported at its first use, so that `import alerce_spark` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alerce_spark import lake, udfs
    from alerce_spark.analysis.classes import classify
    from alerce_spark.config import load as load_settings
    from alerce_spark.errors import AlerceError, InputError
    from alerce_spark.features.io import table as compute_features
    from alerce_spark.session import spark_session

__version__ = "0.1.0"

__all__ = [
    "AlerceError",
    "InputError",
    "__version__",
    "classify",
    "compute_features",
    "lake",
    "load_settings",
    "spark_session",
    "udfs",
]

#: Where the public functions and classes are; the other public names are modules.
_HOMES = {
    "AlerceError": "errors.AlerceError",
    "InputError": "errors.InputError",
    "classify": "analysis.classes.classify",
    "compute_features": "features.io.table",
    "load_settings": "config.load",
    "spark_session": "session.spark_session",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES.get(name, f"{name}.").rpartition(".")
    found = import_module(f"{__name__}.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
