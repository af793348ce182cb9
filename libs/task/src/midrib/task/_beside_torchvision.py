"""Import torchvision before torchmetrics does, because its CUDA build fails beside a CPU torch unless we import it."""

from importlib.util import find_spec

from midrib.backbones._torchvision import import_torchvision

if find_spec("torchvision") is not None:
    import_torchvision()
