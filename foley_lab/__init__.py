"""foley_lab gives silent videos a synchronised 48 kHz sound.

    import foley_lab as fl

    lab = fl.load("small")
    lab("clip.mp4", prompt="a glass ball bouncing on wood").save("out.mp4")

This is the face of the house. A name is imported when it is first asked for, so that importing the
package takes milliseconds and brings neither torch nor transformers nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foley_lab.pipeline.presets import load
    from foley_lab.signals import (
        Audio,
        Event,
        EventLog,
        Features,
        FoleyError,
        MediaError,
        MissingWeights,
        Video,
    )

__version__ = "0.1.0"

__all__ = [
    "Audio",
    "Event",
    "EventLog",
    "Features",
    "FoleyError",
    "MediaError",
    "MissingWeights",
    "Video",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'foley_lab' has no attribute {name!r}")
    room = import_module("foley_lab.pipeline.presets" if name == "load" else "foley_lab.signals")
    return globals().setdefault(name, getattr(room, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
