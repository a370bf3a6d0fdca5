"""The decoder on one GPU: megatron-core's weights, without its launches.

megatron-core's layers without Transformer Engine spend a quarter of a step in small kernels. Here a
layer is four matrix products, attention, and three compiled kernels between them; the weights stay
megatron-core's, so that checkpoints, adapters and import know nothing of it.
"""
