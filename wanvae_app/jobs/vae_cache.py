"""VaeCache: the VAEs of this app by name; their weights are loaded when they are first used."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Mapping

import torch

from wanvae_app.device import tidy_up
from wanvae_app.formats.checkpoint import describe_vae, load_vae, loading_dtype
from wanvae_app.formats.weights_file import WeightsFile, find_weights_file
from wanvae_app.kernels.code_path import CodePath
from wanvae_app.model.vae import WanVAE

Load = Callable[[Callable[[], object]], WanVAE]  # takes what is to be called after each tensor


class VaeCache:
    """The VAEs of one rank by name, in the order of the command line. All ranks have the same ones.

    A VAE whose weights are not in memory lies on "meta": its configuration, name and dtype can be asked for. All ranks
    load, use and unload the same VAEs in the same order, see `vae_loading.py`. One thread changes what is loaded; any
    thread may read.
    """

    def __init__(self, described: Mapping[str, WanVAE], loads: Mapping[str, Load]) -> None:
        """Take a VAE on "meta" for each name, and for each what loads it. Neither may be empty."""
        self._described = dict(described)
        self._loads = dict(loads)
        self._loaded: dict[str, WanVAE] = {}  # the least recently used one first

    @classmethod
    def of(cls, vae: WanVAE) -> VaeCache:
        """Return the cache of a single VAE, which is loaded already."""
        cache = cls({vae.name: vae}, {vae.name: lambda on_tensor: vae})
        cache._loaded[vae.name] = vae
        return cache

    @classmethod
    def open(
        cls,
        sources: Mapping[str, str],
        dtype: torch.dtype,
        device: torch.device,
        path: CodePath | None = None,
    ) -> VaeCache:
        """Read the headers of these sources, by name, for a dtype and a code path as in `load_vae`. Loads none.

        Raises ValueError, with one sentence, for a source that holds no VAE.
        """
        described, loads = {}, {}
        for name, source in sources.items():
            file = find_weights_file(source)  # downloaded now, if it must be
            described[name] = describe_vae(file, dtype, device, path)
            loads[name] = _loader(file, dtype, device, path)
        return cls(described, loads)

    @property
    def names(self) -> list[str]:
        """The names, in the order of the command line."""
        return list(self._described)

    @property
    def first(self) -> WanVAE:
        """The VAE that is taken unless another is asked for."""
        return self[self.names[0]]

    @property
    def signature(self) -> float:
        """A number that is equal for caches of equal names and configurations."""
        text = repr([(name, vae.config) for name, vae in self._described.items()])
        return float(zlib.crc32(text.encode()))

    def __getitem__(self, name: str) -> WanVAE:
        """The VAE of this name, on "meta" unless it is loaded. Raises KeyError for an unknown name."""
        return self._loaded.get(name, self._described[name])

    def find(self, name: str) -> str:
        """Return the name of the VAE that is asked for; "" asks for the first one.

        Raises ValueError, with the names that there are, for an unknown name.
        """
        if not name:
            return self.names[0]
        if name not in self._described:
            raise ValueError(f"There is no VAE {name[:40]!r} here; choose one of {', '.join(self.names)}.")
        return name

    def is_loaded(self, name: str) -> bool:
        """Whether the weights are in memory."""
        return name in self._loaded

    def idle(self, in_use: str) -> list[str]:
        """Return the names of the loaded VAEs except one, the least recently used first."""
        return [name for name in self._loaded if name != in_use]

    def use(self, name: str) -> WanVAE:
        """Return a loaded VAE, and note that it was used now."""
        vae = self._loaded[name]
        self._loaded = {other: self._loaded[other] for other in self.idle(name)} | {name: vae}
        return vae

    def release_clips(self, in_use: str) -> None:
        """Free what the last clips of all other VAEs left in memory for a next one."""
        for name in self.idle(in_use):
            self._loaded[name].release()

    def load(self, name: str, on_tensor: Callable[[], object] = lambda: None) -> WanVAE:
        """Read the weights of a VAE, and return it. `on_tensor` is called after each tensor.

        Raises ValueError, with one sentence, if the file is not what it was at the start; else whatever reading it or
        moving it to the device raises.
        """
        described = self._described[name]
        vae = self._loads[name](on_tensor)
        if vae.config != described.config:
            raise ValueError("its file is another one than at the start; restart the app")
        self._loaded[name] = vae
        return vae

    def unload(self, name: str) -> None:
        """Free the memory of a VAE; does nothing if it is not loaded."""
        vae = self._loaded.pop(name, None)
        if vae is None:
            return
        vae.release()  # what the last clip left refers to the VAE
        device = vae.device
        del vae
        gc.collect()
        tidy_up(device)


def weight_bytes(vae: WanVAE) -> int:
    """Bytes of a VAE's weights when it is loaded."""
    return sum(weight.nbytes for weight in vae.parameters())


def loading_bytes(vae: WanVAE) -> int:
    """Bytes that a VAE's weights take at most while they are loaded."""
    return sum(weight.numel() for weight in vae.parameters()) * loading_dtype(vae.dtype).itemsize


def _loader(file: WeightsFile, dtype: torch.dtype, device: torch.device, path: CodePath | None) -> Load:
    def load(on_tensor: Callable[[], object]) -> WanVAE:
        if not file.path.is_file():
            raise ValueError(f"{file.path.name} is no longer there")
        try:
            return load_vae(file, dtype, device, path, on_tensor=on_tensor)
        except ValueError as error:  # visitors read it, and need not know the server's folders
            raise ValueError(str(error).replace(f"{file.path.parent}/", "")) from error

    return load
