"""A device that is not there: tensors that say they lie elsewhere, and are computed here.

Code that asks for ``device.type == "cpu"`` takes its other branch with them, and what CUDA refuses
is refused: tensors of both devices in one operation, NumPy's view of one that is not here. What a
processor and a GPU compute otherwise, and what CUDA cannot do at all, is not found so.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "meta"  # torch knows it without any hardware, and nobody else here uses it
_aten = torch.ops.aten
_INDEXED = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}


class Elsewhere(torch.Tensor):
    """A tensor of the pretend device, around one of this machine."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        with torch.inference_mode(mode=False):  # views of others could not be what these would be
            return torch.Tensor._make_wrapper_subclass(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=DEVICE,
                requires_grad=inner.requires_grad,
            )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Elsewhere({self.inner!r})"

    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts, _context, _size, _stride):
        return Elsewhere(parts["inner"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Makes what is made on the pretend device, or moved there, an `Elsewhere`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class FromLists(TorchFunctionMode):
    """Makes tensors of lists here, and moves them: torch itself makes them empty on that device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.new_tensor:
            given = {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            func, args, kwargs = torch.tensor, args[1:], given
        if func is torch.tensor and kwargs.get("device") is not None:
            there = kwargs.pop("device")
            return func(*args, **kwargs).to(there)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            values, index, *rest = args
            index = index if isinstance(index, tuple) else (index,)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (values, index, *rest)
        return func(*args, **kwargs)


@contextmanager
def elsewhere(monkeypatch):
    """Let torch have the pretend device within."""
    autocast = torch.autocast

    def on_any(device_type, *args, **kwargs):
        return nullcontext() if device_type == DEVICE else autocast(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", on_any)  # torch casts for devices that it knows
    with FromLists(), Pretending():
        yield DEVICE


def _computed(func, args, kwargs):
    """Compute on this machine what was asked of either device; refuse what CUDA does."""
    tensors, there = _tensors((args, kwargs)), _whither(func, args, kwargs)
    if any(type(t) is torch.Tensor and t.device.type == DEVICE for t in tensors):
        raise RuntimeError(f"{func}: a tensor without numbers: the kit does not know who made it")
    if there is None:
        there = any(isinstance(t, Elsewhere) for t in tensors)
        if there:
            _check(func, args, kwargs, tensors)
    if there and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: expected a generator of '{DEVICE}', got one of the CPU")
    made = func(*_mapped(_inner, args), **_mapped(_inner, kwargs))
    known = {id(t.inner): t for t in tensors if isinstance(t, Elsewhere)}
    plain = {id(t) for t in tensors if not isinstance(t, Elsewhere)}

    def placed(tensor):
        """Put a result where it belongs; what moved is a copy, what was written is the same one."""
        if not isinstance(tensor, torch.Tensor):
            return tensor
        if not there:
            return tensor.clone() if id(tensor) in known else tensor
        if id(tensor) in known:
            return known[id(tensor)]
        return Elsewhere(tensor.clone() if id(tensor) in plain else tensor)

    return _mapped(placed, made)


def _whither(func, args, kwargs):
    """Whether what is made lies elsewhere, if that is said; None where the tensors decide."""
    if func is _aten.copy_.default:
        return isinstance(args[0], Elsewhere)
    if func is _aten.to.other:
        return isinstance(args[1], Elsewhere)
    devices = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.device)]
    return devices[0].type == DEVICE if devices else None


def _check(func, args, kwargs, tensors):
    """Refuse tensors of both devices, but for what CUDA takes from the CPU: numbers, and places."""
    if func in _INDEXED:
        values, indices, *others = args
        places = [i for i in indices if isinstance(i, torch.Tensor)]
        if not isinstance(values, Elsewhere) and any(isinstance(i, Elsewhere) for i in places):
            raise RuntimeError(f"{func}: indices should be on the CPU, as what they index")
        tensors = _tensors((values, others, kwargs))
    if strange := [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() > 0]:
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu, "
            f"{[tuple(t.shape) for t in strange]}"
        )


def _mapped(function, nested):
    """Apply a function to what is nested; torch's own way takes most of a fit's time."""
    if isinstance(nested, dict):
        return {key: _mapped(function, value) for key, value in nested.items()}
    if isinstance(nested, list | tuple):
        return type(nested)(_mapped(function, value) for value in nested)
    return function(nested)


def _tensors(nested):
    found = []
    _mapped(lambda value: found.append(value) if isinstance(value, torch.Tensor) else None, nested)
    return found


def _inner(value):
    """Return what is computed with here: a tensor's own, this machine for the pretend one."""
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.inner if isinstance(value, Elsewhere) else value
