"""A recipe as a task of NeMo-Run, which starts it here, in containers or on a cluster.

import nemo_run as run

run.run(recipe.to_nemo_run(), executor=run.LocalExecutor())
"""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import Any

from ..errors import ConfigError
from .editable import finished, is_config


def to_nemo_run(recipe: Any) -> Any:
    """`run.Partial` of `fit`, whose parts are `run.Config`s that can still be changed.

    The data module travels as bytes, since its tokenizer and its readers are no settings.

    Raises:
        ConfigError: NeMo-Run is not installed.
    """
    try:
        import nemo_run as run
    except ImportError as error:
        raise ConfigError(
            f"to_nemo_run needs NeMo-Run, and {error.name} is not installed; "
            "pip install 'neva-prep[nemo-run]'"
        ) from error
    from .loop import fit

    plan = finished(recipe)
    settings = {f.name: _config(run, getattr(plan, f.name)) for f in fields(plan)}
    settings["data"] = run.Config(unpack_data, packed=_pack_data(plan.data))
    return run.Partial(fit, recipe=run.Config(type(plan), **settings))


def unpack_data(packed: str) -> Any:
    """The data module that `to_nemo_run` packed; it was made by the same user.

    Args:
        packed: of cloudpickle, in base 64.
    """
    import cloudpickle

    return cloudpickle.loads(base64.b64decode(packed))


def _pack_data(data: Any) -> str:
    import cloudpickle

    data.close()  # A stream that is open does not travel.
    return base64.b64encode(cloudpickle.dumps(data)).decode()


def _config(run: Any, value: Any) -> Any:
    """A frozen config as run.Config, its parts, too; anything else as it is."""
    if not is_config(value):
        return value
    return run.Config(
        type(value), **{f.name: _config(run, getattr(value, f.name)) for f in fields(value)}
    )
