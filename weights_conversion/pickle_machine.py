"""A pickle decoder that cannot run code.

The standard library's unpickler imports whatever a file names and calls it, so opening a downloaded
checkpoint with it means running the author's code. This machine decodes protocols 2 to 5 into dicts, lists,
tuples, text and numbers. A "global" of the pickle is looked up in the table of the caller and nowhere else;
any opcode and any global that is not expected ends the decoding with an error that names it.

Work and memory are bounded by the length of the pickle and by `MAX_OPCODES`: values are never walked,
compared or hashed recursively, and dictionary keys must be text or small integers.
"""

import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from esr_lefuse_jax.errors import CheckpointError
from weights_conversion.zip_reader import quoted

MAX_OPCODES = 1_000_000
MAX_INTEGER_BYTES = 16
MAX_KEY = 2**31  # larger integers could be chosen to collide in a dict's table


class UnsafePickleError(CheckpointError):
    """The pickle asks for what plain data does not need: an unknown global, a code-running opcode."""


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to, and what the machine does in its place.

    Attributes:
        name: "module.attribute" as the pickle spells it.
        call: What REDUCE runs with the pickle's arguments; None for names that only stand for themselves.
    """

    name: str
    call: Callable[..., Any] | None = None


class Buildable:
    """Base of the placeholders that accept a BUILD opcode."""

    def build(self, state: Any) -> None:
        """Takes the state; raises `ValueError` when it is not what such an object has."""
        raise ValueError("it takes no state")


_MARK = object()


class PickleMachine:
    """Decodes one pickle.

    A caller gives `names`, the table of allowed globals, and `persistent_load`, which turns a persistent id
    into a value or raises `ValueError`.
    """

    def __init__(
        self,
        data: bytes,
        names: Mapping[str, Global],
        persistent_load: Callable[[Any], Any] | None = None,
        source: str = "pickle",
    ):
        self._data = memoryview(data)
        self._names = names
        self._persistent_load = persistent_load
        self._source = source
        self._position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Returns the decoded value.

        Raises:
            UnsafePickleError: An opcode or a global that is not allowed.
            CheckpointError: The pickle is damaged or larger than any checkpoint's.
        """
        try:
            return self._run()
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error) as error:
            # Whatever a malformed pickle trips over ends here; the exception's own words may quote the file.
            detail = str(error).replace("\n", " ")[:160]
            raise CheckpointError(
                f"{self._source}: unsound pickle near byte {self._position}: {detail}; "
                "download or save it again"
            ) from None

    def _run(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self._take(1)[0]
            if code == _STOP:
                break
            action = _ACTIONS.get(code)
            if action is None:
                raise self._refusal(f"the pickle opcode {_opcode_name(code)}, which plain data does not need")
            action(self)
        else:
            raise CheckpointError(
                f"{self._source}: the pickle has more than {MAX_OPCODES:,} opcodes; save only the weights"
            )
        if self._position != len(self._data):
            raise self._refusal("bytes after the end of the pickle")
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise ValueError("it does not end with one value")
        return self._stack[0]

    def _refusal(self, what: str) -> UnsafePickleError:
        return UnsafePickleError(
            f"{self._source}: refused, nothing was run: it contains {what}; if you trust its origin, "
            "load it in PyTorch and save only the state dict: torch.save(model.state_dict(), FILE)"
        )

    # Reading

    def _take(self, size: int) -> memoryview:
        start, stop = self._position, self._position + size
        if stop > len(self._data):
            raise ValueError("it ends too early")
        self._position = stop
        return self._data[start:stop]

    def _number(self, layout: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        rest = bytes(self._data[self._position : self._position + 512])
        stop = rest.find(b"\n")
        if stop < 0:
            raise ValueError("a name has no end")
        self._position += stop + 1
        return rest[:stop].decode("utf-8")

    def _text(self, layout: str) -> None:
        self._stack.append(str(self._take(self._number(layout)), "utf-8"))

    def _bytes(self, layout: str) -> None:
        # A view, so that arrays held in the pickle are not copied.
        self._stack.append(self._take(self._number(layout)))

    def _integer(self, layout: str) -> None:
        size = self._number(layout)
        if not 0 <= size <= MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {size} bytes")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    # The stack

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a value is missing")
        return value

    def _pop_to_mark(self) -> list[Any]:
        # Each value is looked at once: the work is bounded by the values pushed.
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def _top(self, kind: type) -> Any:
        top = self._stack[-1]
        if not isinstance(top, kind):
            raise ValueError(f"a {kind.__name__} is missing")
        return top

    def _tuple(self, size: int) -> None:
        values = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(values)))

    def _put(self, index: int) -> None:
        if self._stack[-1] is _MARK:
            raise ValueError("a value is missing")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise ValueError(f"memo entry {index} does not exist")
        self._stack.append(self._memo[index])

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(values)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < MAX_KEY):
                raise ValueError("a dictionary key that is neither text nor a small integer")
            target[key] = value

    # Opcodes that need care

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._push_global(module, name)

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global whose name is not text")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        known = self._names.get(f"{module}.{name}")
        # "a.b" + "c" and "a" + "b.c" join to the same text; only the first is how names are written.
        if known is None or "." in name:
            raise self._refusal(
                f"the global {quoted(f'{module}.{name}')}, which is not a tensor or plain data"
            )
        self._stack.append(known)

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Global) or function.call is None or not isinstance(arguments, tuple):
            named = f" of {quoted(function.name)}" if isinstance(function, Global) else ""
            raise self._refusal(f"a call (opcode REDUCE){named} that is not allowed")
        try:
            self._stack.append(function.call(*arguments))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{function.name}: {error}") from None

    def _build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        elif not (isinstance(target, OrderedDict) and isinstance(state, dict)):
            raise self._refusal("an object whose attributes are set (opcode BUILD)")
        # A state dict's own attribute is `_metadata`, versions of its modules: not needed, so not kept.

    def _persistent_id(self) -> None:
        if self._persistent_load is None:
            raise self._refusal("a persistent id (opcode BINPERSID)")
        self._stack.append(self._persistent_load(self._pop()))


def _opcode_name(code: int) -> str:
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    return f"{names.get(chr(code), 'unknown')} (0x{code:02x})"


_STOP = ord(".")
_ACTIONS: dict[int, Callable[[PickleMachine], Any]] = {
    0x80: lambda m: m._take(1),  # PROTO
    0x95: lambda m: m._take(8),  # FRAME
    ord("("): lambda m: m._stack.append(_MARK),
    ord("0"): lambda m: m._stack.pop(),
    ord("1"): lambda m: m._pop_to_mark(),
    ord("N"): lambda m: m._stack.append(None),
    0x88: lambda m: m._stack.append(True),
    0x89: lambda m: m._stack.append(False),
    ord("J"): lambda m: m._stack.append(m._number("<i")),
    ord("K"): lambda m: m._stack.append(m._number("<B")),
    ord("M"): lambda m: m._stack.append(m._number("<H")),
    0x8A: lambda m: m._integer("<B"),
    0x8B: lambda m: m._integer("<i"),
    ord("G"): lambda m: m._stack.append(m._number(">d")),
    ord("X"): lambda m: m._text("<I"),
    0x8C: lambda m: m._text("<B"),
    0x8D: lambda m: m._text("<Q"),
    ord("B"): lambda m: m._bytes("<I"),
    ord("C"): lambda m: m._bytes("<B"),
    0x8E: lambda m: m._bytes("<Q"),
    ord(")"): lambda m: m._stack.append(()),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    ord("t"): lambda m: m._stack.append(tuple(m._pop_to_mark())),
    ord("]"): lambda m: m._stack.append([]),
    ord("a"): lambda m: m._append(),
    ord("e"): lambda m: m._appends(),
    ord("}"): lambda m: m._stack.append({}),
    ord("s"): lambda m: m._set_item(),
    ord("u"): lambda m: m._set_items(m._pop_to_mark()),
    ord("q"): lambda m: m._put(m._number("<B")),
    ord("r"): lambda m: m._put(m._number("<I")),
    0x94: lambda m: m._put(len(m._memo)),  # MEMOIZE
    ord("h"): lambda m: m._get(m._number("<B")),
    ord("j"): lambda m: m._get(m._number("<I")),
    ord("c"): PickleMachine._global,
    0x93: PickleMachine._stack_global,
    ord("R"): PickleMachine._reduce,
    ord("b"): PickleMachine._build,
    ord("Q"): PickleMachine._persistent_id,
}
