"""Turn multimodal conversations into the packed batches a NeVA / LLaVA-1.5 model trains on."""

__version__ = "0.1.0"
