"""The immutable tree that holds a merged configuration."""

import keyword
from collections.abc import Iterator, Mapping
from typing import Any

from configs.nearest import did_you_mean


class Config(Mapping[str, Any]):
    """An immutable nested mapping whose options are attributes too: `config.replay.capacity`.

    Leaves are bool, int, float or str; a group of options is itself a Config, so that `Layer(**config.layer)`
    gives a module its own sub-tree as keyword arguments.
    """

    __slots__ = ("_tree",)
    _tree: dict[str, Any]

    def __init__(self, tree: Mapping[str, Any]) -> None:
        frozen: dict[str, Any] = {}
        for key, value in tree.items():
            if (
                not isinstance(key, str)
                or not key.isidentifier()
                or keyword.iskeyword(key)
                or hasattr(Config, key)
            ):
                raise ValueError(
                    f"{key!r} cannot name an option: expected an identifier that is free in Python."
                )
            frozen[key] = Config(value) if isinstance(value, Mapping) else value
        object.__setattr__(self, "_tree", frozen)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._tree[key]
        except KeyError:
            raise KeyError(f"no option '{key}' here.{did_you_mean(key, self._tree)}") from None

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_") or key not in self._tree:
            options = () if key.startswith("_") else self._tree
            raise AttributeError(f"no option '{key}' here.{did_you_mean(key, options)}")
        return self._tree[key]

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(
            f"a Config is immutable: cannot set '{key}'. Make another with configs.override."
        )

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"a Config is immutable: cannot delete '{key}'.")

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __eq__(self, other: object) -> bool:
        return self._tree == other._tree if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.flat().items()))

    def __repr__(self) -> str:
        return f"Config({self._tree!r})"

    def __reduce__(self) -> tuple[type["Config"], tuple[dict[str, Any]]]:
        return Config, (self.to_dict(),)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts, ready for YAML or JSON; `Config(config.to_dict()) == config`."""
        return {key: value.to_dict() if isinstance(value, Config) else value for key, value in self.items()}

    def flat(self) -> dict[str, Any]:
        """Dotted key -> leaf, in the order of the tree."""
        leaves: dict[str, Any] = {}
        for key, value in self._tree.items():
            if isinstance(value, Config):
                leaves.update({f"{key}.{rest}": leaf for rest, leaf in value.flat().items()})
            else:
                leaves[key] = value
        return leaves
