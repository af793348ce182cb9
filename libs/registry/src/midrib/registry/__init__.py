"""Names to loaders."""

from midrib.registry._inputs import AudioInput, ImageInput, InputSpec, TensorInput, TextInput

__all__ = ["AudioInput", "ImageInput", "InputSpec", "TensorInput", "TextInput"]
