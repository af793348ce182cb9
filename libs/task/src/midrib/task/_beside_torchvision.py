"""Import torchvision before torchmetrics does: only our import makes its CUDA build work with a CPU build of torch."""

from importlib.util import find_spec

from midrib.backbones._torchvision import import_torchvision

if find_spec("torchvision") is not None:
    import_torchvision()
