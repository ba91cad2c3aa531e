"""The study of the paper in one run directory: a list of stages (stages.py), each reading and writing files.

Every stage skips what is done, so the same command continues a killed study, and a config that asks for more makes a
finished run grow: `placid rollout`, `judge`, `intervene`, `pairs`, `train`, `eval` and `report` are `placid study`
step by step.
"""

import sys
from importlib import import_module
from types import ModuleType


class CallableRoom(ModuleType):
    """This package, which can be called: `placid.study(CONFIG)` is `placid.api.study(CONFIG)`.

    A package and a function of one name would hide each other, by who was imported last.
    """

    def __call__(self, config: str, **overrides: object) -> object:
        """Run a study, or go on with it, and open its run."""
        return import_module("placid.api").study(config, **overrides)


sys.modules[__name__].__class__ = CallableRoom
