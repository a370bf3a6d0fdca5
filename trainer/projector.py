"""The projector: features of patches become embeddings of the language model."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .compat import prepare_megatron
from .config import NevaConfig
from .megatron_config import projector_transformer
from .parallel_config import ComputeConfig, ParallelConfig
from .spec import mlp_submodules

prepare_megatron()

from megatron.core import parallel_state  # noqa: E402
from megatron.core.tensor_parallel.layers import ColumnParallelLinear  # noqa: E402
from megatron.core.transformer.mlp import MLP  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402


class Projector(MegatronModule):  # type: ignore[misc]
    """Pixel shuffle, then two layers, one or none."""

    def __init__(
        self, config: NevaConfig, parallel: ParallelConfig, compute: ComputeConfig
    ) -> None:
        """Build it with random weights."""
        transformer = projector_transformer(config, parallel, compute)
        super().__init__(config=transformer)
        projector = config.vision_projection_config
        self.factor = projector.pixel_shuffle
        assert config.vision_shape is not None
        self.grid = config.vision_shape.grid
        # The layers lie where NeMo has them: vision_projection.encoder.linear_fc1.
        self.encoder: Any = None
        if projector.projector_type == "linear":
            self.encoder = _linear(transformer, config.projector_input_size)
        elif projector.projector_type != "identity":
            self.encoder = MLP(
                transformer,
                mlp_submodules(),
                input_size=config.projector_input_size,
                ffn_hidden_size=transformer.ffn_hidden_size,
                tp_group=parallel_state.get_tensor_model_parallel_group(),
            )

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings of tiles.

        Args:
            features: [tiles, patches, channels]

        Returns:
            [tiles · embeddings, hidden_size]
        """
        x = pixel_shuffle(features, self.grid, self.factor).flatten(0, 1)
        if self.encoder is None:
            return x
        output, bias = self.encoder(x)
        embeddings: Tensor = output if bias is None else output + bias
        return embeddings


def _linear(transformer: Any, input_size: int) -> ColumnParallelLinear:
    """One layer, its output whole on each rank."""
    return ColumnParallelLinear(
        input_size,
        transformer.hidden_size,
        config=transformer,
        init_method=transformer.init_method,
        bias=transformer.add_bias_linear,
        gather_output=True,
        skip_bias_add=False,
        tp_group=parallel_state.get_tensor_model_parallel_group(),
    )


def pixel_shuffle(features: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Put each square of `factor` x `factor` patches into one, channels after channels.

    The order is InternVL's: squares row by row; in one, the patches of a row are neighbours.

    Args:
        features: [tiles, height · width, channels]
        grid: height and width.
        factor: side of a square.

    Returns:
        [tiles, height · width / factor², channels · factor²]
    """
    if factor == 1:
        return features
    tiles, _, channels = features.shape
    rows, columns = grid[0] // factor, grid[1] // factor
    squares = features.reshape(tiles, rows, factor, columns, factor, channels)
    return squares.permute(0, 1, 3, 2, 4, 5).reshape(tiles, rows * columns, -1)
