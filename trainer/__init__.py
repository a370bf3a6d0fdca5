"""The bundled trainer: NeVA on megatron-core, fed by the streaming loaders."""
